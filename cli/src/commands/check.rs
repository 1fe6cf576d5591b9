//! `steadfast check`: does the database keep its promises?

use std::{
    io::{IsTerminal, Write},
    process::ExitCode,
    time::Duration,
};

use steadfast_projections::{CheckReport, Options};

use super::{close, open, yes_or_no};
use crate::{args, config::Settings, error::Failure, output};

/// What the read models of a system at rest get to reach the end of the log.
const CATCH_UP: Duration = Duration::from_secs(10);
/// How often progress is shown, in runs.
const PROGRESS_RUNS: u64 = 1_000;

pub async fn check(settings: &Settings, args: args::Check) -> Result<ExitCode, Failure> {
    let store = open(settings, &args.database).await?;
    let progress = |runs: u64| {
        let mut stderr = std::io::stderr();
        if stderr.is_terminal() && runs >= PROGRESS_RUNS {
            let _ = write!(stderr, "\r{runs} runs checked ");
            let _ = stderr.flush();
        }
    };
    let options = Options {
        settled: args.settled.then_some(CATCH_UP),
        progress: Some(&progress),
    };
    let report = steadfast_projections::check(&store.db, &store.reader, options).await;
    close(&store.db).await;
    let report = report?;
    if args.json {
        output::json(&report)?
    } else {
        output::write(&in_words(&report))?
    }
    Ok(yes_or_no(report.ok))
}

fn in_words(report: &CheckReport) -> String {
    let CheckReport {
        runs,
        open_runs,
        events,
        blobs,
        rows,
        violations_total,
        ..
    } = report;
    let mut text =
        format!("{runs} runs ({open_runs} open), {events} events, {blobs} blobs, {rows} rows of read models\n");
    if report.ok {
        text += "ok: every promise that was checked is kept\n";
    } else {
        text += &format!("{violations_total} violations\n");
        for violation in &report.violations {
            text += &format!("  {}\n", output::clean(&violation.to_string()).replace('\n', " "));
        }
        let shown = report.violations.len() as u64;
        if *violations_total > shown {
            text += &format!("  … and {} more\n", violations_total - shown);
        }
    }
    text += "not checked (docs/reliability/invariants.md says what I1 to I18 are):\n";
    for item in &report.not_checked {
        text += &format!("  {item}\n");
    }
    text
}
