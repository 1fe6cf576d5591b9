//! Who may call which model now: the gates of all models and the places of all tenants, in one process.
//!
//! What decides is pure ([`gate`], [`breaker`], [`budget`]); here it is shared, waited for, and tied to the life of a
//! [`Ticket`], so that a call that is dropped gives back what it held.

mod breaker;
mod budget;
mod gate;

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use steadfast::{metrics, run::TenantId};
use tokio::sync::Notify;

pub use breaker::Phase;
pub use gate::{Blocked, Reason, Standing};
use gate::{End, Gate, Pass};

use super::{ModelError, link::Link};
use crate::clock;

/// Failed tries of a call at one link before the next link is asked first.
const ATTEMPTS_PER_LINK: u32 = 2;
/// Runs that wait in a worker's slots for a place; the others are parked at once.
const WAITING_MAX: usize = 256;
/// Gates kept. The models come from agent files, so there are few; of those nobody uses, some are forgotten.
const GATES_MAX: usize = 1024;

/// How many calls may be made at the same time.
#[derive(Debug, Clone)]
pub struct Bulkheads {
    /// To one model of one provider, where the provider has no limit of its own.
    pub per_model: usize,
    pub per_tenant: usize,
    /// To one model of these providers.
    pub per_provider: HashMap<String, usize>,
}

impl Default for Bulkheads {
    fn default() -> Self {
        Self {
            per_model: 10_000,
            per_tenant: 10_000,
            per_provider: HashMap::new(),
        }
    }
}

pub struct Admission {
    inner: Mutex<Inner>,
    bulkheads: Bulkheads,
    /// A call has ended: those who wait look again.
    freed: Notify,
    waiting: AtomicUsize,
}

#[derive(Default)]
struct Inner {
    gates: HashMap<Link, Gate>,
    /// Calls in flight.
    tenants: HashMap<TenantId, usize>,
}

/// The try of a model call that asks for leave.
#[derive(Debug, Clone, Copy)]
pub struct Try {
    pub attempt: u32,
    /// The one before failed. One that a crash of ours took says nothing about the provider: making it again takes
    /// nothing from the budget of retries, or the runs of a dead worker would wait for it one by one.
    pub retry: bool,
}

impl Admission {
    pub fn new(bulkheads: Bulkheads) -> Self {
        Self {
            inner: Mutex::default(),
            bulkheads,
            freed: Notify::new(),
            waiting: AtomicUsize::new(0),
        }
    }

    /// Leave for one call, at the first link of the chain that has a place; else why not, and until when.
    pub fn admit(self: &Arc<Self>, chain: &[Link], asking: Try, tenant: &TenantId) -> Result<Ticket, Blocked> {
        let now = clock::instant();
        let mut inner = self.lock();
        if inner
            .tenants
            .get(tenant)
            .is_some_and(|calls| *calls >= self.bulkheads.per_tenant.max(1))
        {
            return Err(Blocked::by_another_call(Reason::TenantBusy, now));
        }
        let mut soonest: Option<Blocked> = None;
        for link in in_order(chain, asking.attempt) {
            match inner.gate(link, &self.bulkheads, now).enter(asking.retry, now) {
                Ok(pass) => {
                    *inner.tenants.entry(tenant.clone()).or_default() += 1;
                    return Ok(Ticket {
                        admission: self.clone(),
                        link: link.clone(),
                        fallback: chain.first() != Some(link),
                        tenant: tenant.clone(),
                        retry: asking.retry,
                        pass,
                        made: false,
                        settled: false,
                    });
                }
                Err(blocked) if soonest.is_none_or(|soonest| blocked.until < soonest.until) => soonest = Some(blocked),
                Err(_) => {}
            }
        }
        Err(soonest.unwrap_or_else(|| Blocked::by_another_call(Reason::ProviderBusy, now)))
    }

    /// Returns once there is leave, or when it is clear that there will be none in time.
    pub async fn wait(self: &Arc<Self>, chain: &[Link], asking: Try, tenant: &TenantId, time: Duration) {
        let began = clock::instant();
        let mut waiting = None;
        loop {
            // Listens before it looks, so that nothing is missed in between.
            let freed = self.freed.notified();
            let Err(blocked) = self.admit(chain, asking, tenant).map(drop) else {
                break;
            };
            if blocked.until > began + time {
                break;
            }
            if waiting.is_none() {
                waiting = Waiting::begin(self, blocked.reason, began);
            }
            if waiting.is_none() {
                break;
            }
            tokio::select! {
                () = tokio::time::sleep_until(blocked.until.into()) => {}
                () = freed => {}
            }
        }
    }

