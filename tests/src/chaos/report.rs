//! One table about all scenarios.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    time::Duration,
};

use crate::system::Settled;

use super::Case;

/// Of each scenario.
const VIOLATIONS_SHOWN: usize = 10;

pub struct Report {
    seed: u64,
    time: Option<Duration>,
    strict: bool,
    took: Duration,
    rows: Vec<Row>,
}

/// All rounds of one scenario.
#[derive(Default)]
struct Row {
    name: &'static str,
    rounds: u64,
    faults: u64,
    settled: Settled,
    extra_deliveries: Option<f64>,
    required: u64,
    violations: Vec<String>,
    notes: Vec<String>,
    /// In every round.
    checked: BTreeSet<u8>,
    verdicts: BTreeSet<&'static str>,
}

impl Report {
    pub(super) fn new(seed: u64, time: Option<Duration>, strict: bool) -> Self {
        Self {
            seed,
            time,
            strict,
            took: Duration::ZERO,
            rows: vec![],
        }
    }

    pub(super) fn add(&mut self, case: Case, took: Duration) {
        self.took = took;
        if !self.rows.iter().any(|row| row.name == case.name) {
            self.rows.push(Row {
                name: case.name,
                ..Row::default()
            });
        }
        if let Some(row) = self.rows.iter_mut().find(|row| row.name == case.name) {
            row.add(case);
        }
    }

    pub fn ok(&self) -> bool {
        self.rows.iter().all(|row| row.violations.is_empty())
    }

    /// For people and for files: a table in Markdown, aligned, and what does not fit into it.
    pub fn markdown(&self) -> String {
        let heads = [
            "scenario",
            "rounds",
            "faults",
            "accepted",
            "lost",
            "doubled",
            "calls repeated / allowed",
            "orphaned",
            "extra deliveries",
            "takeovers",
            "p99 / max ms",
            "checked",
            "verdict",
        ];
        let mut table = vec![heads.map(String::from)];
        table.extend(self.rows.iter().map(Row::cells));
        let widths: Vec<usize> = (0..heads.len())
            .map(|column| table.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
            .collect();
        let line = |cells: &[String]| {
            let cells = cells.iter().zip(&widths);
            let cells: Vec<String> = cells.map(|(cell, width)| format!("{cell:<width$}")).collect();
            format!("| {} |\n", cells.join(" | "))
        };
        let form = match self.time {
            Some(time) => format!("long form, {} minutes asked for", time.as_secs() / 60),
            None => "short form".into(),
        };
        let strict = if self.strict { ", promised times too" } else { "" };
        let mut text = format!(
            "Chaos, {form}{strict}, {:.0} s, seed {}.\n\n",
            self.took.as_secs_f64(),
            self.seed
        );
        for (at, row) in table.iter().enumerate() {
            text += &line(row);
            if at == 0 {
                let rules: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
                text += &line(&rules);
            }
        }
        // What went wrong comes last: the end of a long output is what people see.
        let (kept, broken): (Vec<_>, Vec<_>) = self.rows.iter().partition(|row| row.violations.is_empty());
        for row in kept.into_iter().chain(broken) {
            for (note, times) in counted(&row.notes) {
                let _ = write!(text, "\n- {}: {note}{times}", row.name);
            }
            let violations = counted(&row.violations);
            for (violation, times) in violations.iter().take(VIOLATIONS_SHOWN) {
                let _ = write!(text, "\n- {}: VIOLATED {violation}{times}", row.name);
            }
            let more = violations.len().saturating_sub(VIOLATIONS_SHOWN);
            if more > 0 {
                let _ = write!(text, "\n- {}: VIOLATED {more} more", row.name);
            }
        }
        text + "\n"
    }
}

/// Each line once, and how often it was said.
fn counted(lines: &[String]) -> Vec<(&str, String)> {
    let mut times: BTreeMap<&str, u64> = BTreeMap::new();
    lines.iter().for_each(|line| *times.entry(line).or_default() += 1);
    let said = |times| {
        if times > 1 {
            format!(" ({times} times)")
        } else {
            String::new()
        }
    };
    times.into_iter().map(|(line, times)| (line, said(times))).collect()
}

/// `I1–I4, I14`
fn ranges(numbers: &BTreeSet<u8>) -> String {
    let mut ranges: Vec<(u8, u8)> = vec![];
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => ranges.push((*number, *number)),
        }
    }
    let said = ranges.iter().map(|(first, last)| match last - first {
        0 => format!("I{first}"),
        _ => format!("I{first}–I{last}"),
    });
    let said: Vec<String> = said.collect();
    if said.is_empty() {
        return "none by number".into();
    }
    said.join(", ")
}

