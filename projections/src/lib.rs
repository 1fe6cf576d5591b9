//! Read models: what the log says, arranged for reading.
//!
//! The log is the truth; every table of this room is a cache of it and may be deleted at any moment. A projection
//! follows the log by position and keeps its checkpoint in the same transaction as its rows, so every event counts
//! exactly once, whatever dies when.
//!
//! * [`projection`]: what a projection is. [`models`] holds the three there are.
//! * [`projector`]: the loop that applies the log to them. [`rebuild()`] makes one anew beside the old.
//! * [`reads`]: the queries, behind the heart's [`ReadModels`](steadfast::read::ReadModels) port.
//! * [`check()`]: does the database keep the promises (`I1` … in the report)? Reads everything, changes nothing.

pub mod check;
mod checkpoint;
mod clock;
mod lane;
pub mod log;
pub mod models;
pub mod projection;
pub mod projector;
pub mod reads;
mod rebuild;
mod rows;
mod schema;
pub mod tables;
mod watch;

pub use check::{CheckReport, Options, Violation, check};
pub use checkpoint::Checkpoint;
pub use lane::Lane;
pub use projector::Projector;
pub use reads::Reads;
pub use rebuild::rebuild;
pub use schema::create_tables;
