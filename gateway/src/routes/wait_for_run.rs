//! `GET /v1/runs/{id}/wait`: a long poll for the end of a run.

use std::time::Duration;

use axum::{
    extract::{RawQuery, State},
    http::StatusCode,
    response::Response,
};
use steadfast::{
    feed::{Frame, Subscription, Watched},
    run::{Event, RunId},
};
use tokio::time::Instant;

use crate::{
    change::render,
    gateway::Gateway,
    idempotency::json,
    identity::Who,
    limits::WAIT_SECONDS_MAX,
    problem::Problem,
    query::{PathId, Query},
};

const TIMEOUT_SECONDS_DEFAULT: u64 = 30;
/// However quiet the feed, the store is looked at this often: the feed may lose the end.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Answers with the run as it is when it has ended, when the time is over, or when this process ends.
pub async fn handle(
    State(gateway): State<Gateway>,
    who: Who,
    PathId(run_id): PathId<RunId>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let query = Query::read(query.as_deref(), &["timeout_s"])?;
    let seconds = query.number("timeout_s", 0, WAIT_SECONDS_MAX, TIMEOUT_SECONDS_DEFAULT)?;
    let end = Instant::now() + Duration::from_secs(seconds);
    gateway.head(&who, run_id).await?;
    let mut subscription = gateway.watch(run_id).await;
    while !gateway.head(&who, run_id).await?.status.is_terminal() && Instant::now() < end {
        let until = end.min(Instant::now() + LOOK_EVERY);
        tokio::select! {
            biased;
            () = gateway.draining.cancelled() => break,
            _ = tokio::time::timeout_at(until, ended(&mut subscription)) => {}
        }
    }
    let loaded = gateway.load(&who, run_id).await?;
    Ok(json(StatusCode::OK, render(&loaded)?))
}

/// Returns when the run has ended, or may have.
async fn ended(subscription: &mut Subscription) {
    loop {
        match subscription.next().await {
            Watched::Frame(Frame::Event { name, .. }) if Event::is_terminal_name(&name) => return,
            Watched::Frame(_) => {}
            Watched::Missed => return,
        }
    }
}
