//! `GET /v1/runs/{id}/events/stream`: a run as it happens, resumable from any cursor.

use axum::{
    extract::{RawQuery, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use steadfast::{run::RunId, store::Head, wire::Cursor};

use crate::{
    gateway::Gateway,
    identity::Who,
    problem::Problem,
    query::{PathId, Query},
    stream::{follow::Follower, send, text::Types},
};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

pub async fn handle(
    State(gateway): State<Gateway>,
    who: Who,
    PathId(run_id): PathId<RunId>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let query = Query::read(query.as_deref(), &["after", "types"])?;
    let types = query.get("types").map_or(Ok(Types::default()), Types::read)?;
    let cursor = cursor(&query, &headers)?;
    let head = gateway.head(&who, run_id).await?;
    if let Some(cursor) = cursor {
        check_range(cursor, &head)?;
        if head.status.is_terminal() && cursor.events_seen() == head.version {
            // Nothing will follow: this answer, and only this one, makes an EventSource stop coming back.
            return Ok(StatusCode::NO_CONTENT.into_response());
        }
    }
    follow(&gateway, &who, run_id, cursor.unwrap_or_default(), types).await
}

/// The whole stream of a run.
pub async fn from_start(gateway: &Gateway, who: &Who, run_id: RunId) -> Result<Response, Problem> {
    gateway.head(who, run_id).await?;
    follow(gateway, who, run_id, Cursor::default(), Types::default()).await
}

async fn follow(
    gateway: &Gateway,
    who: &Who,
    run_id: RunId,
    cursor: Cursor,
    types: Types,
) -> Result<Response, Problem> {
    let slot = gateway.slots.take(&who.tenant)?;
    let subscription = gateway.watch(run_id).await;
    Ok(respond(Follower::from_cursor(
        gateway.sources(),
        run_id,
        cursor,
        types,
        subscription,
        slot,
    )))
}

/// The response whose body is the stream.
pub fn respond(follower: Follower) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream; charset=utf-8"),
        (header::CACHE_CONTROL, "no-cache, no-transform"),
        (ACCEL_BUFFERING, "no"),
    ];
    let headers = headers.map(|(name, value)| (name, HeaderValue::from_static(value)));
    send::response(headers.into_iter().collect(), follower)
}

/// Where the client stands. A browser comes back to the address it began with, and says in the header how far it got: the
/// later of the two counts.
fn cursor(query: &Query<'_>, headers: &HeaderMap) -> Result<Option<Cursor>, Problem> {
    let after = query
        .get("after")
        .map(|after| read_cursor("after", after))
        .transpose()?;
    let seen = (headers.get(&LAST_EVENT_ID).filter(|id| !id.is_empty()))
        .map(|id| read_cursor("Last-Event-ID", id.to_str().unwrap_or("?")))
        .transpose()?;
    let later = after.into_iter().chain(seen);
    Ok(later.max_by_key(|cursor| (cursor.events_seen(), cursor.sub)))
}

pub fn read_cursor(name: &str, text: &str) -> Result<Cursor, Problem> {
    text.parse::<Cursor>().map_err(|error| {
        let detail = error.to_string();
        Problem::malformed("bad_cursor", format!("{name}: {detail}")).at(name, detail)
    })
}

/// A cursor may lie anywhere up to the deltas of the event that is being produced.
pub fn check_range(cursor: Cursor, head: &Head) -> Result<(), Problem> {
    if cursor.events_seen() <= head.version {
        return Ok(());
    }
    let detail = format!(
        "the cursor {cursor} lies behind the run's last event, {}; use an id the run has given",
        head.version
    );
    Err(Problem::malformed("cursor_out_of_range", detail.clone())
        .at("after", detail)
        .of_run(head.run_id))
}
