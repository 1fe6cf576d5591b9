//! The one place of the store that reads the clock: SQLite's writer is in this process, so its clock is ours.

#[expect(
    clippy::disallowed_methods,
    reason = "the clock of SQLite's writer is read here and nowhere else"
)]
pub fn now() -> crate::run::Time {
    crate::simulated::now().unwrap_or_else(chrono::Utc::now)
}
