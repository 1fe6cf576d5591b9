//! A place for the model call before it is recorded: where the run's call may go now, or until when the run is parked.
//!
//! A call is recorded only with a [`Ticket`] in hand. Where there is none, the run waits a moment in its slot, without
//! adding to the log; after that it is parked: it lets go of slot and lease and comes back when a model may be asked.
//! What had happened before is recorded at once in either case.

use std::time::{Duration, Instant};

use chrono::TimeDelta;
use steadfast::{
    metrics,
    run::{Command, Event, Refusal, Run, Time, command::Route, state::Call, transition},
    store::Lease as LeaseChange,
};

use crate::{
    clock,
    execute::{Done, Execution, PAUSE_HELD_MAX},
    model::{
        admission::{Blocked, Ticket, Try},
        link::{self, Link},
    },
};

/// Runs that wait for the same thing come back spread over at least this.
const SPREAD_MIN: Duration = Duration::from_secs(2);
/// And over this share of their wait.
const SPREAD_SHARE: f64 = 0.1;
/// A run that has waited in its slot in vain stays away for this at least.
const PARKED_MIN: Duration = Duration::from_secs(3);

impl Execution {
    /// Decides, with a ticket for the model call that may follow; it is kept where one does.
    pub(crate) fn decide(&mut self, command: Command) -> Result<(Vec<Event>, Run), Refusal> {
        self.ticket = None;
        let (events, after, ticket) = self.decide_on(&self.loaded.run, command)?;
        self.ticket = ticket;
        Ok((events, after))
    }

    /// The same for an order and another that rides with it, as far as it still applies after the first.
    pub(crate) fn decide_both(
        &mut self,
        command: Command,
        rider: Option<Command>,
    ) -> Result<(Vec<Event>, Run), Refusal> {
        self.ticket = None;
        let (mut events, mut after, mut ticket) = self.decide_on(&self.loaded.run, command)?;
        if let Some(Ok(more)) = rider.map(|rider| self.decide_on(&after, rider)) {
            events.extend(more.0);
            (after, ticket) = (more.1, more.2);
        }
        self.ticket = ticket;
        Ok((events, after))
    }

    fn decide_on(&self, run: &Run, command: Command) -> Result<(Vec<Event>, Run, Option<Ticket>), Refusal> {
        let has_waited = match command {
            Command::Advance { .. } | Command::RetryModelCall { .. } => true,
            Command::RecordReply { .. } | Command::RecordToolResults { .. } => false,
            other => return transition(run, other).map(|(events, after)| (events, after, None)),
        };
        let (route, ticket) = match self.admit(run) {
            Ok(ticket) => {
                let Link { provider, model } = ticket.link().clone();
                (Route::To { provider, model }, Some(ticket))
            }
            Err(blocked) => {
                let route = Route::Park {
                    until: return_at(blocked, has_waited),
                    reason: blocked.reason.as_str(),
                };
                (route, None)
            }
        };
        let (events, after) = transition(run, Command::Routed(route, Box::new(command)))?;
        let ticket = ticket.filter(|_| matches!(events.last(), Some(Event::ModelCallRequested(_))));
        Ok((events, after, ticket))
    }

    /// Leave for the next model call of the run, if there is any now.
    fn admit(&self, run: &Run) -> Result<Ticket, Blocked> {
        let tenant = &self.loaded.head.tenant;
        let admission = &self.shared.models.admission;
        admission.admit(&self.chain(), next_try(run), tenant)
    }

    /// Waits in the slot until there may be leave for the next model call, for a moment at the most.
    pub(crate) fn moment(&self) -> impl Future<Output = ()> + use<> {
        let admission = self.shared.models.admission.clone();
        let (chain, asking, tenant) = (
            self.chain(),
            next_try(&self.loaded.run),
            self.loaded.head.tenant.clone(),
        );
        async move { admission.wait(&chain, asking, &tenant, PAUSE_HELD_MAX).await }
    }

    /// Whether a claim would make a model call, as far as that is known without deciding.
    pub(crate) fn is_about_to_ask(&self) -> bool {
        let run = &self.loaded.run;
        let ripe = match run.call {
            Call::Backoff { retry_at, .. } => retry_at <= clock::now(),
            Call::Unaffordable { .. } => false,
            Call::Idle | Call::Open { .. } | Call::Orphaned { .. } | Call::Wanted { .. } => true,
        };
        ripe && run.open_tools.is_empty() && run.cancel.is_none()
    }

