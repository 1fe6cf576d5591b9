//! What all tenants ask of the workers, looked at now and then, and what follows for a new run: announced at once, put
//! into its tenant's line, or refused until there is less to do.
//!
//! * A tenant with a line: its new runs join it, unannounced, so that they neither overtake it nor fill the queue.
//! * A tenant whose line is full is refused. Others do not notice.
//! * When a run waits too long although its tenant has less than its share of the workers, there is more to do than
//!   can be done: everybody is refused. A tenant that waits behind its own runs is no sign of that.
//!
//! The look is half a second old at the most, and each gateway adds only what it accepts itself; so a line may grow past
//! its limit by what other gateways accept in that time, and by what is on its way into the store while one looks. Nothing
//! is looked up for a request.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::http::{HeaderName, HeaderValue, StatusCode};
use steadfast::{
    metrics,
    run::{RunId, TenantId},
    store::{Demand, Reader},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{clock, limits::GatewayLimits, problem::Problem};

/// The pause between two looks, and how many times as long as a look it is at least: looking costs little however much
/// waits.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const LOOK_SHARE: u32 = 20;
/// What was seen longer ago says nothing any more. While the database is away its own error is the answer.
const STALE_AFTER: Duration = Duration::from_secs(15);
/// How fast a newly measured rate replaces the one before.
const SMOOTHING: f64 = 0.3;
/// The bounds of `Retry-After`, in seconds.
const RETRY_SECONDS: (f64, f64) = (1.0, 60.0);

/// Where a new run goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    Announced,
    /// Into its tenant's line.
    Held,
}

#[derive(Default)]
struct Line {
    held: u64,
    waiting: u64,
    drained: Rate,
}

/// How many a second, measured.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Rate(Option<f64>);

#[derive(Default)]
pub struct DemandView(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    at: Option<Instant>,
    lines: HashMap<TenantId, Line>,
    /// All that waits, and how fast it gets less.
    waiting: u64,
    drained: Rate,
    /// How long the run has waited that waits longest through no fault of its tenant.
    waited: Duration,
    /// How long the run has been without a worker that should have had one longest.
    oldest: Duration,
}

impl DemandView {
    /// May this tenant post a run now, and where would it go?
    pub fn admit(&self, tenant: &TenantId, limits: &GatewayLimits) -> Result<Admission, Problem> {
        let mut seen = self.lock();
        if seen.at.is_none_or(|at| at.elapsed() > STALE_AFTER) {
            return Ok(Admission::Announced);
        }
        let waited_max = limits.waited_seconds_max;
        if waited_max > 0 && seen.waited > Duration::from_secs(waited_max) {
            let seconds = retry_after(seen.waiting, seen.drained);
            return Err(overload(seen.waited, waited_max, seconds));
        }
        let Some(line) = seen.lines.get_mut(tenant) else {
            return Ok(Admission::Announced);
        };
        let max = limits.held_runs_per_tenant_max;
        if line.held >= max {
            return Err(line_is_full(max, retry_after(line.waiting, line.drained)));
        }
        if line.held < limits.line_runs_min {
            return Ok(Admission::Announced);
        }
        line.held += 1;
        line.waiting += 1;
        Ok(Admission::Held)
    }

