//! The heart of Steadfast: what every room depends on.
//!
//! * [`run`] is pure: what may happen to a run, and what must happen next. No clock, no network, no randomness.
//! * [`store`] keeps the truth: the event log and the head of each run.
//! * [`queue`] carries hints ("advance run R"). It may lose or double them.
//! * [`feed`] carries what is happening now to whoever watches. It may lose anything.
//!
//! The log is the only truth; everything else can be deleted at any moment and is rebuilt from it.

pub mod agents;
pub mod crash;
pub mod feed;
pub mod health;
pub mod metrics;
pub mod queue;
pub mod read;
pub mod run;
pub mod simulated;
pub mod store;
pub mod wire;
