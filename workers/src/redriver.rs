//! The redriver: finds in the store what the queue has lost, and whatever is due.
//!
//! One mechanism serves lost commands, dead workers, retries, timers and deadlines: every head says by when something
//! must have happened. Any number of redrivers may run; each overdue run is taken by one of them.
//!
//! What it finds it sends to the queue, once. A run whose command came to nothing, or for which there is no queue, joins
//! its tenant's line, which needs the store alone: no message is needed for a run to reach its end.

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
/// A dispatched run is dispatched again after this, then after twice this, and so on.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// So often a run is left to the queue.
const COMMANDS_MAX: u64 = 1;
/// How often the queue is asked whether it is still the one we filled.
const INCARNATION_EVERY: Duration = Duration::from_secs(1);
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
        match look(&shared, &lines, &mut incarnation, &mut outage).await {
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
    /// Set while the runs that a lost queue owed are sent again.
    refill: bool,
}

async fn look(
    shared: &Shared,
    lines: &Lines,
    incarnation: &mut Incarnation,
    outage: &mut Outage,
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
        incarnation.asked = Some(Instant::now());
        check_incarnation(shared, incarnation).await?;
    }
    let mut queue = match &incarnation.known {
        Some(Err(error)) => Err(error.clone()),
        _ => Ok(()),
    };
    if outage.lets_the_living_renew() {
        return Ok(queue?);
    }
    loop {
        let due = shared.reader.take_due(BATCH, FIRST_PAUSE).await?;
        let full = due.len() == BATCH as usize;
        if !due.is_empty() {
            crash::at(Point::RedriveBefore);
        }
        let mut for_lines = Vec::new();
        for mut due in due {
            if incarnation.refill {
                // What the gateway called the command of a new run. The queue swallows an id it knows: of all workers
                // that find it emptied, and of gateways whose words were on their way, one is heard for each run.
                due.dispatch = 0;
            }
            let by_queue = queue.is_ok() && due.dispatch <= COMMANDS_MAX;
            if by_queue {
                queue = send(shared, &due).await;
            }
            if !by_queue || queue.is_err() {
                for_lines.push(due);
            }
        }
        lines.take_in(&shared.reader, &for_lines).await?;
        if !full {
            incarnation.refill = false;
            return Ok(queue?);
        }
    }
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
    let found = shared.queue.incarnation().await;
    if found.is_ok()
        && let Ok(depth) = shared.queue.depth().await
    {
        metrics::flow().queue_depth.set(depth as i64);
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
    incarnation.known = Some(found);
    Ok(())
}
