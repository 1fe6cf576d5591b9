//! One run in this worker's hands: load, claim, and loop until it waits, ends, or is taken away.
//!
//! Every turn of the loop is `next` (what must be done) → the effect → `decide` (which facts that makes) → append →
//! publish. An append that meets a conflict while the epoch is unchanged met an input of the gateway (a cancel, say):
//! it is folded in and the same outcome decided again, so a paid reply is never thrown away. A changed epoch means
//! another worker has the run: this one stops, and nothing of its is written.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt;
use steadfast::{
    crash::{self, Point},
    feed::{Frame, Signal},
    metrics,
    queue::Advance,
    run::{Command, Event, Message, Next, Refusal, Run, WaitingOn, event::RunRequested, next},
    store::{Append, Error, Lease as LeaseChange, Loaded, Outcome},
};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    clock,
    context::{self, Prompt},
    lease::Lease,
    model::admission::Ticket,
    record,
    tools::said,
    worker::Shared,
};

/// How long an append keeps trying while the database is away. A reply was paid for: it is worth waiting for.
const APPEND_PATIENCE: Duration = Duration::from_secs(120);
/// Between reads while the database is away.
const READ_AGAIN: Duration = Duration::from_millis(200);
/// Conflicts in a row with an unchanged epoch: inputs of people do not come faster than this.
const CONFLICTS_MAX: u32 = 32;
/// A pause up to this is sat out; for a longer one the run is let go of until it is due.
pub(crate) const PAUSE_HELD_MAX: Duration = Duration::from_secs(2);
/// After an execution broke down, before the run is tried again.
const BREAKDOWN_PAUSE: Duration = Duration::from_secs(1);
/// A signal may be lost: the log is looked at this often while waiting for something.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_secs(5);

impl From<Error> for Done {
    fn from(error: Error) -> Self {
        match error {
            Error::Unavailable(_) => Self::Away(error.to_string()),
            Error::Refused(_) | Error::Corrupt { .. } => Self::Stuck(error.to_string()),
            Error::Newer { .. } => Self::Newer(error.to_string()),
        }
    }
}

/// Why the worker is done with the run for now.
#[derive(Debug, Clone, PartialEq)]
pub enum Done {
    /// It waits, ended, or has nothing to do.
    Settled,
    /// Another worker has it.
    Lost,
    /// An earlier run of the session is open.
    Held,
    /// The worker is stopping.
    HandedBack,
    /// The database is away: nobody can do better before it is back.
    Away(String),
    /// A newer build has written to it: it stays as it is until a worker of such a build takes it.
    Newer(String),
    /// The log did not let us go on; someone will try again.
    Stuck(String),
}

pub struct Execution {
    pub(crate) shared: Arc<Shared>,
    pub(crate) loaded: Loaded,
    pub(crate) lease: Lease,
    pub(crate) signals: mpsc::Receiver<Signal>,
    /// Set when the worker may not go on much longer.
    pub(crate) hand_back: CancellationToken,
    /// Messages of earlier turns, read once.
    pub(crate) history: Option<Vec<Message>>,
    pub(crate) prompt: Prompt,
    /// Leave for the model call that is recorded as open.
    pub(crate) ticket: Option<Ticket>,
    signals_closed: bool,
    /// The epoch of the claim that was won. Every append names it; a newer one makes the append lose.
    claim: Option<u64>,
}

/// What else may happen while an effect is under way.
pub enum Interrupt {
    /// The run has changed; it has been folded in.
    Changed,
    /// A watcher came late.
    Resend,
    Deadline,
    Stop(Done),
}

