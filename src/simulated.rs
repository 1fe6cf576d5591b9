//! The seam of the simulator: where time, chance and tasks come from when there is no machine.
//!
//! Production never enters a [`Process`]: each function here then answers `None` (or spawns plainly) after one look at
//! a thread-local. Under simulation every task of a simulated process is polled inside it, so the same code reads that
//! process's clock, draws from the seed, stands still while the process does, and is gone when it is killed.

use std::{
    cell::RefCell,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::task::{AbortHandle, JoinHandle};
use uuid::Uuid;

use crate::run::Time;

/// One simulated process.
pub trait Process: Send + Sync {
    /// The time of day, as this process's clock shows it.
    fn now(&self) -> Time;

    /// Chance, drawn from the seed.
    fn draw(&self) -> u64;

    /// Whether its tasks get the processor. `Pending`: the waker is woken when they do again.
    fn poll_turn(&self, context: &mut Context<'_>) -> Poll<()>;

    /// A task was spawned inside it; to be aborted when it is killed.
    fn spawned(&self, task: AbortHandle);
}

thread_local! {
    static HERE: RefCell<Option<Arc<dyn Process>>> = const { RefCell::new(None) };
}

fn here<T>(ask: impl FnOnce(&Arc<dyn Process>) -> T) -> Option<T> {
    HERE.with_borrow(|here| here.as_ref().map(ask))
}

pub fn now() -> Option<Time> {
    here(|process| process.now())
}

pub fn draw() -> Option<u64> {
    here(|process| process.draw())
}

/// A UUIDv7 of the simulated time.
pub fn new_id() -> Option<Uuid> {
    here(|process| {
        let millis = u64::try_from(process.now().timestamp_millis()).unwrap_or_default();
        let mut chance = [0; 10];
        chance[..8].copy_from_slice(&process.draw().to_be_bytes());
        chance[8..].copy_from_slice(&process.draw().to_be_bytes()[..2]);
        uuid::Builder::from_unix_timestamp_millis(millis, &chance).into_uuid()
    })
}

/// `tokio::spawn`, into the process that spawns.
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    match here(Arc::clone) {
        None => tokio::spawn(future),
        Some(process) => spawn_in(process, future),
    }
}

/// Spawns a task that is polled inside this process.
pub fn spawn_in<F>(process: Arc<dyn Process>, future: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    let task = tokio::spawn(Inside {
        process: process.clone(),
        future: Box::pin(future),
    });
    process.spawned(task.abort_handle());
    task
}

struct Inside<F> {
    process: Arc<dyn Process>,
    future: Pin<Box<F>>,
}

impl<F: Future> Future for Inside<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        if self.process.poll_turn(context).is_pending() {
            return Poll::Pending;
        }
        let _entered = Entered(HERE.replace(Some(self.process.clone())));
        self.future.as_mut().poll(context)
    }
}

/// Leaves the process also when the poll panics.
struct Entered(Option<Arc<dyn Process>>);

impl Drop for Entered {
    fn drop(&mut self) {
        HERE.set(self.0.take());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[derive(Default)]
    struct Still(AtomicU64);

    impl Process for Still {
        fn now(&self) -> Time {
            Time::UNIX_EPOCH + chrono::TimeDelta::milliseconds(77)
        }
        fn draw(&self) -> u64 {
            7
        }
        fn poll_turn(&self, _: &mut Context<'_>) -> Poll<()> {
            Poll::Ready(())
        }
        fn spawned(&self, _: AbortHandle) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn only_tasks_of_a_process_see_its_clock_and_their_tasks_are_its_own() {
        assert_eq!((now(), draw(), new_id()), (None, None, None));
        let process = Arc::new(Still::default());
        let inner = spawn_in(process.clone(), async {
            let (time, id) = (now(), new_id());
            spawn(async { draw() }).await.map(|draw| (time, draw, id))
        });
        let (time, draw, id) = inner.await.expect("it ran").expect("and what it spawned");
        assert_eq!((time, draw), (Some(process.now()), Some(7)));
        assert_eq!(id.map(|id| id.get_version_num()), Some(7));
        assert_eq!(process.0.load(Ordering::Relaxed), 2, "both tasks are the process's");
        assert_eq!(now(), None);
    }
}
