//! One conversation that goes on and on: what the next turn costs must not depend on how many came before.

use std::time::Instant;

use futures::FutureExt;
use serde_json::json;

use super::{Scenario, Stretch, stretches_growth, stretches_table};
use crate::{
    Result,
    bench::{
        Figures, Options,
        costs::Reading,
        rig::{AGENT, CALLS, Rig, Setup},
        settled::Ended,
        stats::{mean, percentile},
        stream::EventStream,
    },
};

pub const SCENARIO: Scenario = Scenario {
    name: "long-session",
    about: "many turns in one session, each a run with a tool call: latency and CPU of a turn, by stretches of the session",
    size: Some(("turns", 500, 2_000)),
    distributed_only: false,
    measure: |options| measure(options).boxed_local(),
};

const STRETCHES: u64 = 10;

async fn measure(options: &Options) -> Result<Figures> {
    let mut figures = Figures::default();
    let turns = SCENARIO.size(options);
    let mut rig = Rig::start(options, Setup::default()).await?;
    let watched = rig.watched();
    let session = rig.stack.api().post("/v1/sessions", &json!({})).await.expect(201);
    let length = (turns / STRETCHES).max(1);
    let (mut stretches, mut latencies, mut all) = (vec![], vec![], vec![]);
    let mut before = Reading::take(&watched);
    for turn in 1..=turns {
        let task = json!({
            "agent": AGENT, "input": format!("turn {turn}"), "session_id": session["id"], "stream": true
        });
        let began = Instant::now();
        let end = EventStream::post(&rig.address(), &task).await?.end().await?;
        latencies.push(began.elapsed().as_secs_f64() * 1e3);
        figures.require(end == "run.completed", format!("turn {turn} ended with {end:?}"));
        if turn % length == 0 {
            let now = Reading::take(&watched);
            stretches.push(Stretch {
                upto: turn,
                ms: mean(&latencies),
                cpu_ms: now.cpu_ms_since(&before).iter().map(|ms| ms / length as f64).collect(),
            });
            all.append(&mut latencies);
            before = Reading::take(&watched);
        }
    }
    all.append(&mut latencies);
    let title = format!("long-session: {turns} turns of two model calls and a tool call each");
    figures
        .tables
        .push(stretches_table(&title, "turn", &watched, &stretches));
    stretches_growth(&mut figures, SCENARIO.name, "turn", &watched, &stretches);
    figures.note(format!(
        "all turns: p50 {:.1} ms, p99 {:.1} ms; the agent shows the model the last 50 turns (history_turns_max), so \
         what is sent to it grows up to there",
        percentile(&all, 50.0),
        percentile(&all, 99.0)
    ));
    figures.settings = rig.settings.clone();
    rig.settle(&Ended::completed(turns, CALLS), &mut figures).await;
    Ok(figures)
}
