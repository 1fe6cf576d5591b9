//! Whole systems of real processes, clients for them, and judges of what clients saw.

mod api;
mod binary;
mod chance;
mod home;
mod layout;
mod ledger;
mod network;
mod rider;
mod role;
mod stack;
mod tasks;
mod throttle;
mod transcript;

pub use api::{Answer, Api, read};
pub use binary::{beside as program_beside, counting_allocations, steadfast, with_crash_points};
pub use chance::Chance;
pub use layout::Layout;
pub use ledger::{Kill, SETTLE_MAX, Settled, now, settle};
pub use network::{Edge, Network};
pub use rider::{Drops, Ride, Rider};
pub use role::{Env, Role};
pub use stack::{LogsOnPanic, Mode, Ran, Stack, room};
pub use tasks::{sessions, task};
pub use throttle::Throttle;
pub use transcript::{Cursor, DELTA, Frame, RESET, Transcript};

/// Ends a test that hangs, with its name in the message.
pub async fn bounded<T>(seconds: u64, what: &str, test: impl Future<Output = T>) -> T {
    let ended = tokio::time::timeout(std::time::Duration::from_secs(seconds), test).await;
    ended.unwrap_or_else(|_| panic!("{what} did not end within {seconds} s"))
}
