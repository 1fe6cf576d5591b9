//! `GET /v1/usage`: tokens and money by day, agent and model.

use axum::{
    Json,
    extract::{RawQuery, State},
};
use steadfast::read::UsageRow;

use super::freshen;
use crate::{gateway::Gateway, identity::Who, problem::Problem, query::Query, view::List};

const DAYS_DEFAULT: u64 = 30;
const DAYS_MAX: u64 = 366;

pub async fn handle(
    State(gateway): State<Gateway>,
    who: Who,
    RawQuery(query): RawQuery,
) -> Result<Json<List<UsageRow>>, Problem> {
    let query = Query::read(query.as_deref(), &["days"])?;
    let days = query.number("days", 1, DAYS_MAX, DAYS_DEFAULT)?;
    freshen(&gateway).await;
    let rows = gateway
        .reads
        .usage(&who.tenant, u32::try_from(days).unwrap_or(1))
        .await?;
    Ok(Json(List::whole(rows)))
}