impl Execution {
    /// Loads and claims the run, and executes it as far as it goes.
    pub async fn run(
        shared: Arc<Shared>,
        command: &Advance,
        lease: Lease,
        signals: mpsc::Receiver<Signal>,
        hand_back: CancellationToken,
        claimed: impl Future<Output = ()>,
    ) -> Done {
        let loaded = match shared.reader.load(command.run_id).await {
            Ok(Some(loaded)) => loaded,
            Ok(None) => return Done::Settled,
            Err(error) => return error.into(),
        };
        let mut execution = Self {
            shared,
            loaded,
            lease,
            signals,
            hand_back,
            history: None,
            prompt: Prompt::default(),
            ticket: None,
            signals_closed: false,
            claim: None,
        };
        let working = AssertUnwindSafe(execution.claim_and_go(claimed)).catch_unwind().await;
        match working {
            Ok(outcome) => outcome.err().unwrap_or(Done::Settled),
            Err(panic) => {
                let panic = said(&*panic).to_owned();
                execution.break_down(&panic).await
            }
        }
    }

    async fn claim_and_go(&mut self, claimed: impl Future<Output = ()>) -> Result<(), Done> {
        self.claim().await?;
        // From here on the store knows who works on the run: the command has served.
        claimed.await;
        self.go().await
    }

    /// A panic ends the execution of this run and nothing else. The run says so and is tried again; one that does it
    /// every time is poison. What was said stays in the worker's log: nobody vouches for what a panic prints.
    async fn break_down(&mut self, panic: &str) -> Done {
        let run_id = self.loaded.head.run_id;
        tracing::error!(run.id = %run_id, panic, "the execution of a run panicked");
        let Some(claim) = self.claim else {
            return Done::Stuck("its execution panicked before it was claimed".into());
        };
        // What is in memory may be half changed: the log is not.
        match self.shared.reader.load(run_id).await {
            Ok(Some(loaded)) if loaded.head.epoch == claim => self.loaded = loaded,
            Ok(_) => return Done::Lost,
            Err(error) => return error.into(),
        }
        let interrupt = Command::Interrupt {
            now: clock::now(),
            worker: self.shared.options.id.clone(),
            reason: "its execution panicked; the worker's log says how".into(),
        };
        self.commit(interrupt).await.err().unwrap_or(Done::Settled)
    }

    async fn claim(&mut self) -> Result<(), Done> {
        for _ in 0..CONFLICTS_MAX {
            let run = &self.loaded.run;
            let Some(request) = run.request.clone() else {
                return Err(Done::Settled);
            };
            if run.outcome.is_some() {
                return Err(Done::Settled);
            }
            let mut context = None;
            if run.turns.is_none() && request.continues_session {
                match context::choose(&self.shared.reader, &self.loaded, &request).await {
                    Ok(Some(chosen)) => {
                        self.history = Some(chosen.messages);
                        context = Some(chosen.context);
                    }
                    Ok(None) => return Err(Done::Held),
                    Err(error) => return Err(error.into()),
                }
            }
            self.read_ahead(&request).await?;
            let epoch = self.loaded.head.epoch + 1;
            let worker = self.shared.options.id.clone();
            let command = Command::Advance {
                now: clock::now(),
                worker,
                epoch,
                context,
            };
            if self.is_about_to_ask() {
                self.moment().await;
            }
            let (events, after) = match self.decide(command.clone()) {
                Ok(decided) => decided,
                Err(_) => return Err(Done::Settled),
            };
            if self.stay_parked(&events).await? {
                return Err(Done::Settled);
            }
            let goes_on = matches!(next(&after), Next::CallModel { .. } | Next::RunTools(_));
            // A run that ends or waits at once is claimed first and settled by a second append.
            let first = if goes_on { events } else { Vec::new() };
            let claim = LeaseChange::Claim {
                owner: self.shared.options.id.clone(),
                ttl: self.shared.options.lease,
            };
            let at = Instant::now();
            let after_first = if goes_on { after } else { self.loaded.run.clone() };
            match self.append(first, after_first, claim).await? {
                Some(()) => {
                    metrics::runs().claims.with_label_values(&["won"]).inc();
                    self.claim = Some(epoch);
                    self.lease.won(epoch, at);
                    return if goes_on { Ok(()) } else { self.commit(command).await };
                }
                None => {
                    metrics::runs().claims.with_label_values(&["lost"]).inc();
                    let seen = self.loaded.run.version;
                    self.refresh().await?;
                    // Nothing was added: someone holds the lease, or an earlier run of the session is open.
                    if self.loaded.run.version == seen {
                        return Err(Done::Lost);
                    }
                }
            }
        }
        Err(Done::Stuck("the claim met conflict after conflict".into()))
    }

