//! The routes of the model server.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Query, State as Shared},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Value, json};

use super::{
    known::Known,
    reply,
    request::Request,
    script::{Fault, Script},
    state::{CallRecord, SettingsPatch, State},
    wire::{self, Envelope},
};

#[derive(Clone)]
pub(crate) struct Server {
    state: Arc<Mutex<State>>,
    /// Ids stay unique over a restart of the server, because the clients' logs live on.
    birth: Arc<str>,
    next: Arc<AtomicU64>,
    known: Arc<Mutex<Known>>,
}

impl Server {
    pub fn new(state: State) -> Self {
        Self {
            state: Arc::new(Mutex::new(state)),
            birth: crate::unique().replace('_', "").into(),
            next: Arc::default(),
            known: Arc::default(),
        }
    }

    /// Counters are sound at any point, so a panic elsewhere does not spoil them.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn router(&self) -> Router {
        let api = Router::new()
            .route("/chat/completions", post(chat))
            .route("/models", get(models));
        Router::new()
            .nest("/v1", api)
            .route("/health", get(|| async { "ok" }))
            .route("/stats", get(stats))
            .route("/ledger", get(ledger))
            .route("/ctl", post(ctl))
            .fallback(|| async { wire::error(404, "no such route: see scripted-model --help", None) })
            .layer(DefaultBodyLimit::max(64 << 20))
            .with_state(self.clone())
    }
}

/// Counts a request as in flight for as long as it lives.
struct InFlight(Server);

impl InFlight {
    fn new(server: &Server) -> Self {
        let stats = &mut server.state().stats;
        stats.in_flight += 1;
        stats.max_in_flight = stats.max_in_flight.max(stats.in_flight);
        Self(server.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.state().stats.in_flight -= 1;
    }
}

async fn chat(Shared(server): Shared<Server>, body: Bytes) -> Response {
    let in_flight = InFlight::new(&server);
    let number = server.next.fetch_add(1, Ordering::Relaxed);
    let rest = server.known().rest(&body);
    let (unread, before) = match &rest {
        Some(rest) => (&*rest.body, Some(&*rest.so_far)),
        None => (&*body, None),
    };
    let read = Request::read(unread, before).and_then(|request| Ok((request.user_text()?, request)));
    let (text, request) = match read {
        Ok(read) => read,
        Err(e) => {
            record(&server, "", 0, None, "error_400");
            return wire::error(400, &format!("the body is not a chat completion request: {e}"), None);
        }
    };
    let step = request.steps_taken() + 1;
    let read = Script::parse(&text);
    let unlike = request.refusal();
    // Of a history that is none, nothing can be kept.
    if unlike.is_none() {
        server.known().keep(&body, &request);
    }
    let refusal = unlike.filter(|_| server.state().settings.strict);
    let (script, refusal) = match (read, refusal) {
        (Ok(script), None) => (script, None),
        (Ok(script), Some(why)) => (script, Some(why)),
        (Err(why), _) => (Script::default(), Some(why)),
    };
    if let Some(why) = refusal {
        record(&server, &text, step, Some(&request), "error_400");
        return wire::error(400, &why, None);
    }
    // An echo is of all of it.
    let request = match rest.as_ref().filter(|_| script.echo) {
        Some(_) => Request::read(&body, None).unwrap_or(request),
        None => request,
    };
    let (fault, settings) = {
        let mut state = server.state();
        (state.fault(&text, step, &script.faults), state.settings.clone())
    };
    let reply = reply::decide(&request, &script, &text, settings.tokens);
    let kind = fault.map_or(reply.kind(), |(fault, _)| fault.kind());
    record(&server, &text, step, Some(&request), kind);
    let fault = match fault {
        Some((Fault::Status(status), retry_after_s)) => {
            let retry_after_s = if matches!(status, 429 | 503) {
                retry_after_s
            } else {
                None
            };
            return wire::error(status, "the scripted model was told to fail", retry_after_s);
        }
        Some((Fault::Hang, _)) => return std::future::pending().await,
        other => other.map(|(fault, _)| fault),
    };
    let created = crate::since_epoch().as_secs();
    let envelope = Envelope {
        id: &format!("chatcmpl-{}x{number}", server.birth),
        model: Some(request.model())
            .filter(|model| !model.is_empty())
            .unwrap_or("scripted"),
        created,
        prompt_tokens: body.len() / 4,
        with_usage: request.wants_usage(),
    };
    let answer = if request.stream() { wire::streamed } else { wire::whole };
    answer(&envelope, &reply, fault, &settings, in_flight)
}

fn record(server: &Server, text: &str, step: usize, request: Option<&Request>, kind: &'static str) {
    let mut state = server.state();
    let call = CallRecord {
        at_ms: state.made.elapsed().as_millis() as u64,
        user_text: text.to_owned(),
        step,
        model: request.map(|r| r.model().to_owned()).unwrap_or_default(),
        messages: request.map_or(0, Request::message_count),
        kind,
    };
    state.record(call);
}

async fn models() -> Json<Value> {
    Json(
        json!({"object": "list", "data": [{"id": "scripted", "object": "model", "created": 0, "owned_by": "steadfast"}]}),
    )
}

async fn stats(Shared(server): Shared<Server>) -> Response {
    let state = server.state();
    let mut body = json!(state.stats);
    body["settings"] = json!(state.settings);
    Json(body).into_response()
}

async fn ledger(Shared(server): Shared<Server>) -> Response {
    Json(json!(server.state().ledger)).into_response()
}

async fn ctl(Shared(server): Shared<Server>, Query(patch): Query<SettingsPatch>) -> Response {
    {
        let mut state = server.state();
        state.settings = state.settings.patched(&patch);
        if patch.reset == Some(true) {
            state.reset();
        }
    }
    stats(Shared(server)).await
}
