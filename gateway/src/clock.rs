//! The one place of this room that reads the clock and draws random numbers.

#![expect(
    clippy::disallowed_methods,
    reason = "the gateway is the edge at which time and ids come in"
)]

use chrono::{DurationRound, TimeDelta, Utc};
use steadfast::{run::Time, simulated};
use uuid::Uuid;

/// Now, in the microseconds a database keeps.
pub fn now() -> Time {
    let now = simulated::now().unwrap_or_else(Utc::now);
    now.duration_trunc(TimeDelta::microseconds(1)).unwrap_or(now)
}

/// A new id; ids sort by the time they were made.
pub fn new_id() -> Uuid {
    simulated::new_id().unwrap_or_else(Uuid::now_v7)
}

/// 32 bytes nobody can guess.
pub fn random_bytes() -> [u8; 32] {
    rand::random()
}
