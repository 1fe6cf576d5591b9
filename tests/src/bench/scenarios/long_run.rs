//! One run that goes on and on: what its next step costs must not depend on how many came before.

use futures::FutureExt;
use serde_json::json;

use super::{Scenario, Stretch, stretches_growth, stretches_table};
use crate::{
    Result,
    bench::{
        Figures, Options,
        costs::Reading,
        rig::{AGENT, Rig, Setup},
        settled::Ended,
        stats::median,
        stream::EventStream,
    },
};

pub const SCENARIO: Scenario = Scenario {
    name: "long-run",
    about: "one run of many steps, alone: latency and CPU of a step, by stretches of the run",
    size: Some(("steps", 500, STEPS_MAX - SPARE_STEPS)),
    distributed_only: false,
    measure: |options| measure(options).boxed_local(),
};

/// Runs one after the other: of each stretch the median counts.
const ROUNDS: usize = 5;
/// A run is cut into so many stretches; people are shown every fifth.
const STRETCHES: u64 = 50;
const SHOWN_EVERY: usize = 5;
/// Steps the agent may take beyond those that are ordered.
const SPARE_STEPS: u64 = 10;
/// More are granted to no agent (`limits.steps_max`).
const STEPS_MAX: u64 = 1_000;

async fn measure(options: &Options) -> Result<Figures> {
    let mut figures = Figures::default();
    let steps = SCENARIO.size(options);
    if steps + SPARE_STEPS > STEPS_MAX {
        let most = STEPS_MAX - SPARE_STEPS;
        return Err(format!("--size {steps}: a run of this bench takes {most} steps at most").into());
    }
    let setup = Setup {
        steps_max: steps + SPARE_STEPS,
        ..Setup::default()
    };
    let mut rig = Rig::start(options, setup).await?;
    let watched = rig.watched();
    let mut rounds = vec![];
    for _ in 0..ROUNDS {
        rounds.push(one(&rig, steps, &mut figures).await?);
    }
    let stretches = medians(&rounds);
    let title = format!("long-run: {steps} steps, medians of {ROUNDS} runs");
    let table = stretches_table(&title, "step", &watched, &stretches);
    figures.tables.push(table.shown_every(SHOWN_EVERY));
    stretches_growth(&mut figures, SCENARIO.name, "step", &watched, &stretches);
    figures.note(
        "the interface of models has no memory: every step sends the whole run to the model, so its bytes grow with \
         the step's number whatever a backend does; the model's own CPU shows how much",
    );
    figures.settings = rig.settings.clone();
    rig.settle(&Ended::completed(ROUNDS as u64, steps), &mut figures).await;
    Ok(figures)
}

async fn one(rig: &Rig, steps: u64, figures: &mut Figures) -> Result<Vec<Stretch>> {
    let watched = rig.watched();
    let length = (steps / STRETCHES).max(1);
    let order = format!("go on [[loop:{}]]", steps.saturating_sub(1));
    let task = json!({"agent": AGENT, "input": order, "stream": true});
    let (mut stretches, mut taken, mut last) = (vec![], 0, String::new());
    let mut before = Reading::take(&watched);
    let mut stream = EventStream::post(&rig.address(), &task).await?;
    while let Some(line) = stream.line().await? {
        let Some(name) = line.strip_prefix("event: ") else {
            continue;
        };
        name.clone_into(&mut last);
        if name != "model.replied" {
            continue;
        }
        taken += 1;
        if taken % length == 0 {
            let now = Reading::take(&watched);
            let each = length as f64;
            stretches.push(Stretch {
                upto: taken,
                ms: now.seconds_since(&before) * 1e3 / each,
                cpu_ms: now.cpu_ms_since(&before).iter().map(|ms| ms / each).collect(),
            });
            before = now;
        }
    }
    figures.require(
        last == "run.completed" && taken == steps,
        format!("a run of {steps} steps took {taken} and ended with {last:?}"),
    );
    Ok(stretches)
}

/// Of each stretch over all rounds.
fn medians(rounds: &[Vec<Stretch>]) -> Vec<Stretch> {
    let stretches = rounds.iter().map(Vec::len).min().unwrap_or(0);
    let at = |at: usize| {
        let those: Vec<&Stretch> = rounds.iter().map(|round| &round[at]).collect();
        let of = |cost: &dyn Fn(&Stretch) -> f64| median(&those.iter().map(|one| cost(one)).collect::<Vec<_>>());
        Stretch {
            upto: those[0].upto,
            ms: of(&|one| one.ms),
            cpu_ms: (0..those[0].cpu_ms.len()).map(|n| of(&|one| one.cpu_ms[n])).collect(),
        }
    };
    (0..stretches).map(at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_each_stretch_the_median_counts() {
        let round = |ms: f64| {
            let stretch = |upto| Stretch {
                upto,
                ms: ms * upto as f64,
                cpu_ms: vec![ms],
            };
            vec![stretch(10), stretch(20)]
        };
        let all = medians(&[round(1.0), round(90.0), round(2.0)]);
        assert_eq!((all[1].upto, all[1].ms, all[1].cpu_ms[0]), (20, 40.0, 2.0));
        assert!(medians(&[]).is_empty());
    }
}