    /// What a model call needs is read before one is recorded: a read that fails afterwards would leave behind a call that
    /// is charged and was never made.
    async fn read_ahead(&mut self, request: &RunRequested) -> Result<(), Done> {
        let Shared { agents, reader, .. } = &*self.shared;
        // One that is not there or does not read is the run's affair, once it is claimed.
        let _ = agents.get(reader, &request.agent.version).await?;
        if self.history.is_none() {
            let turns = self.loaded.run.turns.clone().unwrap_or_default();
            self.history = Some(context::recall(reader, &turns).await?);
        }
        Ok(())
    }

    async fn go(&mut self) -> Result<(), Done> {
        loop {
            match next(&self.loaded.run) {
                Next::Ended(_) | Next::Wait(_) | Next::Claim => return Ok(()),
                Next::ConfirmCancel => self.commit(Command::ConfirmCancel { now: clock::now() }).await?,
                Next::RetryModelCallAt(at) => self.pause_until(at).await?,
                Next::CallModel { step, attempt } => {
                    if self.has_fresh_lease().await? {
                        self.call_model(step, attempt).await?;
                    }
                }
                Next::RunTools(tools) => {
                    if self.has_fresh_lease().await? {
                        self.run_tools(tools).await?;
                    }
                }
            }
        }
    }

    async fn pause_until(&mut self, at: steadfast::run::Time) -> Result<(), Done> {
        let pause = (at - clock::now()).to_std().unwrap_or_default();
        let moment = self.moment();
        let over = async {
            tokio::time::sleep(pause).await;
            moment.await;
        };
        tokio::pin!(over);
        loop {
            tokio::select! {
                biased;
                () = &mut over => return self.commit(Command::RetryModelCall { now: clock::now() }).await,
                interrupt = self.interrupt() => match interrupt {
                    Interrupt::Changed if self.loaded.run.cancel.is_some() => return Ok(()),
                    Interrupt::Changed | Interrupt::Resend => {}
                    Interrupt::Deadline => return self.commit(Command::RetryModelCall { now: clock::now() }).await,
                    Interrupt::Stop(done) => return self.stop(done).await,
                },
            }
        }
    }

    /// Waits until something happens to the run from outside, and folds it in.
    pub(crate) async fn interrupt(&mut self) -> Interrupt {
        let deadline = self.loaded.run.request.as_ref().map(|request| request.deadline);
        let deadline = deadline.into_iter().chain(self.loaded.run.step_deadline).min();
        let left = deadline.map_or(Duration::MAX, |at| (at - clock::now()).to_std().unwrap_or_default());
        let left = left.min(Duration::from_secs(86_400));
        let changed = tokio::select! {
            biased;
            () = self.lease.lost.cancelled() => return Interrupt::Stop(Done::Lost),
            () = self.hand_back.cancelled() => return Interrupt::Stop(Done::HandedBack),
            () = tokio::time::sleep(left) => return Interrupt::Deadline,
            signal = self.signals.recv(), if !self.signals_closed => match signal {
                Some(Signal::Resend) => return Interrupt::Resend,
                Some(Signal::Changed) => true,
                None => { self.signals_closed = true; true }
            },
            () = tokio::time::sleep(LOOK_AGAIN) => true,
        };
        if changed && let Err(done) = self.refresh().await {
            // A database that is away is no reason to drop a call that was paid for: its append will wait.
            return if matches!(done, Done::Away(_) | Done::Stuck(_) | Done::Newer(_)) {
                Interrupt::Changed
            } else {
                Interrupt::Stop(done)
            };
        }
        Interrupt::Changed
    }

