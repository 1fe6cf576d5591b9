//! A client: posts its tasks (again, where no answer came), watches each to its end across any number of broken
//! connections, does the work of its own tools, and now and then changes its mind.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::http::Method;
use bytes::Bytes;
use serde_json::{Value, json};
use steadfast::run::RunId;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use crate::{
    guard::Guard,
    house::House,
    http::{Answer, Ask, Received},
    model::CLIENT,
    plan::{self, Task},
    transcript::{Frame, Parser, Transcript},
    world::Draws,
};

/// A stream without a sign of life for so long is left: keep-alives come more often.
const SILENCE_MAX: Duration = Duration::from_secs(40);
/// Whoever drops a connection comes back within this.
const AWAY_MS: u64 = 3_000;
const RETRY_MS: u64 = 1_200;
/// Enough for any run.
const BUDGET_RAISED_TO: u64 = 1_000_000;

pub type Transcripts = Arc<Mutex<Vec<Transcript>>>;

/// One task of a conversation, from its post to its end.
pub struct Client {
    pub house: Arc<House>,
    pub transcripts: Transcripts,
    pub at: usize,
    pub tenant: usize,
    pub task: Task,
    /// The path below which all keys of this task lie.
    pub name: String,
}

/// Creates a session, however often it takes; `None` if the answer is not one.
pub async fn create_session(house: &House, tenant: usize, name: &str) -> Result<String, String> {
    let key = format!("{name}/session");
    loop {
        let ask = Ask {
            tenant,
            method: Method::POST,
            path: "/v1/sessions".into(),
            body: String::new(),
            key: Some(&key),
            last_event_id: None,
        };
        match house.ask(&ask).await {
            Some(answer) if answer.status == 201 => {
                let id = answer.json()["id"].as_str().map(ToOwned::to_owned);
                return id.ok_or_else(|| "a session without an id".into());
            }
            Some(answer) if !may_be_tried_again(answer.status) => return Err(surprise("a session", &answer)),
            _ => pause(house).await,
        }
    }
}

fn may_be_tried_again(status: u16) -> bool {
    matches!(status, 429 | 503)
}

async fn pause(house: &House) {
    sleep(Duration::from_millis(50) + house.world.millis(Draws::Client, RETRY_MS)).await;
}

fn surprise(what: &str, answer: &Answer) -> String {
    format!("{what} was answered with {}: {}", answer.status, answer.json())
}

impl Client {
    pub async fn run(self: Arc<Self>, session: Option<String>) {
        let body = self.body(session.as_deref()).to_string();
        let twin = self.task.twice.then(|| {
            let (client, body) = (self.clone(), body.clone());
            tokio::spawn(async move { drop(client.post(&body).await) })
        });
        if let Some((run_id, stream)) = self.post(&body).await {
            if let Some(after) = self.task.cancel_after {
                let client = self.clone();
                tokio::spawn(async move {
                    sleep(after).await;
                    client
                        .insist(format!("/v1/runs/{run_id}/cancel"), "{}".into(), "cancel")
                        .await;
                });
            }
            self.watch(run_id, stream).await;
        }
        if let Some(twin) = twin {
            let _ = twin.await;
        }
        self.transcript().done = true;
    }

    fn body(&self, session: Option<&str>) -> Value {
        let mut body =
            json!({ "input": format!("{} {}", self.task.ask.word(), self.name), "stream": self.task.stream });
        if matches!(self.task.ask, plan::Ask::Client | plan::Ask::Everything) {
            body["tools"] =
                json!([{ "name": CLIENT, "description": "Where the user is.", "parameters": { "type": "object" } }]);
        }
        if let Some(session) = session {
            body["session_id"] = session.into();
        }
        if let Some(tokens) = self.task.budget_tokens {
            body["budget"] = json!({ "tokens": tokens });
        }
        if let Some(seconds) = self.task.run_seconds_max {
            body["limits"] = json!({ "run_seconds_max": seconds });
        }
        body
    }

    /// Until it is accepted.
    async fn post(&self, body: &str) -> Option<(RunId, Option<mpsc::Receiver<Bytes>>)> {
        loop {
            let ask = Ask {
                tenant: self.tenant,
                method: Method::POST,
                path: "/v1/runs".into(),
                body: body.into(),
                key: Some(&self.name),
                last_event_id: None,
            };
            let answer = self.house.ask(&ask).await;
            let Some(answer) = answer.filter(|answer| !may_be_tried_again(answer.status)) else {
                pause(&self.house).await;
                continue;
            };
            let run_id =
                (answer.location.as_deref()).and_then(|path| path.strip_prefix("/v1/runs/")?.parse::<RunId>().ok());
            let (Some(run_id), 200..300) = (run_id, answer.status) else {
                self.transcript().surprises.push(surprise("a task", &answer));
                return None;
            };
            self.transcript().run_ids.push(run_id);
            return Some(match answer.body {
                Received::Stream(stream) => (run_id, Some(stream)),
                Received::Whole(_) => (run_id, None),
            });
        }
    }

