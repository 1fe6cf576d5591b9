//! The clients and people of a story, at a gateway that lives.

use std::time::Duration;

use axum::{
    Router,
    body::Body,
    http::{Request, header},
};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use steadfast::run::{BudgetLimit, RunId, Status, WaitingOn, state::Call};
use tower::ServiceExt;

use super::{play::House, story::Story};

const LOOK_EVERY: Duration = Duration::from_millis(10);

pub struct Client {
    gateway: Router,
}

impl Client {
    pub fn new(gateway: Router) -> Self {
        Self { gateway }
    }

    async fn post(&self, path: &str, body: &Value) -> Value {
        let request = Request::post(path)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(body.to_string()))
            .expect("a request");
        let Ok(response) = self.gateway.clone().oneshot(request).await;
        let status = response.status();
        let bytes = response.into_body().collect().await.expect("a body").to_bytes();
        let text = String::from_utf8_lossy(&bytes);
        assert!(status.is_success(), "POST {path}: {status} {text}");
        serde_json::from_str(&text).expect("JSON")
    }

    pub async fn post_all(&self, story: &Story) -> Vec<RunId> {
        let mut runs = Vec::new();
        let mut session = Value::Null;
        if story.one_session {
            session = self.post("/v1/sessions", &json!({})).await["id"].clone();
        }
        for task in &story.tasks {
            let mut body = task.clone();
            if !session.is_null() {
                body["session_id"] = session.clone();
            }
            let run = self.post("/v1/runs", &body).await;
            runs.push(run["id"].as_str().and_then(|id| id.parse().ok()).expect("an id"));
        }
        runs
    }

    /// Does what each run waits for, until all have ended.
    pub async fn answer_until_ended(&self, house: &House, story: &Story, runs: &[RunId]) {
        for run_id in runs {
            while !self.answer(house, story, *run_id).await {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
    }

    /// Whether the run has ended.
    async fn answer(&self, house: &House, story: &Story, run_id: RunId) -> bool {
        let run = house.load(run_id).await.run;
        if run.outcome.is_some() {
            return true;
        }
        let path = |what: &str| format!("/v1/runs/{run_id}/{what}");
        match run.waiting_on() {
            Some(WaitingOn::ToolOutputs { tool_calls }) => {
                // One post for each, so there is a moment between them.
                for call in tool_calls {
                    let output = json!({ "tool_call_id": call.id, "output": format!("found {}", call.id) });
                    self.post(&path("tool_outputs"), &json!({ "outputs": [output] })).await;
                }
            }
            Some(WaitingOn::Approval { approvals }) => {
                for approval in approvals {
                    let path = path(&format!("approvals/{}/resolve", approval.id));
                    self.post(&path, &story.decision).await;
                }
            }
            Some(WaitingOn::Budget { shortage }) if shortage.limit == BudgetLimit::Tokens => {
                self.post(&path("budget"), &json!({ "tokens": 1_000_000 })).await;
            }
            Some(WaitingOn::Budget { .. } | WaitingOn::Timer { .. }) => {}
            None => {
                let in_a_call = run.status() == Status::Running && matches!(run.call, Call::Open { .. });
                if story.cancels && in_a_call && run.step == 2 && run.cancel.is_none() {
                    self.post(&path("cancel"), &json!({})).await;
                }
            }
        }
        false
    }
}