    /// Folds in what others have added.
    async fn refresh(&mut self) -> Result<(), Done> {
        self.shared.reader.refresh(&mut self.loaded).await?;
        if self.claim.is_some_and(|epoch| epoch != self.loaded.head.epoch) {
            metrics::runs().fenced.inc();
            return Err(Done::Lost);
        }
        Ok(())
    }

    /// The same for an outcome in hand: a database that is away is waited for as an append would wait for it.
    async fn refresh_patiently(&mut self) -> Result<(), Done> {
        let give_up = Instant::now() + APPEND_PATIENCE;
        loop {
            match self.refresh().await {
                Err(Done::Away(_)) if Instant::now() < give_up => tokio::time::sleep(READ_AGAIN).await,
                refreshed => return refreshed,
            }
        }
    }

    /// Whether the lease surely holds; false if something came up while waiting for its renewal.
    async fn has_fresh_lease(&mut self) -> Result<bool, Done> {
        while !self.lease.is_fresh(self.shared.options.lease) {
            tokio::select! {
                biased;
                () = tokio::time::sleep(self.shared.options.lease / 10) => {}
                interrupt = self.interrupt() => match interrupt {
                    Interrupt::Changed if self.loaded.run.cancel.is_some() => return Ok(false),
                    Interrupt::Changed | Interrupt::Resend => {}
                    Interrupt::Deadline => {
                        self.out_of_time().await?;
                        return Ok(false);
                    }
                    Interrupt::Stop(done) => {
                        self.stop(done).await?;
                        return Ok(false);
                    }
                },
            }
        }
        Ok(true)
    }

    /// Decides and appends, again after each input that came in between.
    pub(crate) async fn commit(&mut self, command: Command) -> Result<(), Done> {
        self.commit_both(command, None).await
    }

    /// The same for an order and another that rides with it in one append.
    pub(crate) async fn commit_both(&mut self, command: Command, rider: Option<Command>) -> Result<(), Done> {
        for _ in 0..CONFLICTS_MAX {
            let (events, after) = match self.decide_both(command.clone(), rider.clone()) {
                Ok(decided) => decided,
                Err(Refusal::AlreadyEnded(_) | Refusal::NothingToDo(_)) => return Err(Done::Settled),
                Err(refusal) => return Err(Done::Stuck(format!("its own outcome was refused: {refusal}"))),
            };
            let lease = lease_after(&after);
            let lets_go = matches!(lease, LeaseChange::Release { .. });
            if self.append(events, after, lease).await?.is_some() {
                // What was let go of is not touched again, however short the pause has become meanwhile.
                return if lets_go { Err(Done::Settled) } else { Ok(()) };
            }
            self.refresh_patiently().await?;
        }
        Err(Done::Stuck("an append met conflict after conflict".into()))
    }