    /// Looks until told to stop.
    pub async fn keep(&self, reader: &Reader, stop: &CancellationToken) {
        let mut pause = LOOK_EVERY;
        // The newest run there could have been at the last look.
        let mut newest = RunId::default();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            let (began, now) = (Instant::now(), RunId(clock::new_id()));
            match reader.demand(newest).await {
                Ok(demand) => {
                    newest = now;
                    let mut seen = self.lock();
                    *seen = seen.next(&demand, began);
                    seen.tell();
                }
                Err(error) => tracing::debug!(%error, "what waits for the workers could not be looked up"),
            }
            pause = LOOK_EVERY.max(began.elapsed() * LOOK_SHARE);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    /// What is seen now, after what was seen before: the difference is what has found a place.
    fn next(&self, demand: &[Demand], at: Instant) -> Self {
        let elapsed = self.at.map(|before| at.duration_since(before));
        let lines = demand.iter().map(|demand| {
            let before = self.lines.get(&demand.tenant);
            let waited_before = before.map_or(0, |before| before.waiting);
            let drained = before.map_or(Rate::default(), |before| before.drained);
            let line = Line {
                held: demand.held,
                waiting: demand.waiting(),
                drained: drained.after(waited_before.saturating_sub(demand.older), elapsed),
            };
            (demand.tenant.clone(), line)
        });
        let older: u64 = demand.iter().map(|demand| demand.older).sum();
        let waited = waited_unfairly(demand);
        Self {
            at: Some(at),
            lines: lines.collect(),
            waiting: demand.iter().map(Demand::waiting).sum(),
            drained: self.drained.after(self.waiting.saturating_sub(older), elapsed),
            waited,
            oldest: demand.iter().map(|demand| demand.oldest).fold(waited, Duration::max),
        }
    }

    fn tell(&self) {
        let flow = metrics::flow();
        let held = self.lines.values().map(|line| line.held);
        let lines = held.clone().filter(|held| *held > 0).count();
        let held: u64 = held.sum();
        flow.runnable
            .set(i64::try_from(self.waiting - held.min(self.waiting)).unwrap_or(i64::MAX));
        flow.held.set(i64::try_from(held).unwrap_or(i64::MAX));
        flow.lines.set(i64::try_from(lines).unwrap_or(i64::MAX));
        flow.oldest_runnable.set(self.oldest.as_secs_f64());
        flow.drained.set(self.drained.0.unwrap_or_default());
    }
}

impl Rate {
    fn after(self, gone: u64, elapsed: Option<Duration>) -> Self {
        let Some(elapsed) = elapsed.filter(|elapsed| !elapsed.is_zero()) else {
            return self;
        };
        let measured = gone as f64 / elapsed.as_secs_f64();
        Self(Some(
            self.0
                .map_or(measured, |before| before + SMOOTHING * (measured - before)),
        ))
    }
}

/// How long the first run has waited of any tenant that has less than an equal share of what is running.
fn waited_unfairly(demand: &[Demand]) -> Duration {
    let running: u64 = demand.iter().map(|demand| demand.running).sum();
    let tenants = demand.len() as u64;
    (demand.iter())
        .filter(|demand| demand.waiting() > 0 && (demand.running == 0 || demand.running * tenants < running))
        .map(|demand| demand.waited)
        .max()
        .unwrap_or_default()
}

/// When what waits now will have found a place, at the measured rate.
fn retry_after(waiting: u64, drained: Rate) -> u64 {
    let (least, most) = RETRY_SECONDS;
    let seconds = match drained.0 {
        Some(rate) if rate > 0.0 => waiting as f64 / rate,
        // Nothing moves.
        Some(_) => most,
        None => least,
    };
    seconds.clamp(least, most).ceil() as u64
}

fn line_is_full(max: u64, seconds: u64) -> Problem {
    metrics::http().rejected.with_label_values(&["held_runs"]).inc();
    let detail = format!(
        "{max} runs of this tenant wait for a place at the workers (gateway.held_runs_per_tenant_max); try again in \
         {seconds} s"
    );
    let value = |text: String| HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""));
    Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_held_runs", detail)
        .retry_after(seconds)
        .header(
            HeaderName::from_static("ratelimit-policy"),
            value(format!("\"held_runs\";q={max}")),
        )
        .header(
            HeaderName::from_static("ratelimit"),
            value(format!("\"held_runs\";r=0;t={seconds}")),
        )
}

