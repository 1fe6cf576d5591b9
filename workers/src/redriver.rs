//! The redriver: finds in the store what the queue has lost, and whatever is due.
//!
//! One mechanism serves lost commands, dead workers, retries, timers and deadlines: every head says by when something
//! must have happened. Any number of redrivers may run; each overdue run is taken by one of them.

use std::{sync::Arc, time::Duration};

use steadfast::{health::Health, metrics, queue::Advance};
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
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        match look(&shared, &mut incarnation).await {
            Ok(()) => health.progress("redriver"),
            Err(reason) => {
                tracing::warn!(reason, "overdue runs could not be dispatched");
                health.trouble("redriver", reason);
            }
        }
    }
}

#[derive(Default)]
struct Incarnation {
    known: Option<String>,
    asked: Option<tokio::time::Instant>,
}

async fn look(shared: &Shared, incarnation: &mut Incarnation) -> Result<(), String> {
    if incarnation
        .asked
        .is_none_or(|asked| asked.elapsed() >= INCARNATION_EVERY)
    {
        incarnation.asked = Some(tokio::time::Instant::now());
        check_incarnation(shared, incarnation).await?;
    }
    // Nothing is marked as dispatched while the queue is known to be away: it would only be put off.
    if incarnation.known.is_none() {
        return Err("the command queue is away".into());
    }
    loop {
        let due = shared
            .reader
            .take_due(BATCH, FIRST_PAUSE)
            .await
            .map_err(|error| error.to_string())?;
        let full = due.len() == BATCH as usize;
        for due in due {
            let command = Advance {
                run_id: due.run_id,
                tenant: due.tenant,
                version: due.version,
                dispatch: due.dispatch,
            };
            shared
                .queue
                .publish(&command)
                .await
                .map_err(|error| error.to_string())?;
            metrics::runs().redriven.inc();
        }
        if !full {
            return Ok(());
        }
    }
}

async fn check_incarnation(shared: &Shared, incarnation: &mut Incarnation) -> Result<(), String> {
    let current = match shared.queue.incarnation().await {
        Ok(current) => current,
        Err(error) => {
            incarnation.known = None;
            return Err(error.to_string());
        }
    };
    if let Ok(depth) = shared.queue.depth().await {
        metrics::flow().queue_depth.set(depth as i64);
    }
    if incarnation.known.as_ref() != Some(&current) {
        // A queue we do not know (we have just started, or it was wiped, or it came back): it may have lost any
        // command. Those it still holds come twice, which is harmless.
        let made = shared.reader.make_due(None).await.map_err(|error| error.to_string())?;
        tracing::info!(
            runs = made,
            "the command queue is new to this worker: queued runs are dispatched again"
        );
        incarnation.known = Some(current);
    }
    Ok(())
}
