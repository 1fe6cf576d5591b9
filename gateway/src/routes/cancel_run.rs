//! `POST /v1/runs/{id}/cancel`: someone wants the run to stop.

use axum::{
    extract::{Request, State},
    response::Response,
};
use serde::Deserialize;
use steadfast::run::{Command, Refusal, RunId};

use crate::{
    body, change, clock, gateway::Gateway, idempotency::Key, identity::Who, problem::Problem, query::PathId,
    task::check_text,
};

/// Characters of a reason.
const REASON_CHARS_MAX: usize = 1000;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct CancelBody {
    reason: Option<String>,
}

/// A run that no worker holds ends at once; otherwise its worker lets go first, and `cancel_requested` says so.
pub async fn handle(
    State(gateway): State<Gateway>,
    who: Who,
    PathId(run_id): PathId<RunId>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let bytes = body::read(&parts.headers, body, gateway.limits.body_bytes_max).await?;
    let key = Key::of(&parts.headers, &parts.method, parts.uri.path(), &bytes)?;
    let CancelBody { reason } = if bytes.is_empty() {
        CancelBody::default()
    } else {
        body::parse(&bytes)?
    };
    check_reason(reason.as_deref())?;
    let command = || Command::Cancel {
        now: clock::now(),
        reason: reason.clone(),
    };
    change::change(&gateway, &who, run_id, key, command, refused).await
}

pub fn check_reason(reason: Option<&str>) -> Result<(), Problem> {
    let Some(reason) = reason else { return Ok(()) };
    check_text("/reason", reason)?;
    if reason.chars().count() > REASON_CHARS_MAX {
        let detail = format!("it is longer than {REASON_CHARS_MAX} characters; shorten it");
        return Err(Problem::invalid("/reason", detail));
    }
    Ok(())
}

fn refused(refusal: &Refusal) -> Problem {
    match refusal {
        Refusal::AlreadyEnded(_) => Problem::conflict("run_already_ended", refusal.to_string()),
        _ => Problem::conflict("cancel_refused", refusal.to_string()),
    }
}
