//! The claims this worker holds, kept alive together: one statement for all, every third of a lease.
//!
//! A lease is measured by the database's clock. One that could not be renewed in time is not given up at once: as long
//! as nobody else has claimed the run its epoch still holds, and the next renewal or append will tell. But no new
//! effect is begun on a lease that may have ended.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use steadfast::{
    crash::{self, Point},
    feed::Signal,
    run::RunId,
    store::Reader,
};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

/// Signals a run may leave unread; they only say "look again".
const SIGNALS: usize = 16;

/// All claims of one worker.
#[derive(Clone, Default)]
pub struct Leases {
    held: Arc<Mutex<HashMap<RunId, Held>>>,
}

struct Held {
    /// 0 until the claim is won.
    epoch: u64,
    renewed: Instant,
    lost: CancellationToken,
    signals: mpsc::Sender<Signal>,
    /// A command came for the run while it was in these hands.
    again: Arc<AtomicBool>,
}

/// One run in this worker's hands; let go of by being dropped.
pub struct Lease {
    pub run_id: RunId,
    /// Another worker has claimed the run.
    pub lost: CancellationToken,
    again: Arc<AtomicBool>,
    leases: Leases,
}

impl Leases {
    /// Takes a run into this worker's hands, unless it is in them already.
    pub fn take(&self, run_id: RunId) -> Option<(Lease, mpsc::Receiver<Signal>)> {
        let mut held = self.lock();
        if held.contains_key(&run_id) {
            return None;
        }
        let (signals, receiver) = mpsc::channel(SIGNALS);
        let lost = CancellationToken::new();
        let again = Arc::<AtomicBool>::default();
        held.insert(
            run_id,
            Held {
                epoch: 0,
                renewed: Instant::now(),
                lost: lost.clone(),
                signals,
                again: again.clone(),
            },
        );
        Some((
            Lease {
                run_id,
                lost,
                again,
                leases: self.clone(),
            },
            receiver,
        ))
    }

    /// A command came for a run that may be in these hands: whether it is.
    pub fn look_again(&self, run_id: RunId) -> bool {
        let held = self.lock();
        let Some(held) = held.get(&run_id) else { return false };
        held.again.store(true, Ordering::Relaxed);
        let _ = held.signals.try_send(Signal::Changed);
        true
    }

    pub fn signal(&self, run_id: RunId, signal: Signal) {
        if let Some(held) = self.lock().get(&run_id) {
            let _ = held.signals.try_send(signal);
        }
    }

    /// Renews until told to stop.
    pub async fn keep(&self, reader: &Reader, owner: &str, ttl: Duration, stop: &CancellationToken) {
        let mut tick = tokio::time::interval(ttl / 3);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            let started = Instant::now();
            // A claim of this very moment needs no renewal yet: short runs never cost one.
            let aged: Vec<(RunId, u64)> = (self.lock().iter())
                .filter(|(_, held)| held.epoch > 0 && held.renewed.elapsed() >= ttl / 4)
                .map(|(run_id, held)| (*run_id, held.epoch))
                .collect();
            if aged.is_empty() {
                continue;
            }
            crash::at(Point::RenewBefore);
            match reader.renew(owner, &aged, ttl).await {
                Ok(renewed) => {
                    crash::at(Point::RenewAfter);
                    self.note(&aged, &renewed, started);
                }
                Err(error) => tracing::warn!(%error, runs = aged.len(), "leases could not be renewed"),
            }
        }
    }

    fn note(&self, asked: &[(RunId, u64)], renewed: &[RunId], at: Instant) {
        let mut held = self.lock();
        for (run_id, epoch) in asked {
            let Some(held) = held.get_mut(run_id).filter(|held| held.epoch == *epoch) else {
                continue;
            };
            if renewed.contains(run_id) {
                held.renewed = at;
            } else {
                // Ended meanwhile, handed back, or claimed by another: in each case not ours any more.
                held.lost.cancel();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RunId, Held>> {
        self.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Lease {
    /// The claim was won: renewals begin.
    pub fn won(&self, epoch: u64, at: Instant) {
        if let Some(held) = self.leases.lock().get_mut(&self.run_id) {
            held.epoch = epoch;
            held.renewed = at;
        }
    }

    /// Set once a command has come for the run while it was in these hands.
    pub fn look_again(&self) -> Arc<AtomicBool> {
        self.again.clone()
    }

    /// The claim was let go of: a renewal would no longer find it.
    pub fn released(&self) {
        if let Some(held) = self.leases.lock().get_mut(&self.run_id) {
            held.epoch = 0;
        }
    }

    /// Whether the lease surely still runs.
    pub fn is_fresh(&self, ttl: Duration) -> bool {
        self.leases
            .lock()
            .get(&self.run_id)
            .is_some_and(|held| held.renewed.elapsed() < ttl)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.leases.lock().remove(&self.run_id);
    }
}
