//! What a check found.

use std::{collections::BTreeSet, fmt};

use serde::Serialize;
use steadfast::run::RunId;

/// Violations a report lists; the rest is counted.
pub const VIOLATIONS_SHOWN_MAX: usize = 100;
/// Characters of an expected or found value that are shown.
const VALUE_CHARS_MAX: usize = 300;

/// One broken promise.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Violation {
    /// `I1` … as docs/reliability/invariants.md numbers them.
    pub invariant: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_id: Option<RunId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// Which thing is wrong.
    pub what: String,
    pub expected: String,
    pub found: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.invariant)?;
        if let Some(run_id) = self.run_id {
            write!(f, " {run_id}")?;
        }
        if let Some(version) = self.version {
            write!(f, " version {version}")?;
        }
        write!(f, ": {}: expected {}, found {}", self.what, self.expected, self.found)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CheckReport {
    /// Nothing that was checked is wrong.
    pub ok: bool,
    pub runs: u64,
    /// Runs that have not ended.
    pub open_runs: u64,
    pub events: u64,
    pub blobs: u64,
    /// Rows of read models compared with the log.
    pub rows: u64,
    pub violations_total: u64,
    /// The first of them.
    pub violations: Vec<Violation>,
    pub not_checked: Vec<String>,
}

/// A report in the making.
#[derive(Debug, Default)]
pub struct Findings {
    pub runs: u64,
    pub open_runs: u64,
    pub events: u64,
    pub blobs: u64,
    pub rows: u64,
    pub not_checked: BTreeSet<String>,
    /// A newer build has written to some of the runs.
    pub left_to_newer: bool,
    violations_total: u64,
    violations: Vec<Violation>,
}

/// The place a violation is about.
#[derive(Debug, Clone, Copy, Default)]
pub struct Subject {
    pub run_id: Option<RunId>,
    pub version: Option<u64>,
}

impl Subject {
    pub fn run(run_id: RunId) -> Self {
        Self {
            run_id: Some(run_id),
            version: None,
        }
    }

    pub fn event(run_id: RunId, version: u64) -> Self {
        Self {
            run_id: Some(run_id),
            version: Some(version),
        }
    }
}

impl Findings {
    pub fn is_clean(&self) -> bool {
        self.violations_total == 0
    }

    pub fn violation(
        &mut self,
        invariant: &'static str,
        subject: Subject,
        what: impl Into<String>,
        expected: impl fmt::Display,
        found: impl fmt::Display,
    ) {
        self.violations_total += 1;
        if self.violations.len() < VIOLATIONS_SHOWN_MAX {
            let Subject { run_id, version } = subject;
            let (expected, found) = (shown(expected), shown(found));
            self.violations.push(Violation {
                invariant,
                run_id,
                version,
                what: what.into(),
                expected,
                found,
            });
        }
    }

    /// A violation unless the two are the same.
    pub fn same<T: PartialEq + fmt::Display>(
        &mut self,
        invariant: &'static str,
        subject: Subject,
        what: &str,
        expected: T,
        found: T,
    ) {
        if expected != found {
            self.violation(invariant, subject, what, expected, found);
        }
    }

    pub fn merge(&mut self, other: Self) {
        self.runs += other.runs;
        self.open_runs += other.open_runs;
        self.events += other.events;
        self.blobs += other.blobs;
        self.rows += other.rows;
        self.not_checked.extend(other.not_checked);
        self.left_to_newer |= other.left_to_newer;
        self.violations_total += other.violations_total;
        let room = VIOLATIONS_SHOWN_MAX - self.violations.len();
        self.violations.extend(other.violations.into_iter().take(room));
    }

    pub fn into_report(self) -> CheckReport {
        CheckReport {
            ok: self.violations_total == 0,
            runs: self.runs,
            open_runs: self.open_runs,
            events: self.events,
            blobs: self.blobs,
            rows: self.rows,
            violations_total: self.violations_total,
            violations: self.violations,
            not_checked: self.not_checked.into_iter().collect(),
        }
    }
}

fn shown(value: impl fmt::Display) -> String {
    let text = value.to_string();
    match text.char_indices().nth(VALUE_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
