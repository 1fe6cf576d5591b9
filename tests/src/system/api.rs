//! A client of the HTTP API that asserts nothing by itself, and shorthands that do.

use std::time::Duration;

use crate::{SseClient, sse::SseError};
use reqwest::{Method, RequestBuilder, header::HeaderMap};
use serde_json::{Value, json};

use super::transcript::{Frame, Transcript};

/// A run of a test ends within this.
const RUN_MAX: Duration = Duration::from_secs(60);
const TERMINAL: [&str; 3] = ["completed", "failed", "cancelled"];

/// One gateway, as one caller sees it.
#[derive(Clone)]
pub struct Api {
    http: reqwest::Client,
    base: String,
    bearer: Option<String>,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error} in: {}", self.text))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The body, if the status is this one.
    #[track_caller]
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "the answer was: {}", self.text);
        self.json()
    }

    /// The problem document, if it is one with this status and all that a client needs.
    #[track_caller]
    pub fn problem(&self, status: u16) -> Value {
        let problem = self.expect(status);
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json"),
            "{problem}"
        );
        assert_eq!(problem["status"], status, "{problem}");
        for field in ["type", "title", "detail", "code", "request_id"] {
            assert!(
                problem[field].as_str().is_some_and(|text| !text.is_empty()),
                "no {field}: {problem}"
            );
        }
        assert!(problem["retryable"].is_boolean(), "{problem}");
        assert_eq!(self.header("x-request-id"), problem["request_id"].as_str());
        problem
    }
}

impl Api {
    pub fn new(base: &str) -> Self {
        Self {
            http: crate::http(),
            base: base.into(),
            bearer: None,
        }
    }

