//! The redriver: finds in the store what the queue has lost, and whatever is due.
//!
//! One mechanism serves lost commands, dead workers, retries, timers and deadlines: every head says by when something
//! must have happened. Any number of redrivers may run; each overdue run is taken by one of them.
//!
//! What it finds goes to the queue; a run whose command came to nothing, or for which there is no queue, joins its tenant's
//! line, which needs the store alone: no message is needed for a run to reach its end.

use std::{sync::Arc, time::Duration};

use steadfast::{
    crash::{self, Point},
    health::Health,
    metrics,
    queue::{self, Advance},
    store::{self, Due},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{line::Lines, worker::Shared};

/// Runs dispatched in one go.
const BATCH: u32 = 256;
/// A dispatched run is dispatched again after this, then after twice this, and so on: by the queue, through its line, by
/// the queue, …
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// So long the commands of one batch may take; the rest goes into lines.
const SENDING_MAX: Duration = Duration::from_secs(1);
/// How often the queue is asked whether it is still the one we filled.
const INCARNATION_EVERY: Duration = Duration::from_secs(1);
/// A queue that does not say so by then may be away; one that does not twice in a row is.
const INCARNATION_MAX: Duration = Duration::from_secs(2);
const SILENCE_MAX: Duration = Duration::from_secs(15);

pub async fn run(shared: Arc<Shared>, lines: Lines, health: Health, stop: CancellationToken) {
    health.expect("redriver", SILENCE_MAX);
    let mut tick = tokio::time::interval(shared.options.redrive_every);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut incarnation = Incarnation::default();
    let mut outage = Outage::default();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        match look(&shared, &lines, &mut incarnation, &mut outage, &stop).await {
            Ok(()) => health.progress("redriver"),
            Err(trouble) => {
                if matches!(trouble, Trouble::Store(_)) {
                    outage.failed();
                }
                let reason = trouble.to_string();
                tracing::warn!(reason, "overdue runs could not be dispatched");
                health.trouble("redriver", reason);
            }
        }
    }
}

/// Why overdue runs could not be dispatched.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Store(#[from] store::Error),
    /// Overdue runs went into their lines.
    #[error(transparent)]
    Queue(#[from] queue::Error),
}

/// While the store is away no lease can be renewed, and when it is back all may have ended. The living renew theirs
/// within a lease; who took their runs before would repeat calls that were paid for and are still under way.
#[derive(Default)]
struct Outage {
    since: Option<Instant>,
    grace: Option<Instant>,
}

impl Outage {
    fn failed(&mut self) {
        self.since.get_or_insert_with(Instant::now);
    }

    /// The store answers. Only an outage in which renewals were missed counts, or a store that stumbles now and then
    /// would keep the redriver from its work.
    fn over(&mut self, lease: Duration) {
        if self.since.take().is_some_and(|since| since.elapsed() >= lease / 3) {
            self.grace = Some(Instant::now() + lease);
        }
    }

    fn lets_the_living_renew(&self) -> bool {
        self.grace.is_some_and(|until| Instant::now() < until)
    }
}

/// The queue as this worker knows it.
#[derive(Default)]
struct Incarnation {
    /// None: it was not asked yet.
    known: Option<Result<String, queue::Error>>,
    asked: Option<Instant>,
    /// It did not answer when it was asked last.
    missed: bool,
    /// The runs that a lost queue owed are to be sent again.
    refill: bool,
}

