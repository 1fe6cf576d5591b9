//! One run's model calls: held against what reached the model and what went wrong in the world. An account kept by
//! hand, so that a mistake in the run's own arithmetic does not excuse itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use steadfast::run::{
    Amounts, BudgetLimit, Event, RunId, Usage,
    event::{ModelCallOrphaned, ModelCallRequested},
};

use crate::{
    check::Checks,
    house::House,
    model::{Called, Ended, Ledger},
    rows::Rows,
};

/// What is known of one run's calls, event by event.
pub struct Account<'a> {
    checks: &'a mut Checks,
    house: &'a House,
    rows: &'a Rows,
    ledger: &'a Ledger,
    run_id: RunId,
    /// The worker of the claim in force.
    worker: String,
    budget: Amounts,
    spent: Usage,
    open: Option<Open>,
    made: BTreeSet<(u32, u32)>,
    /// Steps whose reply was used.
    answered: BTreeSet<u32>,
}

/// A call that was recorded and has not ended.
struct Open {
    step: u32,
    attempt: u32,
    reserved: Usage,
    worker: String,
    since: Duration,
}

impl<'a> Account<'a> {
    pub fn new(checks: &'a mut Checks, house: &'a House, rows: &'a Rows, ledger: &'a Ledger, run_id: RunId) -> Self {
        Self {
            checks,
            house,
            rows,
            ledger,
            run_id,
            worker: String::new(),
            budget: Amounts::default(),
            spent: Usage::default(),
            open: None,
            made: BTreeSet::new(),
            answered: BTreeSet::new(),
        }
    }

    /// Every event of the run, and what its head says was spent.
    pub fn judge(mut self, events: &[Event], charged: Usage) {
        for (event, version) in events.iter().zip(1..) {
            let ends = events.get(version as usize).is_some_and(Event::is_terminal);
            self.event(event, version, ends);
        }
        let run_id = self.run_id;
        let left_open = self.open.take().map(|open| (open.step, open.attempt));
        self.checks.that("I6 attempt ledger", left_open.is_none(), || {
            format!("{run_id}: the call {left_open:?} never ended")
        });
        let spent = self.spent;
        self.checks.that("I8 budget", spent == charged, || {
            format!("{run_id}: its calls cost {spent:?}, its head says {charged:?}")
        });
    }

    fn event(&mut self, event: &Event, version: u64, ends: bool) {
        match event {
            Event::RunRequested(request) => self.budget = request.terms.budget.amounts,
            Event::BudgetRaised(raised) => {
                for (limit, amount) in raised.to.given() {
                    self.budget.set(limit, amount);
                }
            }
            Event::RunStarted(claim) => self.worker.clone_from(&claim.worker),
            Event::RunResumed(claim) => self.worker.clone_from(&claim.worker),
            Event::ModelCallRequested(call) => self.requested(call, version),
            Event::ModelReplied(reply) => {
                self.settle(reply.step, reply.attempt);
                let (run_id, first) = (self.run_id, self.answered.insert(reply.step));
                self.checks.that("I7 duplicate bound", first, || {
                    format!("{run_id}: step {} has a second reply", reply.step)
                });
                let called = self.called(reply.step, reply.attempt);
                self.checks.that(
                    "I6 attempt ledger",
                    called.ended == Some(Ended::Replied(reply.usage)),
                    || format!("{run_id}: version {version} is a reply the model did not give: {called:?}"),
                );
                self.spent += reply.usage;
                self.holds(version, Usage::default());
            }
            Event::ModelCallFailed(failed) => {
                self.settle(failed.step, failed.attempt);
                let (run_id, called) = (self.run_id, self.called(failed.step, failed.attempt));
                self.checks
                    .that("I6 attempt ledger", called.ended == Some(Ended::Failed), || {
                        format!("{run_id}: version {version} is a failure the model did not give: {called:?}")
                    });
            }
            Event::ModelCallOrphaned(orphan) => self.orphaned(orphan, version, ends),
            _ => {}
        }
    }

