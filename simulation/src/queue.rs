//! The command queue: a broker that loses, doubles, delays and reorders, swallows ids it has seen, and may be wiped.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use steadfast::queue::{Advance, CommandQueue, Delivery, Error, Receipt};
use tokio::{sync::Notify, time::Instant};

use crate::{
    process::{Edge, Process},
    world::{Draws, World},
};

const PULL_WAIT: Duration = Duration::from_millis(500);
/// A command in hands that say nothing comes again after this.
const ACK_WAIT: Duration = Duration::from_secs(5);
/// How late a delayed command may be.
const DELAY_MAX_MS: u64 = 8_000;

pub struct Broker {
    world: Arc<World>,
    state: Mutex<State>,
    arrived: Notify,
}

#[derive(Default)]
struct State {
    away: bool,
    stuck: bool,
    incarnation: u64,
    /// Commands, in the order they are handed out, and from when on.
    waiting: Vec<(Instant, Advance)>,
    in_hands: BTreeMap<u64, (Instant, Advance)>,
    handed_out: u64,
    seen: BTreeSet<String>,
}

fn unavailable() -> Error {
    Error::Unavailable("simulated: no connection".into())
}

impl Broker {
    pub fn new(world: Arc<World>) -> Arc<Self> {
        Arc::new(Self {
            world,
            state: Mutex::default(),
            arrived: Notify::new(),
        })
    }

    pub fn go_away(&self) {
        self.lock().away = true;
    }

    pub fn come_back(&self) {
        self.lock().away = false;
    }

    /// It takes commands and hands none out, until it is wiped.
    pub fn get_stuck(&self) {
        self.lock().stuck = true;
    }

    /// Its files are gone.
    pub fn wipe(&self) {
        let mut state = self.lock();
        let (away, incarnation) = (state.away, state.incarnation + 1);
        *state = State {
            away,
            incarnation,
            ..State::default()
        };
    }

    fn put(&self, command: &Advance) {
        let noise = self.world.noise();
        let chance = |permille| self.world.chance(Draws::Network, permille);
        let id = format!("{}:{}:{}", command.run_id, command.version, command.dispatch);
        if !self.lock().seen.insert(id) {
            return;
        }
        if chance(noise.queue_lost_permille) {
            return self.world.fault("command lost");
        }
        let copies = if chance(noise.queue_doubled_permille) { 2 } else { 1 };
        if copies == 2 {
            self.world.fault("command doubled");
        }
        for _ in 0..copies {
            let mut from = Instant::now();
            if chance(noise.queue_delayed_permille) {
                self.world.fault("command delayed");
                from += self.world.millis(Draws::Network, DELAY_MAX_MS);
            }
            let mut state = self.lock();
            let reordered = noise.queue_delayed_permille > 0;
            let place = state.waiting.len() as u64;
            let place = if reordered {
                self.world.below(Draws::Network, place + 1)
            } else {
                place
            };
            state.waiting.insert(place as usize, (from, command.clone()));
        }
        self.arrived.notify_one();
    }

    /// What may be handed out now, and when to look again.
    fn take(&self, max: usize) -> (Vec<(u64, Advance)>, Option<Instant>) {
        let now = Instant::now();
        let mut state = self.lock();
        if state.stuck {
            return (Vec::new(), None);
        }
        let expired: Vec<u64> = (state.in_hands.iter())
            .filter(|(_, (until, _))| *until <= now)
            .map(|(id, _)| *id)
            .collect();
        for id in expired {
            let silent = state.in_hands.remove(&id);
            state.waiting.extend(silent);
        }
        let (mut taken, mut kept, mut next) = (Vec::new(), Vec::new(), None::<Instant>);
        for (from, command) in std::mem::take(&mut state.waiting) {
            if from <= now && taken.len() < max {
                state.handed_out += 1;
                let id = state.handed_out;
                state.in_hands.insert(id, (now + ACK_WAIT, command.clone()));
                taken.push((id, command));
            } else {
                next = Some(next.map_or(from, |next| next.min(from)));
                kept.push((from, command));
            }
        }
        state.waiting = kept;
        (taken, next)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The queue as one process reaches it.
pub struct SimulatedQueue {
    broker: Arc<Broker>,
    process: Arc<Process>,
}

impl SimulatedQueue {
    pub fn new(broker: Arc<Broker>, process: Arc<Process>) -> Arc<Self> {
        Arc::new(Self { broker, process })
    }

    async fn cross(&self) -> Result<(), Error> {
        let away = self.broker.lock().away;
        let crossed = self.process.cross(Edge::Queue, away).await;
        crossed.map_err(|_| unavailable())
    }

    /// Lost on the way, they come again after the ack wait.
    async fn hand_over(&self, taken: Vec<(u64, Advance)>) -> Result<Vec<Delivery>, Error> {
        self.cross().await?;
        let deliver = |(id, command)| {
            let (broker, process) = (self.broker.clone(), self.process.clone());
            Delivery::new(command, Box::new(InHands { id, broker, process }))
        };
        Ok(taken.into_iter().map(deliver).collect())
    }
}

#[async_trait]
impl CommandQueue for SimulatedQueue {
    async fn publish(&self, command: &Advance) -> Result<(), Error> {
        self.cross().await?;
        self.broker.put(command);
        self.cross().await
    }

    async fn pull(&self, max: usize) -> Result<Vec<Delivery>, Error> {
        self.cross().await?;
        let end = Instant::now() + PULL_WAIT;
        loop {
            let arrived = self.broker.arrived.notified();
            let (taken, next) = self.broker.take(max);
            if !taken.is_empty() {
                return self.hand_over(taken).await;
            }
            let until = next.map_or(end, |next| next.min(end));
            let _ = tokio::time::timeout_at(until, arrived).await;
            if Instant::now() >= end {
                return Ok(Vec::new());
            }
        }
    }

    async fn pull_ready(&self, max: usize) -> Result<Vec<Delivery>, Error> {
        self.cross().await?;
        let (taken, _) = self.broker.take(max);
        self.hand_over(taken).await
    }

    fn is_connected(&self) -> bool {
        !self.broker.lock().away
    }

    async fn incarnation(&self) -> Result<String, Error> {
        self.cross().await?;
        let incarnation = self.broker.lock().incarnation;
        Ok(incarnation.to_string())
    }

    async fn depth(&self) -> Result<u64, Error> {
        Ok(self.broker.lock().waiting.len() as u64)
    }
}

struct InHands {
    id: u64,
    broker: Arc<Broker>,
    process: Arc<Process>,
}

#[async_trait]
impl Receipt for InHands {
    async fn ack(self: Box<Self>) {
        if self.process.cross(Edge::Queue, false).await.is_ok() {
            self.broker.lock().in_hands.remove(&self.id);
        }
    }

    async fn give_back(self: Box<Self>, after: Duration) {
        if self.process.cross(Edge::Queue, false).await.is_ok() {
            let mut state = self.broker.lock();
            let given = state.in_hands.remove(&self.id);
            state
                .waiting
                .extend(given.map(|(_, command)| (Instant::now() + after, command)));
        }
    }
}
