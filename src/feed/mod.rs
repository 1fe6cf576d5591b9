//! The live feed: what is happening now, to whoever watches.
//!
//! It may lose anything. Watchers see a hole in the versions (or in the deltas) and fill it from the store (or ask
//! the worker at work). Two directions: *frames* from workers to watchers, *signals* from anyone to the worker that
//! holds a run.

mod hub;
mod local;
mod nats;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;

pub use hub::{Hub, Subscription, Watched};
pub use local::LocalFeed;
pub use nats::NatsFeed;

use crate::run::RunId;

/// Something that happened to a run, already rendered as clients see it.
#[derive(Debug, Clone, PartialEq)]
pub enum Frame {
    /// A committed event.
    Event {
        run_id: RunId,
        version: u64,
        name: String,
        /// How many deltas precede it.
        deltas: u32,
        json: Bytes,
    },
    /// A piece of the text that event `version` will hold.
    Delta {
        run_id: RunId,
        version: u64,
        sub: u32,
        json: Bytes,
    },
}

impl Frame {
    pub fn run_id(&self) -> RunId {
        match self {
            Self::Event { run_id, .. } | Self::Delta { run_id, .. } => *run_id,
        }
    }

    pub fn of_event(stored: &crate::store::StoredEvent, event: &crate::run::Event) -> Self {
        Self::Event {
            run_id: stored.run_id,
            version: stored.version,
            name: stored.name.clone(),
            deltas: crate::wire::delta_count(event),
            json: crate::wire::event(stored).into(),
        }
    }
}

/// A word to the worker that holds a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Something was added to the run: look at the store.
    Changed,
    /// A watcher came late: send the deltas of the step in progress again.
    Resend,
}

#[async_trait]
pub trait LiveFeed: Send + Sync + 'static {
    /// Sends frames of one or more runs, in order. Never fails and never waits for the other side: what is lost is
    /// filled from the store, and whoever publishes has leases to keep.
    async fn publish(&self, frames: Vec<Frame>);

    /// Watches one run. Everything published after this returns is seen, or announced as missed.
    async fn subscribe(&self, run_id: RunId) -> Subscription;

    async fn signal(&self, run_id: RunId, signal: Signal);

    /// All signals, for a worker. May miss some.
    async fn signals(&self) -> mpsc::Receiver<(RunId, Signal)>;
}
