//! `GET /v1/runs`: the runs of a tenant, newest first.

use axum::{
    Json,
    extract::{RawQuery, State},
};
use steadfast::{
    read::{RunFilter, RunRow},
    run::{RunId, Status},
};

use super::freshen;
use crate::{
    gateway::Gateway,
    identity::Who,
    problem::Problem,
    query::{Query, bad},
    view::{List, RunRowView},
};

pub async fn handle(
    State(gateway): State<Gateway>,
    who: Who,
    RawQuery(query): RawQuery,
) -> Result<Json<List<RunRowView>>, Problem> {
    let query = Query::read(
        query.as_deref(),
        &["session_id", "status", "agent", "limit", "after", "before"],
    )?;
    let status = query.get("status").map(read_status).transpose()?;
    let filter = RunFilter {
        session_id: query.parse("session_id")?,
        status,
        agent: query.get("agent").map(str::to_owned),
    };
    query.parse::<RunId>("after")?;
    query.parse::<RunId>("before")?;
    let page = query.page()?;
    freshen(&gateway).await;
    let rows = gateway.reads.runs(&who.tenant, &filter, &page).await?;
    Ok(Json(List::of(
        rows,
        |row: &RunRow| row.id.to_string(),
        RunRowView::from,
    )))
}

fn read_status(text: &str) -> Result<Status, Problem> {
    let known = || Status::ALL.map(Status::as_str).join(", ");
    Status::parse(text).ok_or_else(|| bad("status", &format!("must be one of: {}", known())))
}
