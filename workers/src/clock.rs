//! The one place of the room that reads the clock and draws random numbers.

use steadfast::{run::Time, simulated};

/// Now, in the microseconds a database keeps.
#[expect(
    clippy::disallowed_methods,
    reason = "the room's clock is read here and nowhere else"
)]
pub fn now() -> Time {
    let now = simulated::now().unwrap_or_else(chrono::Utc::now);
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
    // The 53 bits a float has room for.
    simulated::draw().map_or_else(rand::random::<f64>, |draw| (draw >> 11) as f64 / (1u64 << 53) as f64)
}