    /// A parked run that would be parked again stays as it is, and is looked at later: an outage of hours leaves no
    /// trail of claims in its log. Only of a run nobody holds; a claim finds out about the others.
    pub(crate) async fn stay_parked(&mut self, events: &[Event]) -> Result<bool, Done> {
        let Some(Event::ModelCallParked(parked)) = events.last() else {
            return Ok(false);
        };
        let waits = matches!(self.loaded.run.call, Call::Backoff { .. });
        if !waits || self.loaded.head.lease_owner.is_some() {
            return Ok(false);
        }
        let due_in = Some((parked.until - clock::now()).to_std().unwrap_or_default());
        let run = self.loaded.run.clone();
        let release = LeaseChange::Release { due_in };
        let put_off = self.append(Vec::new(), run, release).await?.is_some();
        if put_off {
            metrics::providers()
                .parked
                .with_label_values(&[parked.reason.as_str()])
                .inc();
        }
        Ok(put_off)
    }

    /// When to make a failed call again: at once where another link can take it, else after the pause the policy wants
    /// and not before there is leave.
    pub(crate) fn retry_at(&self, failed_at: &Link, pause: Duration) -> Time {
        let now = clock::now();
        let after = |pause: Duration| now + TimeDelta::from_std(pause).unwrap_or(TimeDelta::MAX);
        match self.admit(&self.loaded.run) {
            Ok(ticket) if ticket.link() != failed_at => now,
            Ok(_) => after(pause),
            Err(blocked) => after(pause).max(return_at(blocked, false)),
        }
    }

    fn chain(&self) -> Vec<Link> {
        let names = self.loaded.run.request.iter().flat_map(|request| link::names(request));
        names.map(|name| self.shared.models.link(name)).collect()
    }
}

fn next_try(run: &Run) -> Try {
    let attempt = match run.call {
        Call::Idle => 1,
        Call::Wanted { attempt, .. } | Call::Unaffordable { attempt, .. } => attempt,
        Call::Open { attempt } | Call::Backoff { attempt, .. } | Call::Orphaned { attempt } => {
            attempt.saturating_add(1)
        }
    };
    let retry = attempt > 1 && matches!(run.call, Call::Backoff { .. });
    Try { attempt, retry }
}

/// When a run that is blocked comes back: never before the time it was given, and not together with all others.
fn return_at(blocked: Blocked, has_waited: bool) -> Time {
    let wait = wait_of(blocked, clock::instant(), has_waited, clock::jitter());
    clock::now() + TimeDelta::from_std(wait).unwrap_or(TimeDelta::MAX)
}

fn wait_of(blocked: Blocked, now: Instant, has_waited: bool, jitter: f64) -> Duration {
    let wait = blocked.until.saturating_duration_since(now);
    if wait <= PAUSE_HELD_MAX && !has_waited {
        return wait;
    }
    let spread = wait.mul_f64(SPREAD_SHARE).max(SPREAD_MIN);
    wait.max(if has_waited { PARKED_MIN } else { Duration::ZERO }) + spread.mul_f64(jitter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::admission::Reason;

    #[test]
    fn nobody_comes_back_before_the_time_the_provider_gave_and_not_all_at_once() {
        let now = clock::instant();
        for (wait_ms, has_waited) in [(0, true), (500, true), (500, false), (5_000, false), (60_000, true)] {
            let wait = Duration::from_millis(wait_ms);
            let blocked = Blocked {
                until: now + wait,
                reason: Reason::RateLimited,
            };
            let (first, last) = (
                wait_of(blocked, now, has_waited, 0.0),
                wait_of(blocked, now, has_waited, 1.0),
            );
            assert!(first >= wait, "{wait:?}: back after {first:?}");
            let held = !has_waited && wait <= PAUSE_HELD_MAX;
            assert_eq!(last > first, !held, "{wait:?}: between {first:?} and {last:?}");
            assert!(held || first > PAUSE_HELD_MAX, "{wait:?}: holds its slot for {first:?}");
        }
    }
}
