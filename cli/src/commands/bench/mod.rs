//! `steadfast bench`: a light closed loop of clients against a running Steadfast.
//!
//! It measures from outside: a run counts when its stream has ended with `run.completed`. What it cannot see: the wait
//! of clients that an open system would have had at the same time, and the cost of a network in between.

mod load;
mod procs;

use std::{process::ExitCode, sync::Arc, time::Duration};

use serde::Serialize;
use serde_json::json;

use super::yes_or_no;
use crate::{
    args,
    client::{Client, follow},
    config::Settings,
    edge,
    error::Failure,
    output::{self, note, table},
};
use load::{Level, Seen, Target};
use procs::Process;

/// Connections, caches and read models settle before anything counts.
const WARM_UP: Duration = Duration::from_secs(2);

/// One row of the table.
#[derive(Debug, Serialize)]
struct Row {
    clients: u32,
    /// Ended in the measured time.
    runs: usize,
    /// Ended at all, before and after it too.
    completed: usize,
    /// Whenever they were posted.
    errors: usize,
    runs_per_second: f64,
    first_event_ms_p50: f64,
    first_event_ms_p99: f64,
    final_ms_p50: f64,
    final_ms_p99: f64,
    processes: Vec<Cost>,
}

#[derive(Debug, Serialize)]
struct Cost {
    name: String,
    cpu_ms_per_run: f64,
    resident_mib: f64,
}

pub async fn bench(settings: &Settings, args: args::Bench) -> Result<ExitCode, Failure> {
    let server = settings.client(args.server.url.as_deref(), args.server.api_key.as_deref());
    let processes = args
        .pids
        .iter()
        .map(|pair| Process::parse(pair))
        .collect::<Result<Vec<_>, _>>()?;
    let mut task = json!({"input": args.task, "stream": true});
    if let Some(agent) = args.agent {
        task["agent"] = agent.into();
    }
    try_one(
        &Client::new(settings.client(args.server.url.as_deref(), args.server.api_key.as_deref()))?,
        &task,
    )
    .await?;
    let target = Arc::new(Target::new(&server, task)?);

    let mut rows = Vec::new();
    for clients in args.c {
        note(&format!(
            "{clients} clients: {} s to warm up, {} s measured",
            WARM_UP.as_secs(),
            args.seconds
        ));
        let window = Duration::from_secs(args.seconds);
        rows.push(row(load::run(&target, clients, WARM_UP, window, &processes).await?));
    }
    if args.json {
        output::json(&rows)?
    } else {
        output::write(&in_words(&rows))?
    }
    Ok(yes_or_no(rows.iter().all(|row| row.errors == 0 && row.runs > 0)))
}

/// What would go wrong a thousand times is said once, in full.
async fn try_one(client: &Client, task: &serde_json::Value) -> Result<(), Failure> {
    let start = follow::Start::Task {
        body: task,
        idempotency_key: format!("bench-{}", edge::new_id()),
    };
    let mut completed = false;
    follow::follow(client, start, |update| {
        if let follow::Update::Frame(frame) = update {
            completed = frame.kind == "run.completed";
        }
        Ok(())
    })
    .await?;
    if completed {
        return Ok(());
    }
    Err(Failure::new(
        "the task does not complete, so there is nothing to measure; see `steadfast runs list`",
    ))
}

fn row(level: Level) -> Row {
    let Level {
        clients,
        window,
        seen,
        costs,
    } = level;
    let Seen {
        mut first_ms,
        mut final_ms,
        completed_in_window,
        completed,
        errors,
    } = seen;
    first_ms.sort_by(f64::total_cmp);
    final_ms.sort_by(f64::total_cmp);
    let runs = completed_in_window.max(1) as f64;
    let costs = costs.into_iter().map(|(name, cpu, resident)| Cost {
        name,
        cpu_ms_per_run: cpu.as_secs_f64() * 1e3 / runs,
        resident_mib: resident as f64 / (1024.0 * 1024.0),
    });
    Row {
        clients,
        runs: completed_in_window,
        completed,
        errors,
        runs_per_second: completed_in_window as f64 / window.as_secs_f64(),
        first_event_ms_p50: percentile(&first_ms, 50),
        first_event_ms_p99: percentile(&first_ms, 99),
        final_ms_p50: percentile(&final_ms, 50),
        final_ms_p99: percentile(&final_ms, 99),
        processes: costs.collect(),
    }
}

/// By nearest rank.
fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

fn in_words(rows: &[Row]) -> String {
    let cells = |row: &Row| {
        let mut cells = vec![row.clients.to_string(), row.runs.to_string(), row.errors.to_string()];
        cells.push(format!("{:.0}", row.runs_per_second));
        let latencies = [
            row.first_event_ms_p50,
            row.first_event_ms_p99,
            row.final_ms_p50,
            row.final_ms_p99,
        ];
        cells.extend(latencies.map(|ms| format!("{ms:.1}")));
        let cost = |cost: &Cost| {
            format!(
                "{} {:.2} ms {:.0} MiB",
                cost.name, cost.cpu_ms_per_run, cost.resident_mib
            )
        };
        cells.push(row.processes.iter().map(cost).collect::<Vec<_>>().join(", "));
        cells
    };
    let headings = [
        "c",
        "runs",
        "errors",
        "runs/s",
        "first p50",
        "p99 ms",
        "final p50",
        "p99 ms",
        "CPU a run, resident",
    ];
    table(&headings, &rows.iter().map(cells).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let sorted: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!((percentile(&sorted, 50), percentile(&sorted, 99)), (100.0, 198.0));
        assert_eq!(percentile(&[7.0], 99), 7.0);
        assert!(percentile(&[], 50).is_nan());
    }
}
