//! The retry budget of one model: retries may be a tenth of its requests, so that a provider in trouble does not get a
//! multiple of its load. A small floor lets a quiet installation retry at all. Pure: time comes in as an argument.

use std::time::{Duration, Instant};

/// Retries earned by a request.
const SHARE: f64 = 0.1;
/// Retries earned by a second.
const FLOOR_PER_SECOND: f64 = 1.0;
/// Retries saved up, at the most.
const BURST: f64 = 20.0;
/// Fractions of a retry do not add up exactly: nobody is told to come back this very moment.
const WAIT_MIN: Duration = Duration::from_millis(1);

#[derive(Debug, Clone)]
pub struct RetryBudget {
    retries: f64,
    at: Instant,
}

impl RetryBudget {
    pub fn new(now: Instant) -> Self {
        Self {
            retries: BURST,
            at: now,
        }
    }

    /// A request that is no retry was made.
    pub fn earn(&mut self) {
        self.add(SHARE);
    }

    /// A retry, or when there will be one.
    pub fn take(&mut self, now: Instant) -> Result<(), Instant> {
        self.add(now.saturating_duration_since(self.at).as_secs_f64() * FLOOR_PER_SECOND);
        self.at = self.at.max(now);
        if self.retries >= 1.0 {
            self.retries -= 1.0;
            return Ok(());
        }
        Err(now + Duration::from_secs_f64((1.0 - self.retries) / FLOOR_PER_SECOND).max(WAIT_MIN))
    }

    /// A retry that was taken was not made.
    pub fn give_back(&mut self) {
        self.add(1.0);
    }

    fn add(&mut self, retries: f64) {
        self.retries = (self.retries + retries).min(BURST);
    }
}
