//! The live feed: frames to the gateways, signals to the workers; any of them may be lost, late, or out of order.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use steadfast::{
    feed::{Frame, Hub, LiveFeed, Signal, Subscription},
    run::RunId,
};
use tokio::sync::mpsc;

use crate::{
    process::{Edge, Process},
    world::{Draws, World},
};

const SIGNALS: usize = 1024;
/// Publishing never waits, as on NATS: what does not fit is lost.
const QUEUED_MAX: usize = 1024;
const DELAY_MAX_MS: u64 = 3_000;

type Worker = (Arc<Process>, mpsc::Sender<(RunId, Signal)>);

/// Everybody who listens.
#[derive(Default)]
pub struct Airwaves {
    hubs: Mutex<Vec<(Arc<Process>, Hub)>>,
    workers: Mutex<Vec<Worker>>,
}

pub struct SimulatedFeed {
    air: Arc<Airwaves>,
    process: Arc<Process>,
    hub: Hub,
    outgoing: mpsc::Sender<Vec<Frame>>,
}

impl SimulatedFeed {
    pub fn new(air: Arc<Airwaves>, process: Arc<Process>) -> Arc<Self> {
        let hub = Hub::default();
        let mut hubs = air.hubs.lock().unwrap_or_else(PoisonError::into_inner);
        hubs.retain(|(process, _)| process.is_alive());
        hubs.push((process.clone(), hub.clone()));
        drop(hubs);
        let (outgoing, queued) = mpsc::channel(QUEUED_MAX);
        process.spawn(send(air.clone(), process.clone(), queued));
        Arc::new(Self {
            air,
            process,
            hub,
            outgoing,
        })
    }
}

/// Sends what is queued, until the feed is dropped.
async fn send(air: Arc<Airwaves>, process: Arc<Process>, mut queued: mpsc::Receiver<Vec<Frame>>) {
    while let Some(frames) = queued.recv().await {
        if process.cross(Edge::Feed, false).await.is_ok() {
            air.spread(&process.world, &frames);
        }
    }
}

impl Airwaves {
    fn spread(&self, world: &World, frames: &[Frame]) {
        let hubs = self.hubs.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (gateway, hub) in hubs {
            if !gateway.is_alive() {
                continue;
            }
            for frame in frames {
                if let Some(delay) = fate(world) {
                    let (gateway, hub, frame) = (gateway.clone(), hub.clone(), frame.clone());
                    late(delay, move || {
                        if gateway.is_alive() && !gateway.is_off(Edge::Feed) {
                            hub.publish(frame);
                        }
                    });
                }
            }
        }
    }
}

/// Whether a message gets through, and how late.
fn fate(world: &World) -> Option<Duration> {
    let noise = world.noise();
    if world.chance(Draws::Network, noise.feed_lost_permille) {
        world.fault("frame lost");
        return None;
    }
    if world.chance(Draws::Network, noise.feed_delayed_permille) {
        world.fault("frame delayed");
        return Some(world.millis(Draws::Network, DELAY_MAX_MS));
    }
    Some(Duration::ZERO)
}

fn late(delay: Duration, deliver: impl FnOnce() + Send + 'static) {
    if delay.is_zero() {
        deliver();
    } else {
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            deliver();
        });
    }
}

#[async_trait]
impl LiveFeed for SimulatedFeed {
    async fn publish(&self, frames: Vec<Frame>) {
        let _ = self.outgoing.try_send(frames);
    }

    async fn subscribe(&self, run_id: RunId) -> Subscription {
        while self.process.cross(Edge::Feed, false).await.is_err() {}
        self.hub.subscribe(run_id)
    }

    async fn signal(&self, run_id: RunId, signal: Signal) {
        if self.process.cross(Edge::Feed, false).await.is_err() {
            return;
        }
        let workers = self.air.workers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (worker, sender) in workers {
            if let Some(delay) = fate(&self.process.world) {
                late(delay, move || {
                    if worker.is_alive() && !worker.is_off(Edge::Feed) {
                        let _ = sender.try_send((run_id, signal));
                    }
                });
            }
        }
    }

    async fn signals(&self) -> mpsc::Receiver<(RunId, Signal)> {
        let (sender, receiver) = mpsc::channel(SIGNALS);
        let mut workers = self.air.workers.lock().unwrap_or_else(PoisonError::into_inner);
        workers.retain(|(worker, _)| worker.is_alive());
        workers.push((self.process.clone(), sender));
        receiver
    }
}
