//! `POST /v1/sessions`: a conversation begins. A run without a session begins one of its own.

use axum::{
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use serde::Deserialize;
use serde_json::{Map, Value};
use steadfast::{
    run::SessionId,
    store::{Outcome, Session},
};

use crate::{
    body, clock,
    gateway::Gateway,
    idempotency::{self, Key, json},
    identity::Who,
    problem::Problem,
    task,
    view::SessionView,
};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct SessionBody {
    metadata: Option<Map<String, Value>>,
}

pub async fn handle(State(gateway): State<Gateway>, who: Who, request: Request) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let bytes = body::read(&parts.headers, body, gateway.limits.body_bytes_max).await?;
    let key = Key::of(&parts.headers, &parts.method, parts.uri.path(), &bytes)?;
    let SessionBody { metadata } = if bytes.is_empty() {
        SessionBody::default()
    } else {
        body::parse(&bytes)?
    };
    let metadata = match task::metadata(metadata, &gateway.limits)? {
        Value::Null => "{}".to_owned(),
        value => value.to_string(),
    };
    let session = Session {
        session_id: SessionId(clock::new_id()),
        tenant: who.tenant.clone(),
        runs: 0,
        metadata,
        created_at: clock::now(),
    };
    let answer =
        serde_json::to_string(&SessionView::from(&session)).map_err(|error| Problem::internal(error.to_string()))?;
    let stored = key.as_ref().map(|key| key.with_answer(StatusCode::CREATED, &answer));
    match gateway.store.reader.create_session(&session, stored.as_ref()).await? {
        Outcome::Appended(_) => Ok(located(json(StatusCode::CREATED, answer), session.session_id)),
        Outcome::KeyUsed { fingerprint, answer } => {
            let key = key.ok_or_else(|| Problem::internal("a session without a key met a used key"))?;
            key.replay(&fingerprint, answer).map(idempotency::again)
        }
        Outcome::Conflict | Outcome::NoSuchSession => {
            Err(Problem::unavailable("the session could not be written; try again"))
        }
    }
}

fn located(mut response: Response, id: SessionId) -> Response {
    if let Ok(location) = HeaderValue::try_from(format!("/v1/sessions/{id}")) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}
