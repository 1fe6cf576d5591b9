//! When to try a failed model call again. Pure: chance comes in as an argument.

use std::time::Duration;

use super::ErrorClass;

/// Full jitter over an exponential ceiling: the pause is `jitter * ceiling`, so that callers who failed together do
/// not come back together.
///
/// | attempt that failed | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 and later |
/// |---|---|---|---|---|---|---|---|---|
/// | ceiling | 250 ms | 500 ms | 1 s | 2 s | 4 s | 8 s | 16 s | 30 s |
///
/// A `Retry-After` wins over the schedule, clipped to 120 s. How often to try is the run's limit, not this policy's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryPolicy {
    /// The first ceiling; doubled for each further attempt.
    pub base: Duration,
    pub ceiling_max: Duration,
    pub retry_after_max: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            base: Duration::from_millis(250),
            ceiling_max: Duration::from_secs(30),
            retry_after_max: Duration::from_secs(120),
        }
    }
}

impl RetryPolicy {
    /// How long to wait after the `attempt`-th attempt (from 1) failed; `None` where trying again cannot help.
    /// `jitter` is a number drawn from 0 to 1.
    pub fn pause(
        &self,
        class: ErrorClass,
        attempt: u32,
        retry_after: Option<Duration>,
        jitter: f64,
    ) -> Option<Duration> {
        match (class, retry_after) {
            (ErrorClass::Rejected, _) => None,
            (_, Some(asked)) => Some(asked.min(self.retry_after_max)),
            (_, None) => {
                let doublings = attempt.saturating_sub(1).min(31);
                let ceiling = self.base.saturating_mul(1 << doublings).min(self.ceiling_max);
                let jitter = if jitter.is_nan() { 1.0 } else { jitter.clamp(0.0, 1.0) };
                Some(ceiling.mul_f64(jitter))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ceiling(attempt: u32) -> Option<Duration> {
        RetryPolicy::default().pause(ErrorClass::Unavailable, attempt, None, 1.0)
    }

    #[test]
    fn the_pause_grows_as_the_schedule_says_and_stops_growing() {
        let expected = [250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000];
        for (attempt, expected_ms) in (1..).zip(expected) {
            assert_eq!(
                ceiling(attempt),
                Some(Duration::from_millis(expected_ms)),
                "after attempt {attempt}"
            );
        }
        assert_eq!(ceiling(u32::MAX), Some(Duration::from_secs(30)));
        assert_eq!(ceiling(0), Some(Duration::from_millis(250)));
    }

    #[test]
    fn chance_spreads_the_pause_over_all_of_the_ceiling() {
        let pause = |jitter| RetryPolicy::default().pause(ErrorClass::Timeout, 3, None, jitter);
        assert_eq!(pause(0.0), Some(Duration::ZERO));
        assert_eq!(pause(0.5), Some(Duration::from_millis(500)));
        assert_eq!(
            pause(7.0),
            Some(Duration::from_secs(1)),
            "chance out of range is clipped"
        );
        assert_eq!(pause(f64::NAN), Some(Duration::from_secs(1)));
    }

    #[test]
    fn what_the_provider_asks_for_wins_but_not_without_end() {
        let pause = |seconds| {
            let asked = Some(Duration::from_secs(seconds));
            RetryPolicy::default().pause(ErrorClass::RateLimited, 1, asked, 0.5)
        };
        assert_eq!(pause(7), Some(Duration::from_secs(7)));
        assert_eq!(pause(86_400), Some(Duration::from_secs(120)));
    }

    #[test]
    fn a_refused_request_is_not_tried_again() {
        let policy = RetryPolicy::default();
        assert_eq!(policy.pause(ErrorClass::Rejected, 1, None, 0.5), None);
        assert_eq!(
            policy.pause(ErrorClass::Rejected, 1, Some(Duration::from_secs(1)), 0.5),
            None
        );
    }
}
