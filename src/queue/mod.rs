//! The command queue: hints that a run can go on.
//!
//! There is one command, *advance run R*. It carries ids only and the worker re-reads the truth, so losing, doubling
//! or reordering commands costs latency and nothing else. Whatever is lost here the redriver finds in the store.

mod jetstream;
mod local;

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

pub use jetstream::{JetStreamQueue, QueueOptions};
pub use local::LocalQueue;

use crate::run::{RunId, TenantId};

/// Advance this run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advance {
    pub run_id: RunId,
    pub tenant: TenantId,
    /// The run's version when the command was sent: for the eye, and for the message id.
    pub version: u64,
    /// Which dispatch of this version it is: a message id that was used before is swallowed by the server.
    pub dispatch: u64,
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("the command queue is not available: {0}")]
    Unavailable(String),
    /// Never to be fixed by trying again: the wrong server, the wrong configuration.
    #[error("{0}")]
    Unusable(String),
}

/// A command in the hands of a worker. Dropped without a word, it comes again after the queue's ack wait.
pub struct Delivery {
    pub command: Advance,
    receipt: Box<dyn Receipt>,
}

impl Delivery {
    pub fn new(command: Advance, receipt: Box<dyn Receipt>) -> Self {
        Self { command, receipt }
    }

    /// How often this message has been delivered, this time included.
    pub fn deliveries(&self) -> u64 {
        self.receipt.deliveries()
    }

    /// The command is done with: the store knows all that follows from it.
    pub async fn ack(self) {
        self.receipt.ack().await;
    }

    /// Give it to someone, later.
    pub async fn give_back(self, after: Duration) {
        self.receipt.give_back(after).await;
    }
}

/// An adapter's part of a [`Delivery`].
#[async_trait]
pub trait Receipt: Send {
    async fn ack(self: Box<Self>);
    async fn give_back(self: Box<Self>, after: Duration);

    /// A queue that never delivers a message twice need not count.
    fn deliveries(&self) -> u64 {
        1
    }
}

#[async_trait]
pub trait CommandQueue: Send + Sync + 'static {
    /// Back when the queue has it.
    async fn publish(&self, command: &Advance) -> Result<(), Error>;

    /// On its way, and nobody learns whether it arrived: for whoever would do nothing about it. Costs less.
    async fn hint(&self, command: &Advance) -> Result<(), Error> {
        self.publish(command).await
    }

    /// Up to `max` commands; waits a while for the first, answers none if there is none. So many may be on their way here
    /// afterwards too, for the pulls that follow.
    async fn pull(&self, max: usize) -> Result<Vec<Delivery>, Error>;

    /// Up to `max` commands that are there now; does not wait for any.
    async fn pull_ready(&self, max: usize) -> Result<Vec<Delivery>, Error>;

    /// For now there are no more pulls: what is on its way here is given back, and others get it.
    async fn let_go(&self) {}

    /// Whether there is a connection to send commands over, as far as is known without asking.
    fn is_connected(&self) -> bool {
        true
    }

    /// Changes whenever the queue may have lost what it held: a wiped or re-created stream, a restarted process.
    async fn incarnation(&self) -> Result<String, Error>;

    /// Commands not yet acknowledged.
    async fn depth(&self) -> Result<u64, Error>;
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, sample::Index};

    use super::*;

    proptest! {
        #[test]
        fn whatever_lies_in_the_queue_is_a_command_that_says_the_same_or_is_none(
            bytes in prop::collection::vec(any::<u8>(), 0..64), at in any::<Index>(), over in any::<bool>(),
            version in any::<u64>(), dispatch in any::<u64>(),
        ) {
            let command = Advance { run_id: RunId::default(), tenant: TenantId::default(), version, dispatch };
            let mut sent = serde_json::to_vec(&command).expect("plain fields");
            prop_assert_eq!(serde_json::from_slice::<Advance>(&sent).ok(), Some(command));
            // Junk alone, and junk in the middle of a command.
            let at = at.index(sent.len());
            let end = if over { (at + bytes.len()).min(sent.len()) } else { at };
            sent.splice(at..end, bytes.iter().copied());
            for junk in [bytes, sent] {
                if let Ok(read) = serde_json::from_slice::<Advance>(&junk) {
                    let again = serde_json::to_vec(&read).expect("plain fields");
                    prop_assert_eq!(serde_json::from_slice::<Advance>(&again).ok(), Some(read));
                }
            }
        }
    }
}
