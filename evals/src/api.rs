//! Steadfast as any client sees it.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use steadfast::run::{Event, Status, Usage, event::RunError};
use tokio::time::Instant;

use crate::{
    EvalError,
    dataset::Input,
    http::{Http, send},
    score::trajectory::CalledTool,
    secret::Secret,
};

/// What one long poll may take; the gateway's own limit is 60.
const WAIT_SECONDS_MAX: u64 = 30;
/// Between two polls where the server answers before the run has ended, so that a hasty one is not run hot.
const POLL_PAUSE: Duration = Duration::from_millis(100);
/// How long a gateway may be away (restarted, say) before a wait gives up.
const OUTAGE_MAX: Duration = Duration::from_secs(30);
const EVENTS_PER_PAGE: usize = 1000;
/// A run with more pages than this is a runaway; its limits end it long before.
const EVENT_PAGES_MAX: usize = 100;
const HEALTH_PATIENCE: Duration = Duration::from_secs(10);
const CANCEL_PATIENCE: Duration = Duration::from_secs(5);
const TOOL_CALL_REQUESTED: &str = "tool_call.requested";

#[derive(Clone)]
pub struct Api {
    http: Http,
}

/// A run as `GET /v1/runs/{id}` shows it; of what else is there nothing is needed.
#[derive(Debug, Deserialize)]
pub struct RunView {
    pub id: String,
    pub status: Status,
    pub session_id: String,
    pub output: Option<String>,
    pub usage: Option<Usage>,
    pub error: Option<RunError>,
}

#[derive(Deserialize)]
struct EventPage {
    data: Vec<EventView>,
    has_more: bool,
    /// Up to where the run was read; with few events of the wanted type this is past the last one given.
    last_id: Option<String>,
}

#[derive(Deserialize)]
struct EventView {
    #[serde(rename = "type")]
    name: String,
    version: u64,
    schema: u16,
    data: Box<RawValue>,
}

impl Api {
    pub fn new(client: reqwest::Client, url: &str, key: Option<Secret>) -> Result<Self, EvalError> {
        Ok(Self {
            http: Http::new(client, url, key).map_err(EvalError::BadUrl)?,
        })
    }

    /// Does anything answer? Asked once, so that a wrong address is one error and not one for each item.
    pub async fn reach(&self) -> Result<(), String> {
        send(
            self.http.get("/healthz"),
            "GET /healthz",
            Instant::now() + HEALTH_PATIENCE,
        )
        .await
        .map(drop)
    }

    /// Posts a task. The key makes it safe to send it again when the answer was lost.
    pub async fn create(
        &self,
        agent: &str,
        input: &Input,
        session_id: Option<&str>,
        metadata: Value,
        idempotency_key: &str,
        deadline: Instant,
    ) -> Result<RunView, String> {
        let mut body = json!({"agent": agent, "input": input, "metadata": metadata});
        if let Some(session_id) = session_id {
            body["session_id"] = session_id.into();
        }
        let request = self
            .http
            .post("/v1/runs", &body)
            .header("idempotency-key", idempotency_key);
        let run: RunView = send(request, "POST /v1/runs", deadline).await?.read("POST /v1/runs")?;
        // It goes into paths from here on.
        let is_id = !run.id.is_empty() && run.id.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
        if is_id {
            Ok(run)
        } else {
            Err("POST /v1/runs answered with a run id that is none".into())
        }
    }

    /// The run once it has ended; `None` when it has not by the deadline.
    pub async fn wait(&self, run_id: &str, deadline: Instant) -> Result<Option<RunView>, String> {
        let mut away_since: Option<Instant> = None;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let poll_seconds = left.as_secs().clamp(1, WAIT_SECONDS_MAX);
            let request = self
                .http
                .get(&format!("/v1/runs/{run_id}/wait?timeout_s={poll_seconds}"));
            let run: RunView = match send(request, "GET /v1/runs/{id}/wait", deadline).await {
                Ok(answer) => answer.read("GET /v1/runs/{id}/wait")?,
                Err(_) if Instant::now() >= deadline => return Ok(None),
                // The run goes on while the gateway is away.
                Err(_) if away_since.get_or_insert_with(Instant::now).elapsed() < OUTAGE_MAX => continue,
                Err(reason) => return Err(reason),
            };
            away_since = None;
            if run.status.is_terminal() {
                return Ok(Some(run));
            }
            tokio::time::sleep(POLL_PAUSE.min(deadline.saturating_duration_since(Instant::now()))).await;
        }
    }

    /// The tool calls the model asked for, in order.
    pub async fn tool_calls(&self, run_id: &str, deadline: Instant) -> Result<Vec<CalledTool>, String> {
        const WHAT: &str = "GET /v1/runs/{id}/events";
        let mut calls = Vec::new();
        let mut after = 0;
        for _ in 0..EVENT_PAGES_MAX {
            let path =
                format!("/v1/runs/{run_id}/events?types={TOOL_CALL_REQUESTED}&limit={EVENTS_PER_PAGE}&after={after}");
            let page: EventPage = send(self.http.get(&path), WHAT, deadline).await?.read(WHAT)?;
            for event in page.data.iter().filter(|event| event.name == TOOL_CALL_REQUESTED) {
                match Event::from_stored(&event.name, event.schema, event.data.get()) {
                    Ok(Event::ToolCallRequested(e)) => calls.push(CalledTool::new(e.call.name, &e.call.arguments)),
                    Ok(_) => {}
                    Err(error) => return Err(format!("{WHAT}: event {}: {error}", event.version)),
                }
            }
            let read_to = (page.last_id.as_deref().and_then(|id| id.parse().ok()))
                .or_else(|| page.data.last().map(|last| last.version));
            match read_to.filter(|_| page.has_more) {
                None => return Ok(calls),
                Some(version) if version > after => after = version,
                Some(version) => return Err(format!("{WHAT}: the page after {after} ends at {version} and has more")),
            }
        }
        Err(format!("{WHAT}: there are more than {EVENT_PAGES_MAX} pages"))
    }

    /// Asks for a run to stop that nobody waits for any more. Best effort: the run has limits of its own.
    pub async fn cancel(&self, run_id: &str) {
        let request = self.http.post(
            &format!("/v1/runs/{run_id}/cancel"),
            &json!({"reason": "the evaluation timed out"}),
        );
        let _ = send(request, "POST /v1/runs/{id}/cancel", Instant::now() + CANCEL_PATIENCE).await;
    }
}
