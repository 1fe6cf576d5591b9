//! The one place of the room that reads the clock and draws random numbers.

use steadfast::run::Time;

/// Now, in the microseconds a database keeps.
#[expect(
    clippy::disallowed_methods,
    reason = "the room's clock is read here and nowhere else"
)]
pub fn now() -> Time {
    let now = chrono::Utc::now();
    Time::from_timestamp_micros(now.timestamp_micros()).unwrap_or(now)
}

/// A moment to measure from; it follows the runtime's clock.
pub fn instant() -> std::time::Instant {
    tokio::time::Instant::now().into_std()
}

/// Between 0 and 1, for spreading retries.
#[expect(
    clippy::disallowed_methods,
    reason = "the room's random numbers are drawn here and nowhere else"
)]
pub fn jitter() -> f64 {
    rand::random::<f64>()
}
