//! The redriver: finds in the store what the queue has lost, and whatever is due.
//!
//! One mechanism serves lost commands, dead workers, retries, timers and deadlines: every head says by when something
//! must have happened. Any number of redrivers may run; each overdue run is taken by one of them.

use std::{sync::Arc, time::Duration};

use steadfast::{
    crash::{self, Point},
    health::Health,
    metrics,
    queue::{self, Advance},
    store,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::worker::Shared;

/// Runs dispatched in one go.
const BATCH: u32 = 256;
/// A dispatched run is dispatched again after this, then after twice this, and so on.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// How often the queue is asked whether it is still the one we filled.
const INCARNATION_EVERY: Duration = Duration::from_secs(1);
const SILENCE_MAX: Duration = Duration::from_secs(15);

pub async fn run(shared: Arc<Shared>, health: Health, stop: CancellationToken) {
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
        match look(&shared, &mut incarnation, &mut outage).await {
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
    #[error(transparent)]
    Queue(#[from] queue::Error),
    #[error("the command queue is away")]
    NoQueue,
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

#[derive(Default)]
struct Incarnation {
    known: Option<String>,
    /// A queue was known before.
    had_one: bool,
    asked: Option<Instant>,
    /// Set while the runs that a lost queue owed are sent again.
    refill: bool,
}

async fn look(shared: &Shared, incarnation: &mut Incarnation, outage: &mut Outage) -> Result<(), Trouble> {
    if outage.since.is_some() {
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
    // Nothing is marked as dispatched while the queue is known to be away: it would only be put off.
    if incarnation.known.is_none() {
        return Err(Trouble::NoQueue);
    }
    if outage.lets_the_living_renew() {
        return Ok(());
    }
    loop {
        let due = shared.reader.take_due(BATCH, FIRST_PAUSE).await?;
        let full = due.len() == BATCH as usize;
        if !due.is_empty() {
            crash::at(Point::RedriveBefore);
        }
        for due in due {
            let command = Advance {
                run_id: due.run_id,
                tenant: due.tenant,
                version: due.version,
                // What the gateway called the command of a new run. The queue swallows an id it knows: of all workers
                // that find it emptied, and of gateways whose words were on their way, one is heard for each run.
                dispatch: if incarnation.refill { 0 } else { due.dispatch },
            };
            shared.queue.publish(&command).await?;
            metrics::runs().redriven.inc();
            crash::at(Point::RedriveAfter);
        }
        if !full {
            incarnation.refill = false;
            return Ok(());
        }
    }
}

async fn check_incarnation(shared: &Shared, incarnation: &mut Incarnation) -> Result<(), Trouble> {
    let current = match shared.queue.incarnation().await {
        Ok(current) => current,
        Err(error) => {
            incarnation.known = None;
            return Err(error.into());
        }
    };
    if let Ok(depth) = shared.queue.depth().await {
        metrics::flow().queue_depth.set(depth as i64);
    }
    if incarnation.known.as_ref() != Some(&current) {
        // A queue we do not know (we have just started, or it was wiped, or it came back): it may have lost any
        // command. Those it still holds come twice, which is harmless.
        let made = shared.reader.make_due(None).await?;
        tracing::info!(
            runs = made,
            "the command queue is new to this worker: queued runs are dispatched again"
        );
        incarnation.known = Some(current);
        incarnation.refill = std::mem::replace(&mut incarnation.had_one, true);
    }
    Ok(())
}
