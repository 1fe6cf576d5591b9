//! `GET /v1/sessions`: the conversations of a tenant, newest first.

use axum::{
    Json,
    extract::{RawQuery, State},
};
use steadfast::{read::SessionRow, run::SessionId};

use super::freshen;
use crate::{
    gateway::Gateway,
    identity::Who,
    problem::Problem,
    query::Query,
    view::{List, SessionView},
};

pub async fn handle(
    State(gateway): State<Gateway>,
    who: Who,
    RawQuery(query): RawQuery,
) -> Result<Json<List<SessionView>>, Problem> {
    let query = Query::read(query.as_deref(), &["limit", "after", "before"])?;
    query.parse::<SessionId>("after")?;
    query.parse::<SessionId>("before")?;
    let page = query.page()?;
    freshen(&gateway).await;
    let rows = gateway.reads.sessions(&who.tenant, &page).await?;
    Ok(Json(List::of(
        rows,
        |row: &SessionRow| row.id.to_string(),
        SessionView::from,
    )))
}