    /// Follows the run to its end.
    async fn watch(self: &Arc<Self>, run_id: RunId, mut stream: Option<mpsc::Receiver<Bytes>>) {
        while !self.transcript().is_over() {
            if let Some(stream) = stream.take() {
                self.read(run_id, stream).await;
                continue;
            }
            let cursor = self.cursor();
            let ask = Ask {
                tenant: self.tenant,
                method: Method::GET,
                path: format!("/v1/runs/{run_id}/events/stream"),
                body: String::new(),
                key: None,
                last_event_id: cursor.as_deref(),
            };
            self.transcript().reconnects += 1;
            match self.house.ask(&ask).await {
                Some(Answer {
                    status: 200,
                    body: Received::Stream(pieces),
                    ..
                }) => stream = Some(pieces),
                Some(answer) if !may_be_tried_again(answer.status) => {
                    let what = format!("the stream of {run_id} after {cursor:?}");
                    self.transcript().surprises.push(surprise(&what, &answer));
                    return;
                }
                _ => pause(&self.house).await,
            }
        }
    }

    fn cursor(&self) -> Option<String> {
        let transcript = self.transcript();
        let cursor = transcript.cursor()?;
        if self.house.world.is_broken(Guard::TailResume)
            && let Some((version, _)) = cursor.split_once('.')
        {
            let before = version.parse::<u64>().unwrap_or(1) - 1;
            return Some(before.to_string());
        }
        Some(cursor.into())
    }

    /// One connection, until it ends, breaks, or is left.
    async fn read(self: &Arc<Self>, run_id: RunId, mut pieces: mpsc::Receiver<Bytes>) {
        let world = &self.house.world;
        let mut parser = Parser::default();
        while let Ok(Some(piece)) = timeout(SILENCE_MAX, pieces.recv()).await {
            let breaks = world.chance(Draws::Client, world.noise().client_drops_permille);
            let arrived = if breaks {
                world.below(Draws::Client, piece.len() as u64 + 1) as usize
            } else {
                piece.len()
            };
            for frame in parser.feed(&piece[..arrived]) {
                if world.is_broken(Guard::StepReset) && frame.event == steadfast::wire::RESET {
                    continue;
                }
                world.note(format_args!("client {}: {} {}", self.name, frame.id, frame.event));
                self.respond(run_id, &frame);
                self.transcript().frames.push(frame);
            }
            if self.transcript().is_over() {
                return;
            }
            if breaks {
                world.fault("stream dropped");
                drop(pieces);
                sleep(world.millis(Draws::Client, AWAY_MS)).await;
                return;
            }
        }
        // Whatever ended it: a moment, and again.
        sleep(world.millis(Draws::Client, RETRY_MS)).await;
    }

    /// Does what the run waits for: the client's tools, a person's decision, more budget.
    fn respond(self: &Arc<Self>, run_id: RunId, frame: &Frame) {
        let data: Value = serde_json::from_str(&frame.data).unwrap_or_default();
        let data = &data["data"];
        let (path, body, what) = match frame.event.as_str() {
            "tool_call.requested" if data["executor"] == "client" => {
                let id = data["id"].as_str().unwrap_or_default();
                let outputs = json!({ "outputs": [{ "tool_call_id": id, "output": { "city": "Oslo" } }] });
                ("tool_outputs".to_owned(), outputs, id.to_owned())
            }
            "approval.requested" => {
                let id = data["approval_id"].as_str().unwrap_or_default();
                (format!("approvals/{id}/resolve"), self.decision(), id.to_owned())
            }
            "budget.exceeded" => (
                "budget".to_owned(),
                json!({ "tokens": BUDGET_RAISED_TO }),
                format!("budget-{}", frame.id),
            ),
            _ => return,
        };
        let client = self.clone();
        tokio::spawn(async move {
            sleep(client.house.world.millis(Draws::Client, 3_000)).await;
            let path = format!("/v1/runs/{run_id}/{path}");
            client.insist(path, body.to_string(), &what).await;
        });
    }

    fn decision(&self) -> Value {
        match self.house.world.below(Draws::Client, 3) {
            0 => json!({ "decision": "allow" }),
            1 => json!({ "decision": "deny", "reason": "it was sent" }),
            _ => json!({ "decision": "edit", "output": "sent, the receiver says" }),
        }
    }

    /// Posts until an answer says that it happened, or that it is too late.
    async fn insist(&self, path: String, body: String, what: &str) {
        let key = format!("{}/{what}", self.name);
        let started = Instant::now();
        loop {
            let ask = Ask {
                tenant: self.tenant,
                method: Method::POST,
                path: path.clone(),
                body: body.clone(),
                key: Some(&key),
                last_event_id: None,
            };
            match self.house.ask(&ask).await {
                Some(answer) if matches!(answer.status, 200 | 409) => return,
                Some(answer) if !may_be_tried_again(answer.status) => {
                    return self.transcript().surprises.push(surprise(&path, &answer));
                }
                _ if self.house.world.is_calm() && started.elapsed() > Duration::from_secs(600) => {
                    return self
                        .transcript()
                        .surprises
                        .push(format!("{path} was not answered for ten minutes"));
                }
                _ => pause(&self.house).await,
            }
        }
    }

    fn transcript(&self) -> TranscriptGuard<'_> {
        TranscriptGuard {
            all: self.transcripts.lock().unwrap_or_else(PoisonError::into_inner),
            at: self.at,
        }
    }
}

struct TranscriptGuard<'a> {
    all: MutexGuard<'a, Vec<Transcript>>,
    at: usize,
}

impl std::ops::Deref for TranscriptGuard<'_> {
    type Target = Transcript;

    fn deref(&self) -> &Transcript {
        &self.all[self.at]
    }
}

impl std::ops::DerefMut for TranscriptGuard<'_> {
    fn deref_mut(&mut self) -> &mut Transcript {
        &mut self.all[self.at]
    }
}
