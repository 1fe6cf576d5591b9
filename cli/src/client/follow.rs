//! A run's stream, followed across drops: whatever breaks, it goes on after the last frame that was seen.

use std::time::Duration;

use eventsource_stream::Eventsource;
use futures::StreamExt;
use reqwest::{Method, Response, StatusCode, header};
use serde_json::Value;
use steadfast::run::Event;
use tokio::time::Instant;

use super::{Client, reason, refusal};
use crate::error::Failure;

/// Without a sign of life for so long, it is given up.
const OUTAGE_MAX: Duration = Duration::from_secs(120);
/// Between two tries: 0.2, 0.4, 0.8 … up to 5 s, or what the server asks for.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);

/// One frame of the stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    /// What to resume after.
    pub cursor: String,
    pub kind: String,
    pub data: String,
}

/// Where a stream begins.
pub enum Start<'a> {
    /// With a task that is not a run yet. The key makes a repeated post the same run.
    Task { body: &'a Value, idempotency_key: String },
    /// In a run there is, after a cursor.
    Run { id: &'a str, after: Option<String> },
}

/// What a watcher is told.
pub enum Update<'a> {
    Frame(&'a Frame),
    /// The connection was lost, for this reason; it is tried again.
    Dropped(&'a str),
}

/// How the following ended.
#[derive(Debug, PartialEq)]
pub enum End {
    /// The last frame was the run's end.
    Terminal,
    /// There was nothing left to see.
    NothingLeft,
}

/// What came of one connection.
enum Leg {
    End(End),
    Dropped { reason: String, pause: Option<Duration> },
}

/// Where the following stands.
struct Place {
    run_id: Option<String>,
    cursor: Option<String>,
    connected_once: bool,
    last_sign: Instant,
}

/// Follows a run to its end.
pub async fn follow(
    client: &Client,
    start: Start<'_>,
    mut tell: impl FnMut(Update<'_>) -> Result<(), Failure>,
) -> Result<End, Failure> {
    let (run_id, cursor) = match &start {
        Start::Task { .. } => (None, None),
        Start::Run { id, after } => (Some((*id).to_owned()), after.clone()),
    };
    let mut place = Place {
        run_id,
        cursor,
        connected_once: false,
        last_sign: Instant::now(),
    };
    let mut pause = PAUSE_MIN;
    loop {
        let sign_before = place.last_sign;
        match leg(client, &start, &mut place, &mut tell).await? {
            Leg::End(end) => return Ok(end),
            Leg::Dropped { reason, pause: asked } => {
                if place.last_sign.elapsed() > OUTAGE_MAX {
                    return Err(gave_up(client, &place, &reason));
                }
                if place.last_sign > sign_before {
                    pause = PAUSE_MIN;
                }
                tell(Update::Dropped(&reason))?;
                tokio::time::sleep(asked.unwrap_or(pause).min(RETRY_AFTER_MAX)).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}

fn gave_up(client: &Client, place: &Place, reason: &str) -> Failure {
    let seconds = OUTAGE_MAX.as_secs();
    let said = format!("{} has been away for {seconds} s ({reason})", client.base());
    Failure::new(match (&place.run_id, &place.cursor) {
        (Some(id), Some(cursor)) => format!("{said}; go on with: steadfast runs tail {id} --after {cursor}"),
        (Some(id), None) => format!("{said}; go on with: steadfast runs tail {id}"),
        _ => format!("{said}; whether the task was accepted is not known: see `steadfast runs list`"),
    })
}

/// One connection, from its request to its end.
async fn leg(
    client: &Client,
    start: &Start<'_>,
    place: &mut Place,
    tell: &mut impl FnMut(Update<'_>) -> Result<(), Failure>,
) -> Result<Leg, Failure> {
    let request = match (&place.run_id, start) {
        (Some(id), _) => {
            let request = client.request(Method::GET, &format!("/v1/runs/{id}/events/stream"));
            match &place.cursor {
                Some(cursor) => request.header("last-event-id", cursor),
                None => request,
            }
        }
        (None, Start::Task { body, idempotency_key }) => client
            .request(Method::POST, "/v1/runs")
            .header("idempotency-key", idempotency_key)
            .json(body),
        (None, Start::Run { .. }) => return Err(Failure::new("a run without an id cannot be followed")),
    };
    let response = match request.send().await {
        Ok(response) => response,
        // Nobody was ever there: that is a wrong address, not a drop.
        Err(error) if !place.connected_once => return Err(client.unreachable(&error)),
        Err(error) => {
            return Ok(Leg::Dropped {
                reason: reason(&error),
                pause: None,
            });
        }
    };
    place.connected_once = true;
    match response.status() {
        StatusCode::OK => {}
        StatusCode::NO_CONTENT => return Ok(Leg::End(End::NothingLeft)),
        _ => {
            let refusal = refusal(response).await;
            let passing = refusal.status.is_server_error() || refusal.status == StatusCode::TOO_MANY_REQUESTS;
            if !passing {
                return Err(Failure::new(refusal.said));
            }
            return Ok(Leg::Dropped {
                reason: refusal.said,
                pause: refusal.retry_after,
            });
        }
    }
    if place.run_id.is_none() {
        place.run_id = run_of(&response);
    }
    read(response, place, tell).await
}

/// The run a `Location` points to: known before the first frame, so that a drop in between loses nothing.
fn run_of(response: &Response) -> Option<String> {
    let location = response.headers().get(header::LOCATION)?.to_str().ok()?;
    location
        .split('/')
        .find(|part| part.starts_with("run_"))
        .map(str::to_owned)
}

async fn read(
    response: Response,
    place: &mut Place,
    tell: &mut impl FnMut(Update<'_>) -> Result<(), Failure>,
) -> Result<Leg, Failure> {
    place.last_sign = Instant::now();
    let mut frames = response.bytes_stream().eventsource();
    while let Some(next) = frames.next().await {
        let frame = match next {
            Ok(event) => Frame {
                cursor: event.id,
                kind: event.event,
                data: event.data,
            },
            Err(error) => {
                return Ok(Leg::Dropped {
                    reason: format!("the stream broke off: {error}"),
                    pause: None,
                });
            }
        };
        place.last_sign = Instant::now();
        place.cursor = Some(frame.cursor.clone()).filter(|cursor| !cursor.is_empty());
        tell(Update::Frame(&frame))?;
        if Event::is_terminal_name(&frame.kind) {
            return Ok(Leg::End(End::Terminal));
        }
    }
    Ok(Leg::Dropped {
        reason: "the server ended the stream".into(),
        pause: None,
    })
}

#[cfg(test)]
#[path = "follow_tests.rs"]
mod tests;