impl Row {
    fn add(&mut self, mut case: Case) {
        self.verdicts.insert(case.verdict());
        self.checked = match self.rounds {
            0 => case.checked,
            _ => self.checked.intersection(&case.checked).copied().collect(),
        };
        self.rounds += 1;
        self.faults += case.faults;
        self.required += case.required;
        self.violations.append(&mut case.violations);
        self.notes.append(&mut case.notes);
        // The worst of the rounds.
        let shares = [self.extra_deliveries, case.extra_deliveries];
        self.extra_deliveries = shares.into_iter().flatten().reduce(f64::max);
        let (all, new) = (&mut self.settled, case.settled);
        all.accepted += new.accepted;
        all.lost += new.lost;
        all.doubled += new.doubled;
        all.repeated += new.repeated;
        all.orphaned += new.orphaned;
        all.excused += new.excused;
        all.takeovers_ms.extend(new.takeovers_ms);
    }

    fn cells(&self) -> [String; 13] {
        let Settled {
            accepted,
            lost,
            doubled,
            repeated,
            orphaned,
            takeovers_ms,
            ..
        } = &self.settled;
        let unknown = || "–".to_owned();
        let takeover = |share| {
            self.settled
                .takeover_ms(share)
                .map_or_else(unknown, |ms| ms.to_string())
        };
        [
            self.name.into(),
            self.rounds.to_string(),
            self.faults.to_string(),
            accepted.to_string(),
            lost.to_string(),
            doubled.to_string(),
            // Each repetition needs an orphaned call in the log; the scenarios say which of those are excused.
            format!("{repeated} / {orphaned}"),
            orphaned.to_string(),
            self.extra_deliveries
                .map_or_else(unknown, |share| format!("{share:.1} %")),
            takeovers_ms.len().to_string(),
            format!("{} / {}", takeover(0.99), takeover(1.0)),
            format!("{}, {} more", ranges(&self.checked), self.required),
            self.verdicts.iter().copied().collect::<Vec<_>>().join(", "),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn played(change: impl Fn(&mut Case)) -> Report {
        let mut report = Report::new(1, None, false);
        let mut case = Case::new("a-scenario", false, false, 1);
        change(&mut case);
        report.add(case, Duration::ZERO);
        report
    }

    #[test]
    fn a_row_names_the_invariants_that_were_looked_at_and_no_other() {
        assert_eq!(ranges(&BTreeSet::from([1, 2, 3, 5, 14])), "I1–I3, I5, I14");
        let text = played(|case| case.checked.extend([2, 4])).markdown();
        assert!(text.contains("| I2, I4, 0 more "), "{text}");
    }

    #[test]
    fn a_scenario_that_was_not_played_is_not_ok_by_its_row() {
        let text = played(|case| case.not_played("no disk")).markdown();
        assert!(text.contains("| not played |") && !text.contains("| ok "), "{text}");
    }

    #[test]
    fn one_round_that_failed_is_in_the_verdict() {
        let mut report = played(|_| {});
        let mut case = Case::new("a-scenario", false, false, 2);
        case.require(false, "something");
        report.add(case, Duration::ZERO);
        assert!(!report.ok() && report.markdown().contains("| FAILED, ok |"));
    }
}