fn overload(waited: Duration, waited_max: u64, seconds: u64) -> Problem {
    metrics::http().rejected.with_label_values(&["overload"]).inc();
    let detail = format!(
        "there is more to do than the workers can: a run has waited {} s for a place, and more than {waited_max} s \
         (gateway.waited_seconds_max) is too long to accept another; try again in {seconds} s",
        waited.as_secs()
    );
    Problem::new(StatusCode::TOO_MANY_REQUESTS, "overloaded", detail).retry_after(seconds)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn demand(tenant: &str, running: u64, held: u64, waited: u64) -> Demand {
        Demand {
            tenant: tenant.parse().expect("a tenant"),
            running,
            held,
            older: held,
            waited: Duration::from_secs(waited),
            ..Demand::default()
        }
    }

    fn limits() -> GatewayLimits {
        GatewayLimits {
            held_runs_per_tenant_max: 10,
            line_runs_min: 2,
            waited_seconds_max: 30,
            ..GatewayLimits::default()
        }
    }

    fn seeing(looks: &[Vec<Demand>]) -> DemandView {
        let now = Instant::now();
        let view = DemandView::default();
        for (at, demand) in looks.iter().enumerate() {
            let at = now - Duration::from_secs((looks.len() - at) as u64);
            let mut seen = view.lock();
            *seen = seen.next(demand, at);
        }
        view
    }

    fn admitted(view: &DemandView, tenant: &str) -> Result<Admission, (u16, &'static str)> {
        view.admit(&tenant.parse().expect("a tenant"), &limits())
            .map_err(|problem| (problem.status().as_u16(), problem.code_word()))
    }

    #[test]
    fn a_run_joins_its_tenants_line_where_there_is_one_and_is_refused_where_it_is_full() {
        let view = seeing(&[vec![
            demand("short", 4, 1, 1),
            demand("long", 4, 8, 1),
            demand("full", 4, 10, 1),
        ]]);
        assert_eq!(admitted(&view, "new"), Ok(Admission::Announced));
        assert_eq!(admitted(&view, "short"), Ok(Admission::Announced));
        // What this gateway adds counts before the next look.
        assert_eq!(admitted(&view, "long"), Ok(Admission::Held));
        assert_eq!(admitted(&view, "long"), Ok(Admission::Held));
        for tenant in ["long", "full"] {
            assert_eq!(admitted(&view, tenant), Err((429, "too_many_held_runs")));
        }
    }

    #[test]
    fn a_tenant_behind_its_own_runs_is_no_overload_and_one_that_waits_for_others_is() {
        let flood = demand("flood", 56, 9, 3_000);
        let mut looks = vec![vec![flood.clone(), demand("b", 2, 0, 0)]];
        assert_eq!(admitted(&seeing(&looks), "b"), Ok(Admission::Announced));
        assert_eq!(admitted(&seeing(&looks), "flood"), Ok(Admission::Held));
        looks[0][1] = demand("b", 2, 5, 31);
        assert_eq!(admitted(&seeing(&looks), "c"), Err((429, "overloaded")));
        // Nobody works at all.
        looks[0] = vec![demand("flood", 0, 9, 31)];
        assert_eq!(admitted(&seeing(&looks), "c"), Err((429, "overloaded")));
    }

    #[test]
    fn the_oldest_run_without_a_worker_is_seen_even_if_its_tenant_has_most_of_them() {
        let mut alone = demand("alone", 60, 0, 0);
        alone.oldest = Duration::from_secs(90);
        let view = seeing(&[vec![alone]]);
        assert_eq!(view.lock().oldest, Duration::from_secs(90));
        assert_eq!(admitted(&view, "b"), Ok(Admission::Announced));
    }

    #[test]
    fn when_to_come_back_is_what_waits_by_how_fast_it_went() {
        let looks = |first: u64, older: u64| {
            let mut then = demand("a", 4, first, 1);
            then.older = older;
            seeing(&[vec![demand("a", 4, first, 1)], vec![then]])
        };
        let seconds = |view: DemandView| {
            let seen = view.lock();
            let line = &seen.lines[&"a".parse::<TenantId>().expect("a tenant")];
            retry_after(line.waiting, line.drained)
        };
        assert_eq!(seconds(looks(100, 90)), 10, "ten a second");
        assert_eq!(seconds(looks(100, 0)), 1);
        assert_eq!(seconds(looks(1_000, 999)), 60, "no longer than that");
        assert_eq!(seconds(looks(100, 100)), 60, "nothing moves");
    }

    #[test]
    fn what_was_seen_long_ago_refuses_nobody() {
        let view = seeing(&[vec![demand("a", 0, 10, 3_000)]]);
        view.lock().at = Instant::now().checked_sub(STALE_AFTER * 2);
        assert_eq!(admitted(&view, "a"), Ok(Admission::Announced));
        assert_eq!(admitted(&DemandView::default(), "a"), Ok(Admission::Announced));
    }

    proptest! {
        #[test]
        fn the_tenant_with_most_of_the_workers_never_makes_an_overload(
            others in prop::collection::vec((0_u64..50, 0_u64..50), 0..8),
            waited in 0_u64..100_000,
        ) {
            let most = others.iter().map(|(running, _)| *running).max().unwrap_or_default().max(1);
            let mut all: Vec<Demand> = (others.iter().enumerate())
                .map(|(at, (running, _))| demand(&format!("t{at}"), *running, 0, 0))
                .collect();
            all.push(demand("most", most, 1_000, waited));
            prop_assert_eq!(waited_unfairly(&all), Duration::ZERO);
        }

        #[test]
        fn when_to_come_back_keeps_its_bounds(waiting in any::<u64>(), rate in prop::option::of(0.0_f64..1e9)) {
            prop_assert!((1..=60).contains(&retry_after(waiting, Rate(rate))));
        }
    }
}