    /// One append. `None`: it met a conflict.
    pub(crate) async fn append(
        &mut self,
        events: Vec<Event>,
        after: Run,
        lease: LeaseChange,
    ) -> Result<Option<()>, Done> {
        let now = clock::now();
        let before = self.loaded.run.version;
        let released = matches!(lease, LeaseChange::Release { .. });
        let append = Append {
            run_id: self.loaded.head.run_id,
            tenant: self.loaded.head.tenant.clone(),
            expected_version: before,
            expected_epoch: self.claim.unwrap_or(self.loaded.head.epoch),
            prev_hash: self.loaded.hash,
            time: now,
            events,
            status: after.status(),
            usage: after.usage,
            lease,
            accept: None,
            idempotency: None,
            patience: APPEND_PATIENCE,
        };
        let events = append.events.clone();
        let points = crash_points(&append);
        points.iter().for_each(|(before, _)| crash::at(*before));
        let appended = match self.shared.appender.append(append).await {
            Ok(Outcome::Appended(appended)) => appended,
            Ok(_) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        points.iter().for_each(|(_, after)| crash::at(*after));
        let was = self.loaded.run.status();
        self.loaded.run = after;
        self.loaded.head.epoch = appended.epoch;
        self.loaded.head.status = self.loaded.run.status();
        if let Some(last) = appended.events.last() {
            (self.loaded.head.version, self.loaded.hash) = (last.version, last.hash);
        }
        if released {
            self.lease.released();
        }
        let frames = appended
            .events
            .iter()
            .zip(&events)
            .map(|(stored, event)| Frame::of_event(stored, event));
        self.shared.feed.publish(frames.collect()).await;
        if !events.is_empty() {
            crash::at(Point::FramesAfter);
        }
        record::events(was, &self.loaded.run, &events, Some(self.loaded.head.created_at), now);
        if let Err(error) = self.shared.reader.keep_snapshot(&self.loaded, before).await {
            tracing::debug!(%error, run.id = %self.loaded.head.run_id, "a snapshot could not be kept");
        }
        if let Some(next) = appended.next_in_session {
            self.shared.announce(next, &self.loaded.head.tenant).await;
            crash::at(Point::NextAfter);
        }
        Ok(Some(()))
    }

    /// Lets go. A run handed back is due at once, so another worker goes on with it.
    pub(crate) async fn stop(&mut self, done: Done) -> Result<(), Done> {
        if done == Done::HandedBack {
            let release = LeaseChange::Release {
                due_in: Some(Duration::ZERO),
            };
            if let Ok(Some(())) = self.append(Vec::new(), self.loaded.run.clone(), release).await {
                self.shared
                    .announce(self.loaded.head.run_id, &self.loaded.head.tenant.clone())
                    .await;
            }
        }
        Err(done)
    }
}

/// Before and after an append of this kind.
fn crash_points(append: &Append) -> Option<(Point, Point)> {
    let any = |kind: fn(&Event) -> bool| append.events.iter().any(kind);
    if matches!(append.lease, LeaseChange::Claim { .. }) {
        Some((Point::ClaimBefore, Point::ClaimAfter))
    } else if any(Event::is_terminal) {
        Some((Point::EndBefore, Point::EndAfter))
    } else if any(|event| matches!(event, Event::ModelReplied(_))) {
        Some((Point::ReplyBefore, Point::ReplyAfter))
    } else if any(|event| matches!(event, Event::ToolCallSucceeded(_) | Event::ToolCallFailed(_))) {
        Some((Point::ResultBefore, Point::ResultAfter))
    } else {
        None
    }
}

/// What the events of an append make of the lease.
fn lease_after(run: &Run) -> LeaseChange {
    let until = |at: steadfast::run::Time| Some((at - clock::now()).to_std().unwrap_or_default());
    match next(run) {
        Next::Ended(_) => LeaseChange::Release { due_in: None },
        Next::Wait(WaitingOn::Timer { until: at }) => LeaseChange::Release { due_in: until(at) },
        // Nobody may ever answer: the run's deadline ends it.
        Next::Wait(WaitingOn::ToolOutputs { .. } | WaitingOn::Approval { .. } | WaitingOn::Budget { .. }) => {
            LeaseChange::Release {
                due_in: run.request.as_ref().and_then(|request| until(request.deadline)),
            }
        }
        // Given up after a breakdown: the next try waits a moment.
        Next::Claim => LeaseChange::Release {
            due_in: Some(BREAKDOWN_PAUSE),
        },
        Next::RetryModelCallAt(at) if until(at) > Some(PAUSE_HELD_MAX) => LeaseChange::Release { due_in: until(at) },
        _ => LeaseChange::Keep,
    }
}
