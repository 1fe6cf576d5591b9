//! Tells others how this worker sees its model providers: at once when something changes, else every few seconds.

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use steadfast::{
    run::Time,
    store::{ProviderState, ProviderStates},
};
use tokio_util::sync::CancellationToken;

use crate::{
    clock,
    model::{
        Models,
        admission::{Phase, Standing},
        link::Link,
    },
};

/// How soon a change is told.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often it is told while calls are made that change nothing but numbers.
const BUSY_EVERY: Duration = Duration::from_secs(3);
/// And while nothing happens: rows of a worker that says nothing for longer count as stale.
const IDLE_EVERY: Duration = Duration::from_secs(15);

pub async fn run(models: Arc<Models>, states: ProviderStates, worker: String, stop: CancellationToken) {
    let mut tick = tokio::time::interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut told: Option<(Vec<Shape>, std::time::Instant)> = None;
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = stop.cancelled() => break,
        }
        let (now, time) = (clock::instant(), clock::now());
        let standings = models.admission.standings();
        if standings.is_empty() {
            continue;
        }
        let shapes: Vec<Shape> = standings.iter().map(shape).collect();
        let busy = standings
            .iter()
            .any(|(_, standing)| standing.in_flight > 0 || standing.calls > 0);
        let every = if busy { BUSY_EVERY } else { IDLE_EVERY };
        if let Some((shapes_told, at)) = &told
            && *shapes_told == shapes
            && now.saturating_duration_since(*at) < every
        {
            continue;
        }
        let wall = |moment: std::time::Instant| match moment.checked_duration_since(now) {
            Some(ahead) => time + TimeDelta::from_std(ahead).unwrap_or_default(),
            None => time - TimeDelta::from_std(now.saturating_duration_since(moment)).unwrap_or_default(),
        };
        let rows: Vec<_> = standings.iter().map(|known| row(&worker, known, wall)).collect();
        // A failure is tried again with the next look: the table is a cache, and nothing waits for it.
        match states.put(&worker, &rows).await {
            Ok(()) => told = Some((shapes, now)),
            Err(error) => tracing::debug!(%error, "the states of the providers could not be written"),
        }
    }
    if told.is_some()
        && let Err(error) = states.put(&worker, &[]).await
    {
        tracing::debug!(%error, "the states of the providers could not be taken back");
    }
}

/// What is worth telling at once.
type Shape = (Link, &'static str, Option<std::time::Instant>);

fn shape((link, standing): &(Link, Standing)) -> Shape {
    (link.clone(), word(standing.phase), standing.paused_until)
}

fn word(phase: Phase) -> &'static str {
    match phase {
        Phase::Closed => "closed",
        Phase::Open { .. } => "open",
        Phase::HalfOpen { .. } => "half_open",
    }
}

fn row(worker: &str, (link, standing): &(Link, Standing), wall: impl Fn(std::time::Instant) -> Time) -> ProviderState {
    ProviderState {
        worker: worker.into(),
        provider: link.provider.clone(),
        model: link.model.clone(),
        state: word(standing.phase).into(),
        since: wall(standing.since),
        paused_until: standing.paused_until.map(wall),
        in_flight: standing.in_flight as u64,
        calls: standing.calls.into(),
        failures: standing.failures.into(),
    }
}
