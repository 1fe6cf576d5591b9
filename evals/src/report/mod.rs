//! What came out of an evaluation.

mod junit;
mod summary;
#[cfg(test)]
mod tests;

use chrono::{DateTime, Utc};
use serde::Serialize;
use steadfast::run::{Status, Usage};

use crate::{Dataset, score::Score, score::trajectory::CalledTool};

/// Guards `passed / items >= threshold` against the last bit of a float: 0.7 of 10 items is 7.
const SHARE_SLACK: f64 = 1e-9;

#[derive(Debug, Clone, Serialize)]
pub struct Report {
    object: &'static str,
    pub name: String,
    pub dataset_sha256: String,
    pub agent: String,
    pub started_at: DateTime<Utc>,
    pub ended_at: DateTime<Utc>,
    pub passed: bool,
    /// The share of items that had to pass.
    pub threshold: f64,
    pub totals: Totals,
    /// In the order of the dataset.
    pub items: Vec<ItemResult>,
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct Totals {
    pub items: usize,
    pub items_passed: usize,
    /// `items_passed / items`: what the threshold is compared with.
    pub share_passed: f64,
    pub trials: usize,
    pub trials_passed: usize,
    /// Trials without an answer, and those with a score that could not be given.
    pub trials_in_error: usize,
    pub usage: Usage,
    /// Of the trials, by nearest rank.
    pub latency_ms_p50: u64,
    pub latency_ms_p95: u64,
}

#[derive(Debug, Clone, Serialize)]
pub struct ItemResult {
    pub id: String,
    /// All of its trials passed.
    pub passed: bool,
    pub trials: Vec<Trial>,
}

/// One try of one item.
#[derive(Debug, Clone, Serialize)]
pub struct Trial {
    /// Counts from 1.
    pub repeat: u32,
    /// Empty where no run came about.
    pub run_id: String,
    pub session_id: Option<String>,
    pub status: Option<Status>,
    pub output: Option<String>,
    pub tool_calls: Vec<CalledTool>,
    pub passed: bool,
    pub scores: Vec<Score>,
    /// Why there is nothing to score.
    pub error: Option<String>,
    pub usage: Usage,
    /// From posting the task to seeing its end.
    pub latency_ms: u64,
}

impl Trial {
    pub(crate) fn new(repeat: u32) -> Self {
        Self {
            repeat,
            run_id: String::new(),
            session_id: None,
            status: None,
            output: None,
            tool_calls: Vec::new(),
            passed: false,
            scores: Vec::new(),
            error: None,
            usage: Usage::default(),
            latency_ms: 0,
        }
    }

    pub fn is_in_error(&self) -> bool {
        self.error.is_some() || self.scores.iter().any(|score| score.error.is_some())
    }
}

impl Report {
    /// Each trial comes with the place of its item in the dataset, in any order.
    pub(crate) fn new(
        dataset: &Dataset,
        started_at: DateTime<Utc>,
        ended_at: DateTime<Utc>,
        ended: Vec<(usize, Trial)>,
    ) -> Self {
        let mut items: Vec<ItemResult> = (dataset.items.iter())
            .map(|item| ItemResult {
                id: item.id.clone(),
                passed: false,
                trials: vec![],
            })
            .collect();
        for (at, trial) in ended {
            items[at].trials.push(trial);
        }
        for item in &mut items {
            item.trials.sort_by_key(|trial| trial.repeat);
            item.passed = !item.trials.is_empty() && item.trials.iter().all(|trial| trial.passed);
        }
        let totals = Totals::of(&items);
        Self {
            object: "eval.report",
            name: dataset.name.clone(),
            dataset_sha256: dataset.sha256.clone(),
            agent: dataset.agent.clone(),
            started_at,
            ended_at,
            passed: totals.share_passed + SHARE_SLACK >= dataset.threshold,
            threshold: dataset.threshold,
            totals,
            items,
        }
    }

    /// Is the gate open? The exit code of `steadfast eval run`.
    pub fn passed(&self) -> bool {
        self.passed
    }

    /// The report for programs.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self).map(|json| json + "\n")
    }
}

impl Totals {
    fn of(items: &[ItemResult]) -> Self {
        let trials = || items.iter().flat_map(|item| &item.trials);
        let items_passed = items.iter().filter(|item| item.passed).count();
        let mut latencies: Vec<u64> = trials().map(|trial| trial.latency_ms).collect();
        latencies.sort_unstable();
        let mut usage = Usage::default();
        trials().for_each(|trial| usage += trial.usage);
        Self {
            items: items.len(),
            items_passed,
            share_passed: if items.is_empty() {
                0.0
            } else {
                items_passed as f64 / items.len() as f64
            },
            trials: trials().count(),
            trials_passed: trials().filter(|trial| trial.passed).count(),
            trials_in_error: trials().filter(|trial| trial.is_in_error()).count(),
            usage,
            latency_ms_p50: rank(&latencies, 50),
            latency_ms_p95: rank(&latencies, 95),
        }
    }
}

fn rank(sorted: &[u64], percent: usize) -> u64 {
    let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(at).copied().unwrap_or(0)
}
