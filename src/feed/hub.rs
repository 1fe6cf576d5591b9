//! Frames of one process, handed to the watchers of each run.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

use tokio::sync::broadcast;

use super::Frame;
use crate::run::RunId;

/// Frames a slow watcher may fall behind before it is sent to the store instead.
const BACKLOG: usize = 32;

/// What a watcher hears.
#[derive(Debug, Clone, PartialEq)]
pub enum Watched {
    Frame(Frame),
    /// Frames were missed: read the store.
    Missed,
}

// Ordered, so that telling all watchers is told in the same order everywhere.
type Topics = BTreeMap<RunId, broadcast::Sender<Watched>>;

/// One broadcast channel for each run that anyone in this process watches.
#[derive(Clone, Default)]
pub struct Hub {
    topics: Arc<Mutex<Topics>>,
}

impl Hub {
    pub fn subscribe(&self, run_id: RunId) -> Subscription {
        let receiver = self
            .lock()
            .entry(run_id)
            .or_insert_with(|| broadcast::channel(BACKLOG).0)
            .subscribe();
        Subscription {
            run_id,
            receiver: Some(receiver),
            hub: self.clone(),
        }
    }

    pub fn publish(&self, frame: Frame) {
        let topic = self.lock().get(&frame.run_id()).cloned();
        if let Some(topic) = topic {
            // Fails only when the last watcher has just left.
            let _ = topic.send(Watched::Frame(frame));
        }
    }

    /// Tells every watcher that frames may have been lost.
    pub fn missed(&self) {
        for topic in self.lock().values() {
            let _ = topic.send(Watched::Missed);
        }
    }

    /// How many runs are watched.
    pub fn watched(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, Topics> {
        // The map is whole between statements: a panic elsewhere cannot have broken it.
        self.topics.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// One watcher of one run; ends by being dropped.
pub struct Subscription {
    run_id: RunId,
    receiver: Option<broadcast::Receiver<Watched>>,
    hub: Hub,
}

impl Subscription {
    /// The next frame. `Missed` when this watcher was too slow, or when the feed itself was cut.
    pub async fn next(&mut self) -> Watched {
        let Some(receiver) = &mut self.receiver else {
            return std::future::pending().await;
        };
        match receiver.recv().await {
            Ok(watched) => watched,
            Err(broadcast::error::RecvError::Lagged(_)) => Watched::Missed,
            // The hub keeps a sender as long as a subscription lives; nothing more will come.
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.receiver = None;
        let mut topics = self.hub.lock();
        if topics
            .get(&self.run_id)
            .is_some_and(|topic| topic.receiver_count() == 0)
        {
            topics.remove(&self.run_id);
        }
    }
}