async fn look(
    shared: &Shared,
    lines: &Lines,
    incarnation: &mut Incarnation,
    outage: &mut Outage,
    stop: &CancellationToken,
) -> Result<(), Trouble> {
    // Whoever only waits would not notice that the store has gone again.
    if outage.since.is_some() || outage.lets_the_living_renew() {
        shared.reader.log_end().await?;
        outage.over(shared.options.lease);
    }
    if incarnation
        .asked
        .is_none_or(|asked| asked.elapsed() >= INCARNATION_EVERY)
    {
        let checked = check_incarnation(shared, incarnation).await;
        incarnation.asked = Some(Instant::now());
        checked?;
    }
    let mut away = incarnation
        .known
        .as_ref()
        .and_then(|known| known.as_ref().err().cloned());
    if !outage.lets_the_living_renew() {
        let refill = std::mem::take(&mut incarnation.refill);
        while dispatch(shared, lines, refill, &mut away).await? && !stop.is_cancelled() {}
    }
    away.map_or(Ok(()), |error| Err(error.into()))
}

/// One batch of overdue runs; whether there may be more.
async fn dispatch(
    shared: &Shared,
    lines: &Lines,
    refill: bool,
    away: &mut Option<queue::Error>,
) -> Result<bool, Trouble> {
    let due = shared.reader.take_due(BATCH, FIRST_PAUSE).await?;
    let full = due.len() == BATCH as usize;
    if !due.is_empty() {
        crash::at(Point::RedriveBefore);
    }
    let by_queue = |due: &Due| away.is_none() && (refill || !due.dispatch.is_multiple_of(2));
    let (commands, for_lines): (Vec<Due>, Vec<Due>) = due.into_iter().partition(by_queue);
    lines.take_in(&shared.reader, &for_lines).await?;
    let (begun, mut unsent) = (Instant::now(), Vec::new());
    for mut due in commands {
        if refill {
            // What the gateway called the command of a new run. The queue swallows an id it knows: of all workers that
            // find it emptied, and of gateways whose words were on their way, one is heard for each run.
            due.dispatch = 0;
        }
        if away.is_none() && begun.elapsed() < SENDING_MAX {
            *away = send(shared, &due).await.err();
            if away.is_none() {
                continue;
            }
        }
        unsent.push(due);
    }
    lines.take_in(&shared.reader, &unsent).await?;
    Ok(full)
}

async fn send(shared: &Shared, due: &Due) -> Result<(), queue::Error> {
    let command = Advance {
        run_id: due.run_id,
        tenant: due.tenant.clone(),
        version: due.version,
        dispatch: due.dispatch,
    };
    shared.queue.publish(&command).await?;
    metrics::runs().redriven.inc();
    crash::at(Point::RedriveAfter);
    Ok(())
}

async fn check_incarnation(shared: &Shared, incarnation: &mut Incarnation) -> Result<(), store::Error> {
    let found = match tokio::time::timeout(INCARNATION_MAX, shared.queue.incarnation()).await {
        Ok(found) => found,
        Err(_) => Err(queue::Error::Unavailable("no answer about the stream".into())),
    };
    match &found {
        Ok(_) => {
            if let Ok(Ok(depth)) = tokio::time::timeout(INCARNATION_MAX, shared.queue.depth()).await {
                metrics::flow().queue_depth.set(depth as i64);
            }
        }
        // A busy server may be late once, and moving all that waits into lines is not for nothing.
        Err(_) if shared.queue.is_connected() && !std::mem::replace(&mut incarnation.missed, true) => return Ok(()),
        Err(_) => {}
    }
    let news = match (&incarnation.known, &found) {
        (Some(Ok(known)), Ok(found)) => known != found,
        (Some(Err(_)), Err(_)) => false,
        _ => true,
    };
    if news {
        // We have just started, or it went away, was wiped, or came back: it may have lost any command. Those it still
        // holds come twice, which is harmless.
        let runs = shared.reader.make_due(None).await?;
        match &found {
            Ok(_) => tracing::info!(
                runs,
                "the command queue is new to this worker: queued runs are dispatched again"
            ),
            Err(error) => tracing::warn!(runs, %error, "the command queue is away: runs wait in their lines instead"),
        }
        incarnation.refill = found.is_ok() && incarnation.known.is_some();
    }
    incarnation.missed = found.is_err();
    incarnation.known = Some(found);
    Ok(())
}
