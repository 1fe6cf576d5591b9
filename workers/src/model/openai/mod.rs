//! Any server that speaks the OpenAI chat completions API.
//!
//! async-openai gives the types of the request. It is sent, and the answer read, here, because of what its client would
//! cost: it tries again by itself, logs the model's words when a chunk does not parse, hides whether a stream ended with
//! `[DONE]` or was cut, loses status and `Retry-After` of a refusal, and puts an unbounded channel in between.

mod answer;
mod assembly;
mod chunk;
mod fault;
mod provider;
mod request;
mod sse;

#[cfg(test)]
mod tests;

use std::{fmt, time::Duration};

use async_trait::async_trait;
use futures::StreamExt;
use reqwest::{
    Response,
    header::{CONTENT_TYPE, HeaderValue},
};
use steadfast::run::ModelReply;
use tokio::time::{Instant, timeout, timeout_at};

use super::{ErrorClass, Model, ModelError, ModelRequest, http};
use crate::clock;
use answer::{Kind, events, kind, read, whole};
use assembly::Assembly;
use provider::Provider;
pub use provider::{ApiKey, BadProvider, DEFAULT_BASE_URL, OpenAiOptions, Timeouts};

/// What is read of an error's body.
const ERROR_BYTES_MAX: usize = 64 * 1024;
const ERROR_BODY_WAIT: Duration = Duration::from_secs(5);
/// After `[DONE]` the connection is read to its end, so that it can be used again, if that comes at once.
const END_WAIT: Duration = Duration::from_millis(10);
const LIST_WAIT: Duration = Duration::from_secs(10);
const LIST_BYTES_MAX: usize = 4 * 1024 * 1024;
const IDLE_CONNECTIONS_MAX: usize = 256;

pub struct OpenAi {
    http: reqwest::Client,
    provider: Provider,
    timeouts: Timeouts,
}

impl OpenAi {
    pub fn new(options: OpenAiOptions) -> Result<Self, BadProvider> {
        let provider = Provider::new(&options)?;
        let timeouts = options.timeouts;
        let shape = |builder: reqwest::ClientBuilder| {
            builder
                .connect_timeout(timeouts.connect)
                .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
        };
        let http = http::client(shape).map_err(|e| BadProvider::NoClient(http::chain(&e)))?;
        Ok(Self {
            http,
            provider,
            timeouts,
        })
    }

