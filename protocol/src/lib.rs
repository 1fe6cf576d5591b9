//! Models of the protocol, small enough to be explored whole, and mutants of them that the exploration must catch.
//!
//! * [`ownership`]: who may write to a run, whatever crashes, lapses, is lost or comes late.
//! * [`projection`]: how the whole log is followed while transactions are open.
//! * [`stream`]: how a client comes by a run's stream.
//! * [`explore`]: the exploration.
//! * [`suite`]: what is explored.

pub mod explore;
pub mod ownership;
pub mod projection;
pub mod stream;
pub mod suite;
