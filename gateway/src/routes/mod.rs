//! The endpoints, one file each, and the one table they are served from.
//!
//! Every endpoint under `/v1` names the scope it needs; nothing is served without passing the guard.

mod cancel_run;
mod create_run;
mod create_session;
mod get_run;
mod get_session;
mod list_agents;
mod list_approvals;
mod list_events;
mod list_messages;
mod list_providers;
mod list_runs;
mod list_sessions;
mod ops;
mod raise_budget;
mod resolve_approval;
mod stream_events;
mod submit_tool_outputs;
mod usage;
mod wait_for_run;

use std::time::Duration;

use axum::{
    Router,
    extract::{Request, State},
    http::StatusCode,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get, post},
};
use steadfast::health::Health;

use crate::{edge::edge, gateway::Gateway, identity::Scope, problem::Problem};

/// A list answers with what is there after this long, however far the read models lag.
const FRESHNESS_WAIT_MAX: Duration = Duration::from_millis(500);

/// One line of the table.
pub struct Endpoint {
    pub path: &'static str,
    pub scope: Scope,
    handler: MethodRouter<Gateway>,
}

impl Endpoint {
    fn new(path: &'static str, scope: Scope, handler: MethodRouter<Gateway>) -> Self {
        Self { path, scope, handler }
    }
}

pub fn endpoints() -> Vec<Endpoint> {
    use Scope::{ApprovalsWrite, ProvidersRead, RunsRead, RunsWrite, SessionsRead, SessionsWrite, UsageRead};
    vec![
        Endpoint::new("/v1/runs", RunsWrite, post(create_run::handle)),
        Endpoint::new("/v1/runs", RunsRead, get(list_runs::handle)),
        Endpoint::new("/v1/runs/{id}", RunsRead, get(get_run::handle)),
        Endpoint::new("/v1/runs/{id}/wait", RunsRead, get(wait_for_run::handle)),
        Endpoint::new("/v1/runs/{id}/cancel", RunsWrite, post(cancel_run::handle)),
        Endpoint::new(
            "/v1/runs/{id}/tool_outputs",
            RunsWrite,
            post(submit_tool_outputs::handle),
        ),
        Endpoint::new("/v1/runs/{id}/approvals", RunsRead, get(list_approvals::handle)),
        Endpoint::new(
            "/v1/runs/{id}/approvals/{approval_id}/resolve",
            ApprovalsWrite,
            post(resolve_approval::handle),
        ),
        Endpoint::new("/v1/runs/{id}/budget", ApprovalsWrite, post(raise_budget::handle)),
        Endpoint::new("/v1/runs/{id}/events", RunsRead, get(list_events::handle)),
        Endpoint::new("/v1/runs/{id}/events/stream", RunsRead, get(stream_events::handle)),
        Endpoint::new("/v1/sessions", SessionsWrite, post(create_session::handle)),
        Endpoint::new("/v1/sessions", SessionsRead, get(list_sessions::handle)),
        Endpoint::new("/v1/sessions/{id}", SessionsRead, get(get_session::handle)),
        Endpoint::new("/v1/sessions/{id}/messages", SessionsRead, get(list_messages::handle)),
        Endpoint::new("/v1/usage", UsageRead, get(usage::handle)),
        Endpoint::new("/v1/agents", RunsRead, get(list_agents::handle)),
        Endpoint::new("/v1/providers", ProvidersRead, get(list_providers::handle)),
    ]
}

/// Everything a gateway serves.
pub fn router(gateway: Gateway) -> Router {
    let health = gateway.health.clone();
    let api = endpoints().into_iter().fold(Router::new(), |router, endpoint| {
        let guard = middleware::from_fn_with_state((gateway.clone(), endpoint.scope), guard);
        router.route(endpoint.path, endpoint.handler.route_layer(guard))
    });
    finish(api.with_state(gateway).merge(ops_routes(health)))
}

/// What every other role serves.
pub fn ops_router(health: Health) -> Router {
    finish(ops_routes(health))
}

fn ops_routes(health: Health) -> Router {
    Router::new()
        .route("/healthz", get(ops::healthz))
        .route("/readyz", get(ops::readyz))
        .route("/metrics", get(ops::metrics))
        .with_state(health)
}

/// What surrounds every route.
pub fn finish(router: Router) -> Router {
    router
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn(edge))
}

/// Nobody passes without identity, scope and room in the tenant's rate.
async fn guard(
    State((gateway, scope)): State<(Gateway, Scope)>,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let who = gateway
        .doorkeeper
        .admit(&gateway.store.reader, request.headers(), scope)
        .await?;
    let left = gateway.rate.take(&who.tenant)?;
    request.extensions_mut().insert(who);
    let mut response = next.run(request).await;
    if let Some(left) = left {
        left.tell(response.headers_mut());
    }
    Ok(response)
}

async fn unknown_route() -> Problem {
    Problem::not_found("route_not_found", "there is no such route; the API is under /v1")
}

async fn wrong_method() -> Response {
    let detail = "this route does not take this method; the Allow header names those it takes";
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail).into_response()
}

/// Gives the read models a moment to catch up with what the caller has just done.
async fn freshen(gateway: &Gateway) {
    let fresh = async {
        if let Ok(end) = gateway.store.reader.log_end().await {
            let _ = gateway.reads.wait_for(end).await;
        }
    };
    let _ = tokio::time::timeout(FRESHNESS_WAIT_MAX, fresh).await;
}
