//! The one place of the store that reads the clock: SQLite's writer is in this process, so its clock is ours.

pub fn now() -> crate::run::Time {
    chrono::Utc::now()
}
