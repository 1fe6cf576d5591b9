//! What the samples come to.

use std::collections::BTreeMap;

use serde::Serialize;
use tokio::time::Instant;

use crate::client::Sample;

#[derive(Debug, Serialize)]
pub struct Summary {
    window_s: f64,
    /// Runs that ended well within the window: what rates and costs are of.
    completed: usize,
    runs_per_s: f64,
    /// From the post to the end of the answer, of the runs that were posted within the window.
    p50_ms: Option<f64>,
    p90_ms: Option<f64>,
    p99_ms: Option<f64>,
    max_ms: Option<f64>,
    timed: usize,
    pieces_per_run: f64,
    /// Of runs that ended within the window or after it, whenever they were posted.
    errors: usize,
    /// Of runs that ended before it. They spoil no figure, but a system that fails while it warms up is no sound one.
    errors_before: usize,
    /// Each error once, and how often: of both.
    error_kinds: BTreeMap<String, usize>,
}

pub fn of(samples: Vec<Sample>, began: Instant, ended: Instant) -> Summary {
    let window = began..ended;
    let (mut completed, mut pieces, mut errors, mut errors_before) = (0, 0, 0, 0);
    let mut ms = Vec::new();
    let mut error_kinds = BTreeMap::new();
    for sample in samples {
        let posted_within = window.contains(&sample.began);
        let ended_within = window.contains(&sample.ended);
        match sample.outcome {
            Ok(n) => {
                if ended_within {
                    completed += 1;
                    pieces += n;
                }
                if posted_within {
                    ms.push((sample.ended - sample.began).as_secs_f64() * 1e3);
                }
            }
            Err(why) => {
                match sample.ended < window.start {
                    true => errors_before += 1,
                    false => errors += 1,
                }
                *error_kinds.entry(why).or_default() += 1;
            }
        }
    }
    ms.sort_by(f64::total_cmp);
    let window_s = (ended - began).as_secs_f64();
    Summary {
        window_s,
        completed,
        runs_per_s: completed as f64 / window_s,
        p50_ms: percentile(&ms, 50),
        p90_ms: percentile(&ms, 90),
        p99_ms: percentile(&ms, 99),
        max_ms: ms.last().copied(),
        timed: ms.len(),
        pieces_per_run: pieces as f64 / completed.max(1) as f64,
        errors,
        errors_before,
        error_kinds,
    }
}

/// By nearest rank.
fn percentile(sorted: &[f64], percent: usize) -> Option<f64> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn sample(start: Instant, began: u64, ended: u64, outcome: Result<usize, &str>) -> Sample {
        let at = |s| start + Duration::from_secs(s);
        Sample {
            began: at(began),
            ended: at(ended),
            outcome: outcome.map_err(Into::into),
        }
    }

    #[test]
    fn rates_are_of_runs_that_end_in_the_window_and_latencies_of_those_posted_in_it() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let sample = |began, ended, outcome| sample(start, began, ended, outcome);
        let samples = vec![
            sample(0, 3, Ok(2)), // posted before it
            sample(3, 4, Ok(2)),
            sample(5, 9, Ok(2)), // ended after it
        ];
        let summary = of(samples, at(2), at(6));
        assert_eq!((summary.completed, summary.timed, summary.errors), (2, 2, 0));
        assert_eq!((summary.p50_ms, summary.max_ms), (Some(1000.0), Some(4000.0)));
        assert_eq!((summary.runs_per_s, summary.pieces_per_run), (0.5, 2.0));
    }

    #[test]
    fn every_error_counts_once_whenever_its_run_was_posted() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let sample = |began, ended| sample(start, began, ended, Err("500"));
        let samples = vec![
            sample(0, 1), // in the warm-up
            sample(0, 3), // posted in it
            sample(0, 7), // posted in it, ended after the window
            sample(3, 4),
            sample(5, 9),
        ];
        let summary = of(samples, at(2), at(6));
        assert_eq!((summary.errors_before, summary.errors), (1, 4));
        assert_eq!(summary.error_kinds, BTreeMap::from([("500".into(), 5)]));
        assert_eq!((summary.completed, summary.timed), (0, 0));
    }

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let sorted: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!(percentile(&sorted, 50), Some(100.0));
        assert_eq!(percentile(&sorted, 99), Some(198.0));
        assert_eq!(percentile(&[7.0], 50), Some(7.0));
        assert_eq!(percentile(&[], 99), None);
    }
}
