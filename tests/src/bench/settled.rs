//! Whether the log holds the runs of a scenario, no more and no less, each ended as it had to, once all is over.
//!
//! `steadfast check` is the measured build's own word for its promises. This asks the database and the model themselves:
//! a build that ends runs as failed, forgets one that it accepted or spares a model call is fast for a bad reason.

use std::{
    collections::BTreeMap,
    ops::{Add, AddAssign},
};

use super::rig::Rig;
use crate::Result;

const STATUSES: &str = "select status, count(*) from runs group by status";

/// What must have come of the runs of a scenario: as its clients saw it, or of all that was accepted where none looked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ended {
    completed: u64,
    cancelled: u64,
    /// Calls of the model that these runs take.
    calls: u64,
}

/// What is there to be compared with it.
#[derive(Debug)]
pub struct Found {
    /// Runs in the log, by status.
    pub runs: BTreeMap<String, u64>,
    /// Requests to the model since its start.
    pub calls: u64,
}

impl Ended {
    /// Runs of so many model calls each.
    pub fn completed(runs: u64, calls: u64) -> Self {
        Self {
            completed: runs,
            cancelled: 0,
            calls: runs * calls,
        }
    }

    /// Likewise.
    pub fn cancelled(runs: u64, calls: u64) -> Self {
        Self {
            completed: 0,
            cancelled: runs,
            calls: runs * calls,
        }
    }

    /// What differs from it. More model calls than needed are none: a call may be made again.
    pub fn faults(&self, found: &Found) -> Vec<String> {
        let due = [("completed", self.completed), ("cancelled", self.cancelled)];
        let due: BTreeMap<&str, u64> = due.into_iter().filter(|(_, runs)| *runs > 0).collect();
        let there: BTreeMap<&str, u64> = found.runs.iter().map(|(status, runs)| (&**status, *runs)).collect();
        let mut faults = vec![];
        if due != there {
            faults.push(format!(
                "there should be {}, and the log holds {}",
                list(&due),
                list(&there)
            ));
        }
        if found.calls < self.calls {
            let Self { calls, .. } = self;
            faults.push(format!(
                "these runs take {calls} model calls, and the model was asked {} times",
                found.calls
            ));
        }
        faults
    }

    /// Model calls beyond those that the runs take.
    pub fn calls_again(&self, found: &Found) -> u64 {
        found.calls.saturating_sub(self.calls)
    }
}

impl Add for Ended {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            completed: self.completed + other.completed,
            cancelled: self.cancelled + other.cancelled,
            calls: self.calls + other.calls,
        }
    }
}

impl AddAssign for Ended {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

fn list(runs: &BTreeMap<&str, u64>) -> String {
    let all: Vec<String> = runs.iter().map(|(status, runs)| format!("{runs} {status}")).collect();
    if all.is_empty() {
        return "no run".into();
    }
    all.join(", ")
}

impl Rig {
    pub async fn found(&self) -> Result<Found> {
        let runs: Vec<(String, i64)> = self.rows(STATUSES).await?;
        Ok(Found {
            runs: runs
                .into_iter()
                .map(|(status, runs)| (status, runs.unsigned_abs()))
                .collect(),
            calls: self.calls().await?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(runs: &[(&str, u64)], calls: u64) -> Found {
        Found {
            runs: runs.iter().map(|(status, runs)| ((*status).into(), *runs)).collect(),
            calls,
        }
    }

    #[test]
    fn the_log_holds_the_runs_of_the_scenario_and_nothing_else() {
        let mut due = Ended::completed(100, 2);
        due += Ended::cancelled(5, 1);
        assert!(
            due.faults(&found(&[("completed", 100), ("cancelled", 5)], 205))
                .is_empty()
        );
        let others: [&[(&str, u64)]; 4] = [
            &[("completed", 99), ("cancelled", 5)],
            &[("completed", 99), ("failed", 1), ("cancelled", 5)],
            &[("completed", 100), ("cancelled", 5), ("failed", 1)],
            &[],
        ];
        for runs in others {
            let faults = due.faults(&found(runs, 205));
            assert!(faults.len() == 1 && faults[0].contains("100 completed"), "{faults:?}");
        }
        assert!(Ended::default().faults(&found(&[], 0)).is_empty());
    }

    #[test]
    fn a_spared_model_call_is_a_fault_and_one_made_again_is_not() {
        let due = Ended::completed(10, 2);
        let there = [("completed", 10)];
        assert_eq!(due.faults(&found(&there, 19)).len(), 1);
        let again = found(&there, 23);
        assert!(due.faults(&again).is_empty());
        assert_eq!(due.calls_again(&again), 3);
    }
}
