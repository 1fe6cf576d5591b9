//! A Steadfast and a judge for tests: they speak the API over a real socket and misbehave on request.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Value, json};

/// What the agent does with a task.
#[derive(Clone)]
pub enum Act {
    /// Answers, after calling these tools (name, arguments as JSON text).
    Answer(&'static str, Vec<(&'static str, &'static str)>),
    /// The run fails.
    Fail,
    /// The run never ends.
    Hang,
    /// `POST /v1/runs` answers this.
    Refuse(u16, &'static str),
    /// The first post is answered 503, the next with this.
    Busy(Box<Act>),
    /// The wait answers something that is no run.
    Garbage,
    /// The events do not read.
    BadEvents,
}

#[derive(Default)]
pub struct Log {
    /// Bodies and idempotency keys of `POST /v1/runs`, in order.
    pub posts: Vec<(Value, String)>,
    pub cancelled: Vec<String>,
    /// Values of the authorization header, as seen by any endpoint.
    pub authorization: Vec<String>,
    /// Bodies of `POST /chat/completions`.
    pub judged: Vec<Value>,
    runs: Vec<Act>,
    sessions: usize,
}

#[derive(Clone)]
pub struct Fake {
    pub url: String,
    log: Arc<Mutex<Log>>,
    acts: Arc<HashMap<&'static str, Act>>,
    /// What the judge says, in turn; the last one for ever.
    verdicts: Arc<Vec<(u16, String)>>,
}

impl Fake {
    pub async fn start(acts: impl IntoIterator<Item = (&'static str, Act)>, verdicts: &[(u16, &str)]) -> Self {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0))
            .await
            .expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let verdicts = verdicts
            .iter()
            .map(|(status, text)| (*status, (*text).to_owned()))
            .collect();
        let acts = Arc::new(acts.into_iter().collect());
        let fake = Self {
            url,
            log: Default::default(),
            acts,
            verdicts: Arc::new(verdicts),
        };
        let router = Router::new()
            .route("/healthz", get(|| async { "ok" }))
            .route("/v1/runs", post(create))
            .route("/v1/runs/{id}/wait", get(wait))
            .route("/v1/runs/{id}/events", get(events))
            .route("/v1/runs/{id}/cancel", post(cancel))
            .route("/judge/chat/completions", post(judge))
            .with_state(fake.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        fake
    }

    pub fn log(&self) -> std::sync::MutexGuard<'_, Log> {
        self.log.lock().expect("no test panics while it looks")
    }

    fn act_of(&self, id: &str) -> Option<Act> {
        let at: usize = id.strip_prefix("run_")?.parse().ok()?;
        self.log().runs.get(at).cloned()
    }
}

fn problem(status: u16, detail: &str) -> Response {
    let status = StatusCode::from_u16(status).expect("a status");
    (
        status,
        [("retry-after", "0")],
        Json(json!({"title": "refused", "detail": detail})),
    )
        .into_response()
}

async fn create(State(fake): State<Fake>, headers: HeaderMap, Json(body): Json<Value>) -> Response {
    let text = match &body["input"] {
        Value::String(text) => text.clone(),
        messages => messages
            .as_array()
            .and_then(|m| m.last())
            .map_or_else(String::new, |m| m["content"].to_string()),
    };
    let header = |name: &str| {
        headers
            .get(name)
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default()
            .to_owned()
    };
    let mut log = fake.log();
    log.posts.push((body.clone(), header("idempotency-key")));
    log.authorization.push(header("authorization"));
    let again = log
        .posts
        .iter()
        .filter(|(_, key)| *key == header("idempotency-key"))
        .count()
        > 1;
    let act = match fake.acts.get(text.as_str()).cloned() {
        Some(Act::Refuse(status, detail)) => return problem(status, detail),
        Some(Act::Busy(_)) if !again => return problem(503, "no database"),
        Some(Act::Busy(act)) => *act,
        Some(act) => act,
        None => return problem(404, "no such agent"),
    };
    let session_id = body["session_id"].as_str().map(str::to_owned).unwrap_or_else(|| {
        log.sessions += 1;
        format!("ses_{}", log.sessions)
    });
    let id = format!("run_{}", log.runs.len());
    log.runs.push(act);
    let run = json!({"id": id, "object": "run", "status": "queued", "session_id": session_id});
    (StatusCode::ACCEPTED, Json(run)).into_response()
}

async fn wait(State(fake): State<Fake>, Path(id): Path<String>) -> Response {
    let mut run = json!({"id": id, "object": "run", "status": "completed", "session_id": "ses_1", "output": "?",
        "usage": {"input_tokens": 10, "output_tokens": 5, "cost_microusd": 7}, "error": null});
    match fake.act_of(&id) {
        Some(Act::Answer(output, _)) => run["output"] = output.into(),
        Some(Act::Fail) => {
            run["status"] = "failed".into();
            run["error"] = json!({"code": "model_rejected", "message": "no credit"});
        }
        Some(Act::Hang) => run["status"] = "running".into(),
        Some(Act::Garbage) => return "<html>".into_response(),
        Some(_) => {}
        None => return problem(404, "no such run"),
    }
    Json(run).into_response()
}

/// Two events a page, whatever is asked for; the first page is empty, as it is when the wanted events come late.
async fn events(
    State(fake): State<Fake>,
    Path(id): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    const PAGE: usize = 2;
    let after: u64 = query.get("after").and_then(|after| after.parse().ok()).unwrap_or(0);
    let calls = match fake.act_of(&id) {
        Some(Act::Answer(_, calls)) => calls,
        Some(Act::BadEvents) => {
            let event = json!({"type": "tool_call.requested", "version": 3, "schema": 1, "data": {"step": "one"}});
            return Json(json!({"object": "list", "data": [event], "has_more": false})).into_response();
        }
        _ => Vec::new(),
    };
    let all: Vec<Value> = (calls.iter().enumerate())
        .map(|(at, (name, arguments))| {
            json!({"type": "tool_call.requested", "run_id": id, "version": at + 5, "schema": 1,
                "data": {"step": 1, "id": format!("call_{at}"), "name": name, "arguments": arguments, "executor": "server"}})
        })
        .filter(|event| event["version"].as_u64() > Some(after))
        .collect();
    if after == 0 {
        return Json(json!({"object": "list", "data": [], "last_id": "4", "has_more": true})).into_response();
    }
    let data = &all[..all.len().min(PAGE)];
    let last_id = data.last().map(|event| event["version"].to_string());
    Json(json!({"object": "list", "data": data, "last_id": last_id, "has_more": all.len() > PAGE})).into_response()
}

async fn cancel(State(fake): State<Fake>, Path(id): Path<String>) -> Response {
    fake.log().cancelled.push(id);
    Json(json!({})).into_response()
}

async fn judge(State(fake): State<Fake>, headers: HeaderMap, Json(body): Json<Value>) -> Response {
    let authorization = headers
        .get("authorization")
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default()
        .to_owned();
    let mut log = fake.log();
    log.authorization.push(authorization);
    let at = log.judged.len().min(fake.verdicts.len().saturating_sub(1));
    log.judged.push(body);
    match fake.verdicts.get(at) {
        Some((200, text)) => {
            Json(json!({"choices": [{"message": {"role": "assistant", "content": text}}]})).into_response()
        }
        Some((status, text)) => problem(*status, text),
        None => problem(500, "no verdict"),
    }
}
