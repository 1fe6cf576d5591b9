//! Requests of the clients: to any gateway, over a connection that may break at any moment.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{Method, Request, Response, header},
};
use bytes::Bytes;
use http_body_util::BodyExt;
use tokio::{
    sync::{mpsc, oneshot},
    time::sleep,
};
use tower::ServiceExt;

use crate::{house::House, process::Process, world::Draws};

/// A client that hears nothing for so long tries again elsewhere.
const PATIENCE: Duration = Duration::from_secs(12);
/// Pieces of a body on their way.
const IN_FLIGHT: usize = 2;
const IDEMPOTENCY_KEY: &str = "idempotency-key";
const LAST_EVENT_ID: &str = "last-event-id";

pub struct Ask<'a> {
    pub tenant: usize,
    pub method: Method,
    pub path: String,
    pub body: String,
    pub key: Option<&'a str>,
    pub last_event_id: Option<&'a str>,
}

pub struct Answer {
    pub status: u16,
    pub location: Option<String>,
    pub body: Received,
}

pub enum Received {
    Whole(Bytes),
    Stream(mpsc::Receiver<Bytes>),
}

impl Answer {
    pub fn json(&self) -> serde_json::Value {
        match &self.body {
            Received::Whole(bytes) => serde_json::from_slice(bytes).unwrap_or_default(),
            Received::Stream(_) => serde_json::Value::Null,
        }
    }
}

impl House {
    /// `None`: no answer came. What was asked may have happened.
    pub async fn ask(&self, ask: &Ask<'_>) -> Option<Answer> {
        let world = &self.world;
        sleep(world.millis(Draws::Client, 4)).await;
        let place = world.below(Draws::Client, self.plan.gateways as u64) as usize;
        let (process, router) = {
            let running = self.running();
            (running[place].process.clone(), running[place].router.clone())
        };
        let router = router.filter(|_| process.is_alive())?;
        let request = request(self, ask)?;
        let (sender, answer) = oneshot::channel();
        process.spawn(serve(router, request, sender));
        let answer = tokio::time::timeout(PATIENCE, answer).await.ok()?.ok()?;
        world.note(format_args!(
            "client: {} {} at {}: {}",
            ask.method, ask.path, process.name, answer.status
        ));
        if world.chance(Draws::Client, world.noise().answer_lost_permille) {
            world.fault("gateway answer lost");
            return None;
        }
        Some(answer)
    }

    /// A process of this place, for whoever wants to know who serves.
    pub fn process(&self, place: usize) -> Arc<Process> {
        self.running()[place].process.clone()
    }
}

fn request(house: &House, ask: &Ask<'_>) -> Option<Request<Body>> {
    let mut request = Request::builder()
        .method(ask.method.clone())
        .uri(&ask.path)
        .header(header::CONTENT_TYPE, "application/json")
        .header(
            header::AUTHORIZATION,
            format!("Bearer {}", house.tenants[ask.tenant].key.expose()),
        );
    for (name, value) in [(IDEMPOTENCY_KEY, ask.key), (LAST_EVENT_ID, ask.last_event_id)] {
        if let Some(value) = value {
            request = request.header(name, value);
        }
    }
    request.body(Body::from(ask.body.clone())).ok()
}

/// The gateway's end of one connection.
async fn serve(router: Router, request: Request<Body>, mut to_client: oneshot::Sender<Answer>) {
    let response: Result<Response<Body>, Infallible> = tokio::select! {
        biased;
        () = to_client.closed() => return,
        response = router.oneshot(request) => response,
    };
    let Ok(response) = response;
    let status = response.status().as_u16();
    let (head, mut body) = response.into_parts();
    let text = |name| head.headers.get(name).and_then(|value| value.to_str().ok());
    let location = text(header::LOCATION).map(ToOwned::to_owned);
    let streams = text(header::CONTENT_TYPE).is_some_and(|kind| kind.starts_with("text/event-stream"));
    if !streams {
        let Ok(whole) = body.collect().await else { return };
        let body = Received::Whole(whole.to_bytes());
        drop(to_client.send(Answer { status, location, body }));
        return;
    }
    let (pieces, received) = mpsc::channel(IN_FLIGHT);
    let body_of_answer = Received::Stream(received);
    if to_client
        .send(Answer {
            status,
            location,
            body: body_of_answer,
        })
        .is_err()
    {
        return;
    }
    loop {
        let frame = tokio::select! {
            biased;
            () = pieces.closed() => return,
            frame = body.frame() => frame,
        };
        let Some(Ok(frame)) = frame else { return };
        let Ok(piece) = frame.into_data() else { continue };
        if pieces.send(piece).await.is_err() {
            return;
        }
    }
}
