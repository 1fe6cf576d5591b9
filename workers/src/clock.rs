//! The one place of the room that reads the clock and draws random numbers.

use steadfast::run::Time;

/// Now, in the microseconds a database keeps.
pub fn now() -> Time {
    let now = chrono::Utc::now();
    Time::from_timestamp_micros(now.timestamp_micros()).unwrap_or(now)
}

/// Between 0 and 1, for spreading retries.
pub fn jitter() -> f64 {
    rand::random::<f64>()
}
