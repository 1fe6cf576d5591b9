//! The fault suite on real processes: scenarios of faults under load, each judged by the operator's own check, by what
//! its clients saw and by what the model was asked.
//!
//! A scenario is one file under `scenarios/`: a system, a load, a schedule of faults, and what must be true of this
//! scenario beside what is true of all. It tells its [`Case`] what it does; the case counts, judges and reports.

mod case;
mod load;
mod report;
mod scenarios;
mod suite;

pub use case::Case;
pub use load::Load;
pub use report::Report;
pub use scenarios::{SCENARIOS, crash_points::POINTS as CRASH_POINTS};
pub use suite::{Scenario, Suite};
