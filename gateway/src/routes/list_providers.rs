//! `GET /v1/providers`: how each worker sees its model providers now. Of the installation as a whole: it holds nothing of
//! any tenant, and has a scope of its own because not every tenant is an operator.

use axum::{
    Json,
    extract::{RawQuery, State},
};
use serde::Serialize;
use steadfast::{run::Time, store::KnownState};

use crate::{
    gateway::Gateway,
    identity::Who,
    problem::Problem,
    query::Query,
    view::{List, optional_time, time},
};

#[derive(Serialize)]
pub struct ProviderView {
    object: &'static str,
    provider: String,
    model: String,
    worker: String,
    /// The circuit breaker: `closed`, `open` or `half_open`.
    state: String,
    #[serde(serialize_with = "time")]
    since: Time,
    #[serde(serialize_with = "optional_time")]
    paused_until: Option<Time>,
    calls_in_flight: u64,
    /// Of the last 30 s.
    recent_calls: u64,
    recent_failures: u64,
    failure_rate: f64,
    #[serde(serialize_with = "time")]
    updated_at: Time,
    /// The worker has not been heard of lately.
    stale: bool,
}

impl From<KnownState> for ProviderView {
    fn from(known: KnownState) -> Self {
        let state = known.state;
        Self {
            object: "provider",
            provider: state.provider,
            model: state.model,
            worker: state.worker,
            state: state.state,
            since: state.since,
            paused_until: state.paused_until,
            calls_in_flight: state.in_flight,
            recent_calls: state.calls,
            recent_failures: state.failures,
            failure_rate: state.failures as f64 / state.calls.max(1) as f64,
            updated_at: known.updated_at,
            stale: known.stale,
        }
    }
}

pub async fn handle(
    State(gateway): State<Gateway>,
    _: Who,
    RawQuery(query): RawQuery,
) -> Result<Json<List<ProviderView>>, Problem> {
    Query::read(query.as_deref(), &[])?;
    let known = match &gateway.store.provider_states {
        Some(states) => states.list().await?,
        None => Vec::new(),
    };
    Ok(Json(List::whole(known.into_iter().map(ProviderView::from).collect())))
}
