//! Does this database keep the promises? Reads the whole log and everything kept beside it; changes nothing.
//!
//! Runs are taken in the order of their ids, a page at a time, each page under one snapshot, so the check may run
//! beside a working system: a page with a finding is read a second time, and only what is still wrong counts.
//! Read models are compared with a fold of the log up to the place their checkpoint names.

mod conversation;
mod models;
mod report;
mod run;
mod scan;

use std::time::Duration;

use steadfast::store::{Db, Error, Reader};

use report::Findings;
pub use report::{CheckReport, VIOLATIONS_SHOWN_MAX, Violation};

/// What no look at the database alone can tell.
const NOT_CHECKED: [&str; 5] = [
    "I2, I3, I10, and of I6 and I7 what was really sent: they compare the log with what clients and model servers saw",
    "I5 for events other than claims: an event does not carry the epoch it was written under",
    "I8 across runs, and a budget's wall time: events do not say how long a run had taken",
    "I14 for a run whose head and events were deleted together: only an anchored copy of the heads shows it",
    "I12, I15, I17, I18, and of I13 and I16 what is not in the rows: promises about behaviour, not about data",
];

#[derive(Default)]
pub struct Options<'a> {
    /// The system is at rest: no run may be open, and the read models reach the end of the log within this time.
    pub settled: Option<Duration>,
    /// Hears how many runs have been checked.
    pub progress: Option<&'a (dyn Fn(u64) + Sync)>,
}

/// Checks everything there is. An error means that the check could not be done, not that it failed.
pub async fn check(db: &Db, reader: &Reader, options: Options<'_>) -> Result<CheckReport, Error> {
    let mut findings = Findings::default();
    findings.not_checked.extend(NOT_CHECKED.map(String::from));
    if let Some(patience) = options.settled {
        models::caught_up(db, reader, patience, &mut findings).await?;
    }
    let mut totals = models::UsageCheck::begin(db, &mut findings).await?;
    let mut place = Some(scan::Place::default());
    while let Some(from) = place {
        let mut page = scan::page(db, reader, &options, &from, &totals).await?;
        if !page.findings.is_clean() {
            page = scan::page(db, reader, &options, &from, &totals).await?;
        }
        findings.merge(page.findings);
        totals.merge(page.usage);
        place = page.next;
        if let Some(progress) = options.progress {
            progress(findings.runs);
        }
    }
    totals.finish(db, reader, &mut findings).await?;
    models::strays(db, &mut findings).await?;
    conversation::sessions(db, &mut findings).await?;
    Ok(findings.into_report())
}
