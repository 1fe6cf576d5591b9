//! A worker's process that dies where it is told to: none of its tasks is polled again, and all are dropped.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use async_trait::async_trait;
use steadfast::{
    feed::{Frame, LiveFeed, LocalFeed, Signal, Subscription},
    run::{RunId, Time},
    simulated,
};
use tokio::{
    sync::{Notify, mpsc},
    task::AbortHandle,
};

#[derive(Default)]
pub struct Process {
    state: Mutex<State>,
    draws: AtomicU64,
    died: Notify,
}

#[derive(Default)]
struct State {
    dead: bool,
    /// Dies when it says on the feed what it has appended.
    doomed: bool,
    tasks: Vec<AbortHandle>,
}

impl Process {
    /// Does not return to a task of this process.
    pub async fn die(&self) {
        self.kill();
        std::future::pending().await
    }

    pub fn kill(&self) {
        let tasks = {
            let mut state = self.lock();
            state.dead = true;
            std::mem::take(&mut state.tasks)
        };
        tasks.iter().for_each(AbortHandle::abort);
        self.died.notify_one();
    }

    pub fn doom(&self) {
        self.lock().doomed = true;
    }

    pub async fn dead(&self) {
        while !self.lock().dead {
            self.died.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl simulated::Process for Process {
    fn now(&self) -> Time {
        super::now()
    }

    /// Small numbers: as chance they are next to nothing, so pauses are as short as they can be.
    fn draw(&self) -> u64 {
        self.draws.fetch_add(1, Ordering::Relaxed)
    }

    fn poll_turn(&self, _: &mut Context<'_>) -> Poll<()> {
        if self.lock().dead {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }

    fn spawned(&self, task: AbortHandle) {
        let mut state = self.lock();
        if state.dead {
            return task.abort();
        }
        state.tasks.push(task);
    }
}

/// The feed all share, as one process reaches it.
pub struct Feed {
    pub shared: Arc<LocalFeed>,
    pub process: Arc<Process>,
}

#[async_trait]
impl LiveFeed for Feed {
    async fn publish(&self, frames: Vec<Frame>) {
        if self.process.lock().doomed {
            self.process.die().await;
        }
        self.shared.publish(frames).await;
    }

    async fn subscribe(&self, run_id: RunId) -> Subscription {
        self.shared.subscribe(run_id).await
    }

    async fn signal(&self, run_id: RunId, signal: Signal) {
        self.shared.signal(run_id, signal).await;
    }

    async fn signals(&self) -> mpsc::Receiver<(RunId, Signal)> {
        self.shared.signals().await
    }
}
