//! The circuit breaker of one model: closed, open, half-open. Pure: time and chance come in as arguments.
//!
//! It opens where at least half of 20 or more calls in 30 s failed. Thin traffic would never get there, and a lonely run
//! would use up its attempts first: five failures in a row over at least a second, with no success in the window, open
//! it too. Open, it lets nothing through for 5 s, doubled with each vain opening up to 60 s; then one probe at a time,
//! and three that succeed close it.

use std::time::{Duration, Instant};

const WINDOW_SECONDS: usize = 30;
const CALLS_MIN: u32 = 20;
const ROW_FAILURES: u32 = 5;
const ROW_MIN: Duration = Duration::from_secs(1);
const OPEN_FIRST: Duration = Duration::from_secs(5);
const OPEN_MAX: Duration = Duration::from_secs(60);
const SUCCESSES_TO_CLOSE: u32 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Closed,
    Open { until: Instant },
    HalfOpen { successes: u32, probing: bool },
}

/// What a call has shown about the provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It answers.
    Healthy,
    /// Out of order: 5xx, a timeout, no connection.
    Failing,
    /// The call was not made, or its outcome says nothing.
    Unknown,
}

/// Leave to make one call. Of another phase than the present one it counts no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pass {
    generation: u64,
}

#[derive(Debug, Clone)]
pub struct Breaker {
    phase: Phase,
    since: Instant,
    generation: u64,
    /// Openings since it was last closed.
    openings: u32,
    window: Window,
    row: Option<Row>,
}

/// Failures since the last success.
#[derive(Debug, Clone, Copy)]
struct Row {
    since: Instant,
    failures: u32,
}

impl Breaker {
    pub fn new(now: Instant) -> Self {
        Self {
            phase: Phase::Closed,
            since: now,
            generation: 0,
            openings: 0,
            window: Window::new(now),
            row: None,
        }
    }

    pub fn phase(&self) -> Phase {
        self.phase
    }

    pub fn since(&self) -> Instant {
        self.since
    }

    /// Calls and failures of the window.
    pub fn recent(&mut self, now: Instant) -> (u32, u32) {
        self.window.turn_to(now);
        self.window.totals()
    }

    /// Leave to call, or until when there is none; without a time, until the probe under way has ended.
    pub fn enter(&mut self, now: Instant) -> Result<Pass, Option<Instant>> {
        match self.phase {
            Phase::Closed => {}
            Phase::Open { until } if now < until => return Err(Some(until)),
            Phase::HalfOpen { probing: true, .. } => return Err(None),
            Phase::Open { .. } => self.turn(
                Phase::HalfOpen {
                    successes: 0,
                    probing: true,
                },
                now,
            ),
            Phase::HalfOpen { successes, .. } => {
                self.phase = Phase::HalfOpen {
                    successes,
                    probing: true,
                };
            }
        }
        Ok(Pass {
            generation: self.generation,
        })
    }

    /// Takes in how a call ended. `jitter` is a number drawn from 0 to 1.
    pub fn leave(&mut self, pass: Pass, verdict: Verdict, now: Instant, jitter: f64) {
        if pass.generation != self.generation {
            return;
        }
        match (self.phase, verdict) {
            (Phase::Closed, Verdict::Unknown) | (Phase::Open { .. }, _) => {}
            (Phase::Closed, Verdict::Healthy) => {
                self.row = None;
                self.window.count(now, false);
            }
            (Phase::Closed, Verdict::Failing) => {
                let row = self.row.get_or_insert(Row {
                    since: now,
                    failures: 0,
                });
                row.failures = row.failures.saturating_add(1);
                let row = *row;
                self.window.count(now, true);
                let (calls, failures) = self.window.totals();
                let many = calls >= CALLS_MIN && failures * 2 >= calls;
                let all = row.failures >= ROW_FAILURES
                    && now.saturating_duration_since(row.since) >= ROW_MIN
                    && failures == calls;
                if many || all {
                    self.open(now, jitter);
                }
            }
            (Phase::HalfOpen { .. }, Verdict::Failing) => self.open(now, jitter),
            (Phase::HalfOpen { successes, .. }, Verdict::Healthy) if successes + 1 >= SUCCESSES_TO_CLOSE => {
                self.openings = 0;
                self.row = None;
                self.window = Window::new(now);
                self.turn(Phase::Closed, now);
            }
            (Phase::HalfOpen { successes, .. }, verdict) => {
                self.phase = Phase::HalfOpen {
                    successes: successes + u32::from(verdict == Verdict::Healthy),
                    probing: false,
                };
            }
        }
    }

    /// For half to all of the time: those who share a provider should not come back together.
    fn open(&mut self, now: Instant, jitter: f64) {
        let ceiling = OPEN_FIRST.saturating_mul(1 << self.openings.min(16)).min(OPEN_MAX);
        let jitter = if jitter.is_nan() { 1.0 } else { jitter.clamp(0.0, 1.0) };
        self.openings = self.openings.saturating_add(1);
        self.turn(
            Phase::Open {
                until: now + ceiling.mul_f64(0.5 + jitter / 2.0),
            },
            now,
        );
    }

    fn turn(&mut self, phase: Phase, now: Instant) {
        self.phase = phase;
        self.since = now;
        self.generation += 1;
    }
}

/// Calls and failures of the last seconds, a slot for each second.
#[derive(Debug, Clone)]
struct Window {
    origin: Instant,
    second: u64,
    slots: [(u32, u32); WINDOW_SECONDS],
}

impl Window {
    fn new(now: Instant) -> Self {
        Self {
            origin: now,
            second: 0,
            slots: [(0, 0); WINDOW_SECONDS],
        }
    }

    fn turn_to(&mut self, now: Instant) {
        let second = now.saturating_duration_since(self.origin).as_secs();
        let passed = second.saturating_sub(self.second).min(WINDOW_SECONDS as u64);
        for back in 0..passed {
            self.slots[(second - back) as usize % WINDOW_SECONDS] = (0, 0);
        }
        self.second = self.second.max(second);
    }

    fn count(&mut self, now: Instant, failed: bool) {
        self.turn_to(now);
        let (calls, failures) = &mut self.slots[self.second as usize % WINDOW_SECONDS];
        *calls = calls.saturating_add(1);
        *failures = failures.saturating_add(failed.into());
    }

    fn totals(&self) -> (u32, u32) {
        self.slots.iter().fold((0, 0), |(calls, failures), (more, failed)| {
            (calls.saturating_add(*more), failures.saturating_add(*failed))
        })
    }
}