    /// The names the provider lists, in its order; none where it keeps no list.
    pub async fn models(&self) -> Result<Vec<String>, ModelError> {
        let get = self
            .http
            .get(self.provider.models.clone())
            .headers(self.provider.headers.clone())
            .send();
        let late = |_| ModelError::new(ErrorClass::Timeout, "the provider did not list its models in time");
        let answer = timeout(LIST_WAIT, get)
            .await
            .map_err(late)?
            .map_err(|e| fault::of_connection(&e))?;
        match self.checked(answer).await {
            Ok(answer) => {
                let body = timeout(LIST_WAIT, read(answer, LIST_BYTES_MAX)).await.map_err(late)?;
                let list: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
                let entries = list
                    .get("data")
                    .and_then(|data| data.as_array())
                    .map_or(&[][..], Vec::as_slice);
                Ok(entries
                    .iter()
                    .filter_map(|entry| entry.get("id")?.as_str())
                    .map(Into::into)
                    .collect())
            }
            Err(error) if matches!(error.status, Some(404 | 405 | 501)) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Sends the request and waits for the head of the answer.
    async fn send(&self, request: &ModelRequest) -> Result<Response, ModelError> {
        let unsent =
            |e: &dyn fmt::Display| ModelError::new(ErrorClass::Rejected, format!("the request cannot be made: {e}"));
        let body = request::body(request, self.provider.new_token_limit).map_err(|e| unsent(&e))?;
        let key = HeaderValue::from_str(&request.idempotency_key).map_err(|e| unsent(&e))?;
        let post = self
            .http
            .post(self.provider.chat.clone())
            .headers(self.provider.headers.clone())
            .header(CONTENT_TYPE, "application/json")
            .header("idempotency-key", key)
            .body(body)
            .build();
        let post = post.map_err(|e| unsent(&http::chain(&e)))?;
        let sent = self.http.execute(post).await;
        self.checked(sent.map_err(|e| fault::of_connection(&e))?).await
    }

    /// The answer, if its status says that it is one.
    async fn checked(&self, answer: Response) -> Result<Response, ModelError> {
        if answer.status().is_success() {
            return Ok(answer);
        }
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let body = timeout(ERROR_BODY_WAIT, read(answer, ERROR_BYTES_MAX))
            .await
            .unwrap_or_default();
        Err(fault::of_status(status, &headers, &body, clock::now()))
    }

    async fn answer(
        &self,
        request: &ModelRequest,
        assembly: &mut Assembly,
        on_text: &mut (dyn for<'t> FnMut(&'t str) + Send),
    ) -> Result<Option<Duration>, ModelError> {
        let started = Instant::now();
        let ends = started + self.timeouts.total;
        let mut due = started + self.timeouts.first_token.min(self.timeouts.total);
        let mut first_token = None;
        let answer = timeout_at(due, self.send(request))
            .await
            .map_err(|_| self.late(false, due == ends))??;
        let mut events = match kind(&answer) {
            Kind::Stream => events(answer).boxed(),
            Kind::Whole => whole(answer).boxed(),
            Kind::Page => {
                let message = "the provider answered with a web page; check its base URL, which often ends in /v1 (OPENAI_BASE_URL)";
                return Err(ModelError::new(ErrorClass::Rejected, message));
            }
        };
        loop {
            let data = match timeout_at(due, events.next()).await {
                Ok(Some(Ok(data))) => data,
                // An answer that has said why it ends is whole, whatever becomes of the connection.
                Ok(None | Some(Err(_))) | Err(_) if assembly.is_finished() => return Ok(first_token),
                Ok(Some(Err(error))) => return Err(error),
                Ok(None) => {
                    let message = "the connection ended in the middle of the model's answer";
                    return Err(ModelError::new(ErrorClass::Connection, message));
                }
                Err(_) => return Err(self.late(first_token.is_some(), due == ends)),
            };
            if data.trim() == "[DONE]" {
                assembly.end();
                let _ = timeout(END_WAIT, events.next()).await;
                return Ok(first_token);
            }
            let taken = assembly.take(&data)?;
            if !taken.text.is_empty() {
                on_text(&taken.text);
            }
            if taken.is_output {
                first_token.get_or_insert_with(|| started.elapsed());
            }
            if first_token.is_some() {
                due = ends.min(Instant::now() + self.timeouts.between_tokens);
            }
        }
    }

    fn late(&self, begun: bool, total: bool) -> ModelError {
        let Timeouts {
            first_token,
            between_tokens,
            total: all,
            ..
        } = self.timeouts;
        let message = match (begun, total) {
            (_, true) => format!("the model did not finish within {all:?}"),
            (false, false) => format!("the model did not begin to answer within {first_token:?}"),
            (true, false) => format!("the model fell silent for {between_tokens:?} in the middle of its answer"),
        };
        ModelError::new(ErrorClass::Timeout, message)
    }
}

#[async_trait]
impl Model for OpenAi {
    async fn call(
        &self,
        request: &ModelRequest,
        on_text: &mut (dyn for<'t> FnMut(&'t str) + Send),
    ) -> Result<ModelReply, ModelError> {
        let started = Instant::now();
        let mut assembly = Assembly::default();
        let answered = self.answer(request, &mut assembly, on_text).await;
        let after_output = assembly.has_text();
        let whole = answered.and_then(|first_token| Ok((assembly.reply(request)?, first_token)));
        let (reply, first_token) = whole.map_err(|error| ModelError {
            message: self.provider.redact(&error.message),
            after_output,
            ..error
        })?;
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Ok(ModelReply {
            latency_ms: ms(started.elapsed()),
            first_token_ms: first_token.map(ms),
            ..reply
        })
    }

    fn name(&self) -> &str {
        "openai"
    }
}
