//! What stands before one model of one provider: its pause, its breaker, its places, its retry budget. Pure.

use std::time::{Duration, Instant};

use super::{
    breaker::{self, Breaker, Phase, Verdict},
    budget::RetryBudget,
};
use crate::model::{ErrorClass, ModelError, RetryPolicy};

/// A provider that asks for patience and does not say how long gets this much.
const PAUSE: Duration = Duration::from_secs(1);
/// When to look again where the end of another call is what is waited for. Whoever waits is woken before.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Why a call cannot be made now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    BreakerOpen,
    RateLimited,
    RetryBudget,
    ProviderBusy,
    TenantBusy,
}

impl Reason {
    /// The word in the log and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BreakerOpen => "breaker_open",
            Self::RateLimited => "rate_limited",
            Self::RetryBudget => "retry_budget",
            Self::ProviderBusy => "provider_busy",
            Self::TenantBusy => "tenant_busy",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocked {
    pub until: Instant,
    pub reason: Reason,
}

impl Blocked {
    pub fn by_another_call(reason: Reason, now: Instant) -> Self {
        Self {
            until: now + LOOK_AGAIN,
            reason,
        }
    }
}

/// Leave to make one call; to be handed back with how it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pass {
    breaker: breaker::Pass,
    retry: bool,
}

/// How a call ended.
#[derive(Debug, Clone, Copy)]
pub enum End<'e> {
    /// It was never made.
    Unmade,
    /// Nobody waited for its outcome.
    Dropped,
    Replied,
    Failed(&'e ModelError),
}

/// A gate as it stands, for people.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Standing {
    pub phase: Phase,
    pub since: Instant,
    pub paused_until: Option<Instant>,
    pub in_flight: usize,
    pub calls: u32,
    pub failures: u32,
}

#[derive(Debug, Clone)]
pub struct Gate {
    breaker: Breaker,
    budget: RetryBudget,
    paused_until: Option<Instant>,
    in_flight: usize,
    concurrency_max: usize,
}

impl Gate {
    pub fn new(concurrency_max: usize, now: Instant) -> Self {
        Self {
            breaker: Breaker::new(now),
            budget: RetryBudget::new(now),
            paused_until: None,
            in_flight: 0,
            concurrency_max: concurrency_max.max(1),
        }
    }

    pub fn enter(&mut self, retry: bool, now: Instant) -> Result<Pass, Blocked> {
        if let Some(until) = self.paused_until.filter(|until| now < *until) {
            let reason = Reason::RateLimited;
            return Err(Blocked { until, reason });
        }
        if let Phase::Open { until } = self.breaker.phase()
            && now < until
        {
            let reason = Reason::BreakerOpen;
            return Err(Blocked { until, reason });
        }
        if self.in_flight >= self.concurrency_max {
            return Err(Blocked::by_another_call(Reason::ProviderBusy, now));
        }
        if retry {
            let reason = Reason::RetryBudget;
            self.budget.take(now).map_err(|until| Blocked { until, reason })?;
        }
        match self.breaker.enter(now) {
            Ok(breaker) => {
                self.in_flight += 1;
                Ok(Pass { breaker, retry })
            }
            Err(until) => {
                if retry {
                    self.budget.give_back();
                }
                let waits = Blocked::by_another_call(Reason::BreakerOpen, now);
                Err(until.map_or(waits, |until| Blocked { until, ..waits }))
            }
        }
    }

    /// Takes in how a call ended. Whether a failure counts against the run's attempts: not where the provider asks for
    /// patience, and not where it is known to be away.
    pub fn leave(&mut self, pass: Pass, end: End<'_>, now: Instant, jitter: f64) -> bool {
        self.in_flight = self.in_flight.saturating_sub(1);
        match end {
            End::Unmade if pass.retry => self.budget.give_back(),
            End::Dropped | End::Replied | End::Failed(_) if !pass.retry => self.budget.earn(),
            _ => {}
        }
        let verdict = match end {
            End::Unmade | End::Dropped => Verdict::Unknown,
            End::Replied => Verdict::Healthy,
            End::Failed(error) => verdict(error.class),
        };
        self.breaker.leave(pass.breaker, verdict, now, jitter);
        let End::Failed(error) = end else { return true };
        if error.class == ErrorClass::RateLimited {
            let pause = error
                .retry_after
                .unwrap_or(PAUSE)
                .min(RetryPolicy::default().retry_after_max);
            self.paused_until = self.paused_until.max(Some(now + pause));
            return false;
        }
        verdict != Verdict::Failing || self.breaker.phase() == Phase::Closed
    }

    pub fn standing(&mut self, now: Instant) -> Standing {
        let (calls, failures) = self.breaker.recent(now);
        Standing {
            phase: self.breaker.phase(),
            since: self.breaker.since(),
            paused_until: self.paused_until.filter(|until| now < *until),
            in_flight: self.in_flight,
            calls,
            failures,
        }
    }
}

fn verdict(class: ErrorClass) -> Verdict {
    match class {
        ErrorClass::Unavailable | ErrorClass::Timeout | ErrorClass::Connection => Verdict::Failing,
        // It refuses: so it answers.
        ErrorClass::Rejected => Verdict::Healthy,
        ErrorClass::RateLimited | ErrorClass::Malformed => Verdict::Unknown,
    }
}
