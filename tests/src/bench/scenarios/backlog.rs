//! Runs that were accepted while no worker was there: how fast one worker gets through them.

use std::time::{Duration, Instant};

use futures::FutureExt;
use serde_json::json;

use super::{Scenario, growth_of};
use crate::{
    Result,
    bench::{
        Figures, Options,
        costs::Reading,
        figures::{Table, count, number},
        posts,
        rig::{AGENT, CALLS, Rig, Setup, TASK},
        settled::Ended,
    },
};

pub const SCENARIO: Scenario = Scenario {
    name: "backlog",
    about: "runs accepted while no worker is up, then one worker: how fast they are accepted, and how fast they end",
    size: Some(("runs", 20_000, 100_000)),
    distributed_only: true,
    measure: |options| measure(options).boxed_local(),
};

/// The backlog is cut into so many parts, each with figures of its own.
const PARTS: u64 = 10;
const LOOK: Duration = Duration::from_millis(100);
/// Without a run that completed.
const STANDSTILL_MAX: Duration = Duration::from_secs(60);

async fn measure(options: &Options) -> Result<Figures> {
    let mut figures = Figures::default();
    let runs = SCENARIO.size(options);
    let mut rig = Rig::start(options, Setup::default()).await?;
    rig.stack.workers.iter_mut().for_each(|worker| worker.sigterm());
    for worker in &mut rig.stack.workers {
        worker.wait_exit(Duration::from_secs(30)).await;
        worker.kill9();
    }
    println!("backlog: posting {runs} runs while no worker is up");
    let begun = Instant::now();
    let task = json!({"agent": AGENT, "input": TASK});
    posts::tasks(&rig.stack.gateways[0].url(), &task, runs).await?;
    let accepted = runs as f64 / begun.elapsed().as_secs_f64();
    figures.note(format!(
        "accepted {accepted:.0} runs a second from 64 clients, with nobody to execute them"
    ));

    println!("backlog: one worker drains it");
    let begun = Instant::now();
    // Measured from here: a worker may execute long before it says that it is ready.
    rig.stack.workers[0].launch();
    let watched = rig.ours();
    let mut columns = vec!["ended".to_owned(), "runs_per_second".into(), "cpu_ms_per_run".into()];
    columns.extend(watched.iter().map(|process| format!("{}_cpu_ms", process.name)));
    let mut table = Table::new(format!("backlog: {runs} queued runs, drained by one worker"), columns);
    let (mut before, mut ended_before) = (Reading::take(&watched), 0);
    let (mut seen, mut moved) = (0, Instant::now());
    let (mut first, mut points) = (None, vec![]);
    let mut next = runs.div_ceil(PARTS);
    while ended_before < runs {
        tokio::time::sleep(LOOK).await;
        let ended = ended(&rig).await;
        if ended > seen {
            (seen, moved) = (ended, Instant::now());
        }
        if ended > ended_before && first.is_none() {
            first = Some(begun.elapsed());
        }
        if ended >= next.min(runs) && ended > ended_before {
            let now = Reading::take(&watched);
            let (each, cpu) = ((ended - ended_before) as f64, now.cpu_ms_since(&before));
            let seconds = now.seconds_since(&before);
            let mut cells = vec![count(ended), number(each / seconds, 0)];
            cells.push(number(cpu.iter().sum::<f64>() / each, 3));
            cells.extend(cpu.iter().map(|ms| number(ms / each, 3)));
            table.row(cells);
            points.push((ended as f64, cpu.iter().sum::<f64>() / each));
            (before, ended_before) = (now, ended);
            next = ended + runs.div_ceil(PARTS);
        } else if moved.elapsed() > STANDSTILL_MAX {
            break;
        }
    }
    let took = begun.elapsed();
    figures.tables.push(table);
    figures.require(seen == runs, format!("{seen} of {runs} accepted runs completed"));
    if let Some(first) = first {
        figures.note(format!(
            "{seen} completed within {:.1} s of the worker's start: {:.0} runs a second; the first after {:.0} ms",
            took.as_secs_f64(),
            seen as f64 / took.as_secs_f64(),
            first.as_secs_f64() * 1e3
        ));
    }
    growth_of(&mut figures, SCENARIO.name, "CPU of a run, ms", "runs ended", points);
    figures.settings = rig.settings.clone();
    rig.settle(&Ended::completed(runs, CALLS), &mut figures).await;
    Ok(figures)
}

/// Completed, by the worker's own count: asking the database would cost what is measured.
async fn ended(rig: &Rig) -> u64 {
    rig.completed().await.unwrap_or_default() as u64
}
