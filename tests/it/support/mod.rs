//! What only the tests need beside [`steadfast_tests::system`]: one stack for many of them, and a judge of hash chains.

mod chain;
mod shared;

pub use chain::assert_chained;
pub(crate) use shared::in_both_modes;
pub use shared::on_shared;
pub use steadfast_tests::system::{
    Answer, Api, Chance, Drops, Frame, Layout, Mode, Rider, Role, Stack, Throttle, Transcript, bounded, read,
};
