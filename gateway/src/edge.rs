//! What happens around every request: an id, a metric, one log line if it failed, and no panic that reaches the client.

use std::panic::AssertUnwindSafe;

use axum::{
    extract::{MatchedPath, Request},
    http::{HeaderMap, HeaderName, HeaderValue, Method},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures::FutureExt;
use steadfast::metrics;
use tokio::time::Instant;

use crate::{clock, linger::linger, problem::Problem};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Characters of a request id that a client may choose.
const REQUEST_ID_MAX: usize = 64;

pub async fn edge(request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = request_id(request.headers());
    let method = method_label(request.method());
    let route = request.extensions().get::<MatchedPath>().cloned();
    let uri = request.uri().clone();

    let outcome = AssertUnwindSafe(next.run(linger(request))).catch_unwind().await;
    let mut response = outcome.unwrap_or_else(|_| Problem::internal("the handler panicked").into_response());

    let route = route.as_ref().map_or("unknown", MatchedPath::as_str);
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        problem.render(&mut response, id.to_str().unwrap_or_default(), uri.path());
        log(&problem, &id, method, route);
    }
    response.headers_mut().insert(REQUEST_ID, id);
    let http = metrics::http();
    http.requests
        .with_label_values(&[route, method, response.status().as_str()])
        .inc();
    http.duration
        .with_label_values(&[route])
        .observe(started.elapsed().as_secs_f64());
    response
}

fn request_id(headers: &HeaderMap) -> HeaderValue {
    let sane = |value: &&HeaderValue| {
        let bytes = value.as_bytes();
        (1..=REQUEST_ID_MAX).contains(&bytes.len())
            && bytes
                .iter()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    match headers.get(&REQUEST_ID).filter(sane) {
        Some(given) => given.clone(),
        None => HeaderValue::from_str(&format!("req_{}", clock::new_id().simple()))
            .unwrap_or(HeaderValue::from_static("req_unknown")),
    }
}

/// Methods as a metric's label: a client cannot invent new ones.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::HEAD => "HEAD",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

fn log(problem: &Problem, id: &HeaderValue, method: &str, route: &str) {
    let (status, code) = (problem.status().as_u16(), problem.code_word());
    let id = id.to_str().unwrap_or_default();
    let cause = problem.cause().unwrap_or_default();
    if status >= 500 {
        tracing::warn!(request_id = id, method, route, status, code, cause, "a request failed");
    } else {
        tracing::info!(request_id = id, method, route, status, code, "a request was refused");
    }
}
