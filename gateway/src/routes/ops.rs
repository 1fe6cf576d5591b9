//! `/healthz`, `/readyz` and `/metrics`: for those who run the installation, on every role.

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
};
use serde_json::json;
use steadfast::health::Health;

/// The process answers.
pub async fn healthz() -> impl IntoResponse {
    Json(json!({"status": "ok"}))
}

/// Every part of the process has made progress lately, or this names the one that has not.
pub async fn readyz(State(health): State<Health>) -> impl IntoResponse {
    let parts = health.report();
    let ready = parts.iter().all(|part| part.ready);
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(json!({"ready": ready, "parts": parts})))
}

pub async fn metrics() -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        steadfast::metrics::render(),
    )
}
