//! `GET /v1/runs/{id}`: a run, folded from its events.

use axum::{
    extract::{RawQuery, State},
    http::StatusCode,
    response::Response,
};
use steadfast::run::RunId;

use crate::{
    change::render,
    gateway::Gateway,
    idempotency::json,
    identity::Who,
    problem::Problem,
    query::{PathId, Query},
};

pub async fn handle(
    State(gateway): State<Gateway>,
    who: Who,
    PathId(run_id): PathId<RunId>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    Query::read(query.as_deref(), &[])?;
    let loaded = gateway.load(&who, run_id).await?;
    Ok(json(StatusCode::OK, render(&loaded)?))
}
