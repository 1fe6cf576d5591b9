//! The worker: takes commands, executes runs, appends what happened.
//!
//! The path of a command, file by file:
//!
//! 1. [`worker`]: pulls `advance R` while there are [`places`]; what finds none waits in its tenant's [`line`].
//! 2. [`execute`]: loads R, claims it, and loops: `next` says what to do, it is done, `decide` makes facts of the
//!    outcome, the facts are appended and published.
//! 3. [`call`] makes the model call and streams its text ([`delta`]); [`tools`] runs the tools.
//! 4. [`lease`] keeps the claims alive; [`redriver`] finds the runs nobody works on.
//!
//! A worker is stateless: it may be killed at any line. What it had appended stays; what it had not is done again by
//! the worker that claims the run next, and the log says so.

mod admit;
mod call;
mod clock;
mod context;
mod delta;
mod execute;
mod lease;
mod line;
pub mod model;
mod places;
mod record;
mod redriver;
mod report;
pub mod tools;
mod worker;

pub use worker::{Worker, WorkerDeps, WorkerOptions, share_of};
