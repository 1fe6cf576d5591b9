//! Frames of one process, handed to the watchers of each run.

use std::{
    collections::{BTreeMap, VecDeque},
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use super::Frame;
use crate::run::RunId;

/// Frames a slow watcher may fall behind before it is sent to the store instead.
const BACKLOG: usize = 32;
/// Most watchers hear nothing most of the time: a queue that was longer is given back once it is empty.
const KEPT: usize = 4;

/// What a watcher hears.
#[derive(Debug, Clone, PartialEq)]
pub enum Watched {
    Frame(Frame),
    /// Frames were missed: read the store.
    Missed,
}

// Ordered, so that telling all watchers is told in the same order everywhere.
type Topics = BTreeMap<RunId, Vec<Arc<Mailbox>>>;

/// A mailbox for each watcher of each run that anyone in this process watches.
#[derive(Clone, Default)]
pub struct Hub {
    topics: Arc<Mutex<Topics>>,
}

impl Hub {
    pub fn subscribe(&self, run_id: RunId) -> Subscription {
        let mailbox = Arc::<Mailbox>::default();
        self.lock().entry(run_id).or_default().push(mailbox.clone());
        Subscription {
            run_id,
            mailbox,
            hub: self.clone(),
        }
    }

    pub fn publish(&self, frame: Frame) {
        // Not told under the lock: whoever wakes up may want to leave.
        let watchers = self.lock().get(&frame.run_id()).cloned();
        for mailbox in watchers.into_iter().flatten() {
            mailbox.put(Watched::Frame(frame.clone()));
        }
    }

    /// Tells every watcher that frames may have been lost.
    pub fn missed(&self) {
        let watchers: Vec<Arc<Mailbox>> = self.lock().values().flatten().cloned().collect();
        for mailbox in watchers {
            mailbox.put(Watched::Missed);
        }
    }

    /// How many runs are watched.
    pub fn watched(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, Topics> {
        // The map is whole between statements: a panic elsewhere cannot have broken it.
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one watcher has not heard yet.
#[derive(Default)]
struct Mailbox(Mutex<Unheard>);

#[derive(Default)]
struct Unheard {
    queue: VecDeque<Watched>,
    waker: Option<Waker>,
}

impl Mailbox {
    fn put(&self, watched: Watched) {
        let mut unheard = self.lock();
        let watched = if unheard.queue.len() < BACKLOG {
            watched
        } else {
            // The store has them all, and more.
            unheard.queue.clear();
            Watched::Missed
        };
        unheard.queue.push_back(watched);
        let waker = unheard.waker.take();
        drop(unheard);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn poll_next(&self, context: &mut Context<'_>) -> Poll<Watched> {
        let mut unheard = self.lock();
        let Some(watched) = unheard.queue.pop_front() else {
            unheard.waker = Some(context.waker().clone());
            return Poll::Pending;
        };
        if unheard.queue.is_empty() && unheard.queue.capacity() > KEPT {
            unheard.queue = VecDeque::new();
        }
        Poll::Ready(watched)
    }

    fn lock(&self) -> MutexGuard<'_, Unheard> {
        // The queue is whole between statements, as above.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One watcher of one run; ends by being dropped.
pub struct Subscription {
    run_id: RunId,
    mailbox: Arc<Mailbox>,
    hub: Hub,
}

impl Subscription {
    /// The next frame. `Missed` when this watcher was too slow, or when the feed itself was cut.
    pub async fn next(&mut self) -> Watched {
        poll_fn(|context| self.mailbox.poll_next(context)).await
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut topics = self.hub.lock();
        let Some(watchers) = topics.get_mut(&self.run_id) else {
            return;
        };
        watchers.retain(|mailbox| !Arc::ptr_eq(mailbox, &self.mailbox));
        if watchers.is_empty() {
            topics.remove(&self.run_id);
        }
    }
}
