//! The one place of this room that asks what time it is: for a lag, and for "the last seven days".

use steadfast::run::Time;

#[expect(
    clippy::disallowed_methods,
    reason = "the edge: lags and days are measured against the time of day"
)]
pub fn now() -> Time {
    steadfast::simulated::now().unwrap_or_else(chrono::Utc::now)
}
