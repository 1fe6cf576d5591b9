//! A simulated process: tasks that live, stand still and die together, a clock of its own, and its cables.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use chrono::TimeDelta;
use steadfast::{run::Time, simulated};
use tokio::{
    task::AbortHandle,
    time::{Instant, sleep},
};

use crate::world::{Draws, World};

/// Handles of tasks kept before those that have ended are forgotten.
const TASKS_KEPT: usize = 64;
/// A request over a cable that was cut fails at once, or after so long.
const SILENCE: Duration = Duration::from_secs(5);

/// Where a process is connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edge {
    Store,
    Queue,
    Feed,
}

pub struct Process {
    pub name: String,
    pub world: Arc<World>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What its clock shows beside the true time.
    skew: TimeDelta,
    dead: bool,
    stalled: bool,
    /// Counts both: that it began to stand still, and that it went on.
    stalls: u64,
    tasks: Vec<AbortHandle>,
    waiting: Vec<Waker>,
    cut: [Option<Instant>; 3],
}

/// The cable is cut, or the other end is away.
pub struct Unreachable;

impl Process {
    pub fn new(name: String, world: Arc<World>, skew: TimeDelta) -> Arc<Self> {
        Arc::new(Self {
            name,
            world,
            state: Mutex::new(State {
                skew,
                ..State::default()
            }),
        })
    }

    /// Spawns a task of this process.
    pub fn spawn(self: &Arc<Self>, future: impl Future<Output = ()> + Send + 'static) {
        drop(simulated::spawn_in(self.clone(), future));
    }

    pub fn is_alive(&self) -> bool {
        !self.lock().dead
    }

    /// SIGKILL.
    pub fn kill(&self) {
        let (tasks, waiting) = {
            let mut state = self.lock();
            state.dead = true;
            (std::mem::take(&mut state.tasks), std::mem::take(&mut state.waiting))
        };
        tasks.iter().for_each(AbortHandle::abort);
        drop(waiting);
    }

    /// SIGSTOP.
    pub fn stall(&self) {
        let mut state = self.lock();
        state.stalled = true;
        state.stalls += 1;
    }

    pub fn is_stalled(&self) -> bool {
        self.lock().stalled
    }

    pub fn stalls(&self) -> u64 {
        self.lock().stalls
    }

    /// SIGCONT.
    pub fn go_on(&self) {
        let waiting = {
            let mut state = self.lock();
            state.stalled = false;
            state.stalls += 1;
            std::mem::take(&mut state.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    pub fn set_clock(&self, by: TimeDelta) {
        self.lock().skew += by;
    }

    pub fn cut(&self, edge: Edge, until: Instant) {
        self.lock().cut[edge as usize] = Some(until);
    }

    /// Whether a cable is cut.
    pub fn is_off(&self, edge: Edge) -> bool {
        self.lock().cut[edge as usize].is_some_and(|until| Instant::now() < until)
    }

    /// One way over a cable.
    pub async fn cross(&self, edge: Edge, other_end_is_away: bool) -> Result<(), Unreachable> {
        let noise = self.world.noise();
        let pause = match self.world.below(Draws::Network, 1000) {
            0..600 => Duration::ZERO,
            600..950 => Duration::from_millis(1 + self.world.below(Draws::Network, 3)),
            _ => Duration::from_millis(5 + self.world.below(Draws::Network, 40)),
        };
        let late = self.world.chance(Draws::Network, noise.late_permille);
        let pause = if late {
            let pause = self.world.millis(Draws::Network, 6000);
            self.world.fault("message late by seconds");
            if edge == Edge::Store {
                self.world.trouble(Some(&self.name), pause);
            }
            pause
        } else {
            pause
        };
        if !pause.is_zero() {
            sleep(pause).await;
        }
        if other_end_is_away || self.is_off(edge) {
            if self.world.chance(Draws::Network, 500) {
                sleep(SILENCE).await;
            }
            return Err(Unreachable);
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl simulated::Process for Process {
    fn now(&self) -> Time {
        self.world.now() + self.lock().skew
    }

    fn draw(&self) -> u64 {
        self.world.draw(Draws::Process)
    }

    fn poll_turn(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if state.dead {
            return Poll::Pending;
        }
        if state.stalled {
            state.waiting.push(context.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    fn spawned(&self, task: AbortHandle) {
        let mut state = self.lock();
        if state.dead {
            return task.abort();
        }
        if state.tasks.len() >= TASKS_KEPT {
            state.tasks.retain(|task| !task.is_finished());
        }
        state.tasks.push(task);
    }
}
