//! `GET /v1/sessions/{id}`: one conversation.

use axum::{
    Json,
    extract::{RawQuery, State},
};
use steadfast::run::SessionId;

use crate::{
    gateway::Gateway,
    identity::Who,
    problem::Problem,
    query::{PathId, Query},
    view::SessionView,
};

pub async fn handle(
    State(gateway): State<Gateway>,
    who: Who,
    PathId(id): PathId<SessionId>,
    RawQuery(query): RawQuery,
) -> Result<Json<SessionView>, Problem> {
    Query::read(query.as_deref(), &[])?;
    let session = gateway.store.reader.session(&who.tenant, id).await?;
    session
        .as_ref()
        .map(|session| Json(session.into()))
        .ok_or_else(|| Problem::no_such_session(&id.to_string()))
}