    pub fn as_bearer(&self, token: impl Into<String>) -> Self {
        Self {
            bearer: Some(token.into()),
            ..self.clone()
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, self.url(path));
        match &self.bearer {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    pub async fn send(request: RequestBuilder) -> Result<Answer, reqwest::Error> {
        let answer = request.timeout(RUN_MAX).send().await?;
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        Ok(Answer {
            status,
            headers,
            text: answer.text().await?,
        })
    }

    pub async fn get(&self, path: &str) -> Answer {
        let answer = Self::send(self.request(Method::GET, path)).await;
        answer.unwrap_or_else(|error| panic!("GET {path}: {error:?}"))
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        let answer = Self::send(self.request(Method::POST, path).json(body)).await;
        answer.unwrap_or_else(|error| panic!("POST {path}: {error:?}"))
    }

    pub async fn post_with_key(&self, path: &str, key: &str, body: &Value) -> Answer {
        let request = self
            .request(Method::POST, path)
            .header("idempotency-key", key)
            .json(body);
        Self::send(request)
            .await
            .unwrap_or_else(|error| panic!("POST {path}: {error:?}"))
    }

    /// Posts a task and answers the run's id.
    pub async fn task(&self, body: Value) -> String {
        let run = self.post("/v1/runs", &body).await.expect(202);
        run["id"].as_str().expect("an id").into()
    }

    /// Posts a task and answers its stream.
    pub async fn stream(&self, mut body: Value) -> SseClient {
        body["stream"] = true.into();
        let stream = SseClient::open(self.request(Method::POST, "/v1/runs").json(&body), &[]).await;
        stream.unwrap_or_else(|error| panic!("no stream for {body}: {error}"))
    }

    /// Streams a run: from its start, or after a cursor.
    pub async fn follow(&self, run: &str, after: Option<&str>) -> Result<SseClient, SseError> {
        let query = after.map(|after| format!("?after={after}")).unwrap_or_default();
        SseClient::open(
            self.request(Method::GET, &format!("/v1/runs/{run}/events/stream{query}")),
            &[],
        )
        .await
    }

    /// The whole stream of a run that has ended.
    pub async fn replay(&self, run: &str) -> Transcript {
        let stream = self
            .follow(run, None)
            .await
            .unwrap_or_else(|error| panic!("{run} does not replay: {error}"));
        read(stream).await
    }

    pub async fn run(&self, run: &str) -> Value {
        self.get(&format!("/v1/runs/{run}")).await.expect(200)
    }

    /// The run once it has ended.
    pub async fn ended(&self, run: &str) -> Value {
        let give_up = tokio::time::Instant::now() + RUN_MAX;
        loop {
            let now = self.get(&format!("/v1/runs/{run}/wait?timeout_s=20")).await.expect(200);
            if TERMINAL.contains(&now["status"].as_str().unwrap_or_default()) {
                return now;
            }
            assert!(
                tokio::time::Instant::now() < give_up,
                "the run has not ended within {RUN_MAX:?}: {now}"
            );
        }
    }

    /// Reads the stream of a run until a frame is the one looked for.
    pub async fn until(&self, run: &str, wanted: impl Fn(&Frame) -> bool) -> Frame {
        let mut stream = self.follow(run, None).await.expect("a stream");
        let search = async {
            while let Some(frame) = stream.next().await {
                let frame = Frame::read(frame.expect("a frame")).expect("a frame of ours");
                if wanted(&frame) {
                    return frame;
                }
            }
            panic!("{run} ended without the frame looked for");
        };
        tokio::time::timeout(RUN_MAX, search)
            .await
            .expect("the frame looked for does not come")
    }

    /// The ids of the client tool calls a run waits for, once it waits.
    pub async fn waits_for(&self, run: &str, calls: usize) -> Vec<String> {
        let (asked, at_work) = (std::cell::Cell::new(0_usize), std::cell::Cell::new(0_isize));
        self.until(run, |frame| {
            match (frame.name.as_str(), frame.data()["executor"].as_str()) {
                ("tool_call.requested", Some("client")) => asked.set(asked.get() + 1),
                ("tool_call.requested", _) => at_work.set(at_work.get() + 1),
                ("tool_call.succeeded" | "tool_call.failed", _) => at_work.set(at_work.get() - 1),
                _ => {}
            }
            asked.get() == calls && at_work.get() == 0
        })
        .await;
        let run = self.run(run).await;
        assert_eq!(
            (&run["status"], &run["waiting_on"]["type"]),
            (&json!("waiting"), &json!("tool_outputs")),
            "{run}"
        );
        let calls = run["waiting_on"]["tool_calls"].as_array().expect("a list of calls");
        calls
            .iter()
            .map(|call| call["id"].as_str().expect("an id").into())
            .collect()
    }

    /// All events as JSON texts, page by page.
    pub async fn events(&self, run: &str) -> Vec<String> {
        #[derive(serde::Deserialize)]
        struct Page {
            data: Vec<Box<serde_json::value::RawValue>>,
            has_more: bool,
        }
        let mut events: Vec<String> = vec![];
        loop {
            let path = format!("/v1/runs/{run}/events?after={}&limit=7", events.len());
            let answer = self.get(&path).await;
            assert_eq!(answer.status, 200, "{}", answer.text);
            let page: Page = serde_json::from_str(&answer.text).expect("a page of events");
            assert!(page.data.len() <= 7, "the limit was not kept");
            events.extend(page.data.iter().map(|event| event.get().to_owned()));
            if !page.has_more {
                return events;
            }
        }
    }

    /// The ids of all runs, newest first, as the list of runs has them.
    pub async fn listed_runs(&self) -> Vec<String> {
        let mut ids: Vec<String> = vec![];
        loop {
            let after = ids.last().map(|id| format!("&after={id}")).unwrap_or_default();
            let page = self.get(&format!("/v1/runs?limit=100{after}")).await.expect(200);
            let data = page["data"].as_array().expect("a list");
            ids.extend(data.iter().map(|run| run["id"].as_str().expect("an id").to_owned()));
            if page["has_more"] != true {
                return ids;
            }
        }
    }
}

/// Reads a stream to its orderly end.
pub async fn read(stream: SseClient) -> Transcript {
    let frames = tokio::time::timeout(RUN_MAX, stream.collect())
        .await
        .expect("the stream does not end");
    let mut transcript = Transcript::default();
    for frame in frames.expect("a sound stream") {
        transcript.push(Frame::read(frame).expect("a frame of ours"));
    }
    transcript
}
