//! The queue of the embedded mode. It starts empty with every process: the redriver refills it from the store.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::Notify;
use uuid::Uuid;

use super::{Advance, CommandQueue, Delivery, Error, Receipt};

/// Commands held; what does not fit is dropped, and found again by the redriver.
const DEPTH_MAX: usize = 100_000;
const PULL_WAIT: Duration = Duration::from_millis(500);

pub struct LocalQueue {
    shared: Arc<Shared>,
    incarnation: Uuid,
}

#[derive(Default)]
struct Shared {
    waiting: Mutex<VecDeque<Advance>>,
    arrived: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Advance>> {
        self.waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn take(&self, max: usize) -> Vec<Delivery> {
        let mut waiting = self.lock();
        let count = max.min(waiting.len());
        let deliver = |command| Delivery::new(command, Box::new(LocalReceipt));
        waiting.drain(..count).map(deliver).collect()
    }

    fn push(&self, command: Advance) {
        let mut waiting = self.lock();
        if waiting.len() < DEPTH_MAX {
            waiting.push_back(command);
            self.arrived.notify_one();
        }
    }
}

impl LocalQueue {
    /// `incarnation` tells this process's queue from any other.
    pub fn new(incarnation: Uuid) -> Self {
        Self {
            shared: Arc::default(),
            incarnation,
        }
    }
}

#[async_trait]
impl CommandQueue for LocalQueue {
    async fn publish(&self, command: &Advance) -> Result<(), Error> {
        self.shared.push(command.clone());
        Ok(())
    }

    async fn pull(&self, max: usize) -> Result<Vec<Delivery>, Error> {
        let deadline = tokio::time::Instant::now() + PULL_WAIT;
        loop {
            let arrived = self.shared.arrived.notified();
            let ready = self.shared.take(max);
            if !ready.is_empty() {
                return Ok(ready);
            }
            if tokio::time::timeout_at(deadline, arrived).await.is_err() {
                return Ok(Vec::new());
            }
        }
    }

    async fn pull_ready(&self, max: usize) -> Result<Vec<Delivery>, Error> {
        Ok(self.shared.take(max))
    }

    async fn incarnation(&self) -> Result<String, Error> {
        Ok(self.incarnation.to_string())
    }

    async fn depth(&self) -> Result<u64, Error> {
        Ok(self.shared.lock().len() as u64)
    }
}

/// In one process a command is taken when it is handed over: if the process dies, so does the queue.
struct LocalReceipt;

#[async_trait]
impl Receipt for LocalReceipt {
    async fn ack(self: Box<Self>) {}

    /// The redriver brings it back.
    async fn give_back(self: Box<Self>, _after: Duration) {}
}
