//! The feed of the embedded mode: everything is in this process.

use std::sync::Mutex;

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::{Frame, Hub, LiveFeed, Signal, Subscription};
use crate::run::RunId;

/// Signals a worker may leave unread; a lost one costs latency.
pub(super) const SIGNALS: usize = 1024;

#[derive(Default)]
pub struct LocalFeed {
    hub: Hub,
    workers: Mutex<Vec<mpsc::Sender<(RunId, Signal)>>>,
}

#[async_trait]
impl LiveFeed for LocalFeed {
    async fn publish(&self, frames: Vec<Frame>) {
        for frame in frames {
            self.hub.publish(frame);
        }
    }

    async fn subscribe(&self, run_id: RunId) -> Subscription {
        self.hub.subscribe(run_id)
    }

    async fn signal(&self, run_id: RunId, signal: Signal) {
        let mut workers = self.workers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        workers.retain(|worker| !worker.is_closed());
        for worker in workers.iter() {
            let _ = worker.try_send((run_id, signal));
        }
    }

    async fn signals(&self) -> mpsc::Receiver<(RunId, Signal)> {
        let (sender, receiver) = mpsc::channel(SIGNALS);
        self.workers
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .push(sender);
        receiver
    }
}