    fn requested(&mut self, call: &ModelCallRequested, version: u64) {
        let (run_id, called) = (self.run_id, self.called(call.step, call.attempt));
        let new = self.made.insert((call.step, call.attempt)) && self.open.is_none();
        self.checks.that("I6 attempt ledger", new && called.times <= 1, || {
            format!(
                "{run_id}: step {}, attempt {} was recorded while another was open, or twice, or called {} times",
                call.step, call.attempt, called.times
            )
        });
        self.open = Some(Open {
            step: call.step,
            attempt: call.attempt,
            reserved: call.reserved(),
            worker: self.worker.clone(),
            since: self.seen(version),
        });
        self.holds(version, call.reserved());
        let steps = self.budget.get(BudgetLimit::Steps);
        self.checks.that(
            "I8 budget",
            steps.is_none_or(|steps| u64::from(call.step) <= steps),
            || format!("{run_id}: step {} of {steps:?}", call.step),
        );
    }

    /// The budget holds what is spent and what is set aside.
    fn holds(&mut self, version: u64, reserved: Usage) {
        let (run_id, budget, mut all) = (self.run_id, self.budget, self.spent);
        all += reserved;
        let within = |limit, used: u64| budget.get(limit).is_none_or(|budget| used <= budget);
        let holds = within(BudgetLimit::Tokens, all.tokens()) && within(BudgetLimit::Usd, all.cost_microusd);
        self.checks.that("I8 budget", holds, || {
            format!("{run_id}: from version {version} on {all:?} is spent or set aside, of {budget:?}")
        });
    }

    /// A call whose outcome was lost is charged as reserved, which covers what the model counted; and somebody lost it.
    fn orphaned(&mut self, orphan: &ModelCallOrphaned, version: u64, ends: bool) {
        let (run_id, charged) = (self.run_id, orphan.charged());
        let called = self.called(orphan.step, orphan.attempt);
        let Some(open) = self.settle(orphan.step, orphan.attempt) else {
            return;
        };
        self.spent += charged;
        let covered = match called.ended {
            Some(Ended::Replied(usage)) => usage.tokens() <= charged.tokens(),
            _ => true,
        };
        self.checks.that("I8 budget", covered && charged == open.reserved, || {
            format!(
                "{run_id}: an orphan of {:?} is charged {charged:?}: {called:?}",
                open.reserved
            )
        });
        let until = self.seen(version);
        let troubled = self.house.world.was_troubled(&open.worker, open.since, until);
        self.checks.that("I7 duplicate bound", ends || troubled, || {
            format!(
                "{run_id}: version {version} is an orphan, and nothing was wrong with {} from {:?} to {until:?}",
                open.worker, open.since
            )
        });
    }

    /// The open call ends here, and no other.
    fn settle(&mut self, step: u32, attempt: u32) -> Option<Open> {
        let (run_id, open) = (self.run_id, self.open.take());
        let known = open.as_ref().map(|open| (open.step, open.attempt));
        self.checks
            .that("I6 attempt ledger", known == Some((step, attempt)), || {
                format!("{run_id}: step {step}, attempt {attempt} ends while {known:?} is open")
            });
        open
    }

    fn called(&self, step: u32, attempt: u32) -> Called {
        let key = format!("{}-{step}-{attempt}", self.run_id);
        self.ledger.calls.get(&key).cloned().unwrap_or_default()
    }

    /// When others could read this event.
    fn seen(&self, version: u64) -> Duration {
        let seen = self.rows.seen.get(&(self.run_id, version));
        seen.map(|seen| seen.at).unwrap_or_default()
    }
}

/// Every call that reached the model is in the log.
pub fn recorded(checks: &mut Checks, rows: &Rows, ledger: &Ledger) {
    let mut known: BTreeMap<RunId, BTreeSet<String>> = BTreeMap::new();
    for (run_id, events) in &rows.events {
        let calls = events.iter().filter(|event| event.name == "model_call.requested");
        let keys = calls.filter_map(|event| match event.decode().ok()? {
            Event::ModelCallRequested(call) => Some(format!("{run_id}-{}-{}", call.step, call.attempt)),
            _ => None,
        });
        known.insert(*run_id, keys.collect());
    }
    for key in ledger.calls.keys() {
        let run_id = key.split_once('-').and_then(|(run_id, _)| run_id.parse().ok());
        let keys = run_id.and_then(|run_id: RunId| known.get(&run_id));
        checks.that("I6 attempt ledger", keys.is_some_and(|keys| keys.contains(key)), || {
            format!("the call {key} is not in the log")
        });
    }
}
