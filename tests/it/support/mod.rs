//! What the path tests stand on: whole systems of real processes, clients for them, and judges of what clients saw.

mod api;
mod binary;
mod chain;
mod chance;
mod home;
mod layout;
mod rider;
mod role;
mod shared;
mod stack;
mod throttle;
mod transcript;

pub use api::{Answer, Api, read};
pub use chain::assert_chained;
pub use chance::Chance;
pub use layout::Layout;
pub use rider::{Drops, Ride, Rider};
pub(crate) use shared::in_both_modes;
pub use shared::on_shared;
pub use stack::{Mode, Stack};
pub use throttle::Throttle;
pub use transcript::{Frame, Transcript};

/// Ends a test that hangs, with its name in the message.
pub async fn bounded<T>(seconds: u64, what: &str, test: impl Future<Output = T>) -> T {
    let ended = tokio::time::timeout(std::time::Duration::from_secs(seconds), test).await;
    ended.unwrap_or_else(|_| panic!("{what} did not end within {seconds} s"))
}