    pub fn standings(&self) -> Vec<(Link, Standing)> {
        let now = clock::instant();
        let mut standings: Vec<_> = (self.lock().gates.iter_mut())
            .map(|(link, gate)| (link.clone(), gate.standing(now)))
            .collect();
        standings.sort_by(|a, b| a.0.cmp(&b.0));
        standings
    }

    fn leave(&self, link: &Link, tenant: &TenantId, pass: Pass, end: End<'_>) -> bool {
        let now = clock::instant();
        let mut inner = self.lock();
        if let Some(calls) = inner.tenants.get_mut(tenant) {
            *calls = calls.saturating_sub(1);
            if *calls == 0 {
                inner.tenants.remove(tenant);
            }
        }
        let counts = (inner.gates.get_mut(link)).is_none_or(|gate| {
            let counts = gate.leave(pass, end, now, clock::jitter());
            tell(link, &gate.standing(now));
            counts
        });
        drop(inner);
        // A place that nobody waits for wakes nobody.
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.freed.notify_waiters();
        }
        counts
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn gate(&mut self, link: &Link, bulkheads: &Bulkheads, now: Instant) -> &mut Gate {
        if self.gates.len() >= GATES_MAX && !self.gates.contains_key(link) {
            self.gates.retain(|_, gate| {
                let standing = gate.standing(now);
                standing.in_flight > 0 || standing.phase != Phase::Closed || standing.paused_until.is_some()
            });
        }
        self.gates.entry(link.clone()).or_insert_with(|| {
            let own = bulkheads.per_provider.get(&link.provider);
            Gate::new(own.copied().unwrap_or(bulkheads.per_model), now)
        })
    }
}

/// The whole chain, beginning with the link whose turn it is.
fn in_order(chain: &[Link], attempt: u32) -> impl Iterator<Item = &Link> {
    let first = (attempt.saturating_sub(1) / ATTEMPTS_PER_LINK) as usize % chain.len().max(1);
    let (before, from) = chain.split_at(first.min(chain.len()));
    from.iter().chain(before)
}

fn tell(link: &Link, standing: &Standing) {
    let labels = [link.provider.as_str(), link.model.as_str()];
    let state = match standing.phase {
        Phase::Closed => 0,
        Phase::HalfOpen { .. } => 1,
        Phase::Open { .. } => 2,
    };
    let m = metrics::providers();
    m.breaker_state.with_label_values(&labels).set(state);
    let paused = i64::from(standing.paused_until.is_some());
    m.paused.with_label_values(&labels).set(paused);
    m.in_flight.with_label_values(&labels).set(standing.in_flight as i64);
}

/// One that waits in its slot, counted and measured.
struct Waiting<'a> {
    admission: &'a Admission,
    reason: Reason,
    began: Instant,
}

impl<'a> Waiting<'a> {
    fn begin(admission: &'a Admission, reason: Reason, began: Instant) -> Option<Self> {
        if admission.waiting.fetch_add(1, Ordering::Relaxed) >= WAITING_MAX {
            admission.waiting.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Self {
            admission,
            reason,
            began,
        })
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.admission.waiting.fetch_sub(1, Ordering::Relaxed);
        let waited = clock::instant().saturating_duration_since(self.began);
        metrics::providers()
            .waits
            .with_label_values(&[self.reason.as_str()])
            .observe(waited.as_secs_f64());
    }
}

/// Leave for one call, and its places. Dropped, it gives back what it held.
pub struct Ticket {
    admission: Arc<Admission>,
    link: Link,
    fallback: bool,
    tenant: TenantId,
    retry: bool,
    pass: Pass,
    made: bool,
    settled: bool,
}

impl Ticket {
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// The call is about to leave.
    pub fn call_made(&mut self) {
        self.made = true;
        let labels = [self.link.provider.as_str(), self.link.model.as_str()];
        let m = metrics::providers();
        m.calls.with_label_values(&labels).inc();
        // Counted from nothing, so that the first one shows.
        m.retries.with_label_values(&labels).inc_by(self.retry.into());
        m.fallbacks.with_label_values(&labels).inc_by(self.fallback.into());
        if let Some(gate) = self.admission.lock().gates.get_mut(&self.link) {
            tell(&self.link, &gate.standing(clock::instant()));
        }
    }

    pub fn replied(mut self) {
        self.settle(End::Replied);
    }

    /// Whether the failure counts against the run's attempts.
    pub fn failed(mut self, error: &ModelError) -> bool {
        self.settle(End::Failed(error))
    }

    fn settle(&mut self, end: End<'_>) -> bool {
        self.settled = true;
        self.admission.leave(&self.link, &self.tenant, self.pass, end)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.settled {
            let end = if self.made { End::Dropped } else { End::Unmade };
            self.settle(end);
        }
    }
}
