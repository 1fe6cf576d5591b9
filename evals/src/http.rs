//! Requests that end: bounded in time and size, tried again where that can help.
//!
//! Tried again: no connection, 429, 502, 503, 504. The pauses are 0.25, 0.5 and 1 s, or what `Retry-After` asks up to
//! ten seconds; nothing is tried after the caller's deadline.

use std::time::Duration;

use reqwest::{
    Method, RequestBuilder, StatusCode, Url,
    header::{HeaderMap, RETRY_AFTER},
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::Instant;

use crate::{EvalError, secret::Secret, text::one_line};

const ATTEMPTS_MAX: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A list of a thousand events with large outputs fits; an endless body does not.
const ANSWER_BYTES_MAX: usize = 32 * 1024 * 1024;

/// One server: its address, and the key it wants.
#[derive(Clone)]
pub struct Http {
    client: reqwest::Client,
    base: String,
    key: Option<Secret>,
}

/// What came back, whatever its status.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    body: Vec<u8>,
}

#[expect(clippy::disallowed_methods, reason = "the edge: this room's one client")]
pub fn client() -> Result<reqwest::Client, EvalError> {
    // A process has one TLS provider: whoever came first wins, and that is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        // A redirect would carry the key to a place nobody named.
        .redirect(reqwest::redirect::Policy::none())
        .tcp_nodelay(true)
        .build()
        .map_err(|error| EvalError::HttpClient(reason(&error)))
}

impl Http {
    /// The reason of a refusal never repeats the address: it may hold a password.
    pub fn new(client: reqwest::Client, base: &str, key: Option<Secret>) -> Result<Self, String> {
        let url = Url::parse(base).map_err(|error| format!("this is not an address: {error}"))?;
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return Err(format!("an address of the scheme {:?} cannot be asked", url.scheme()));
        }
        Ok(Self {
            client,
            base: base.trim_end_matches('/').into(),
            key,
        })
    }

    pub fn get(&self, path: &str) -> RequestBuilder {
        self.request(Method::GET, path)
    }

    pub fn post(&self, path: &str, body: &Value) -> RequestBuilder {
        self.request(Method::POST, path).json(body)
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.base));
        match &self.key {
            Some(key) => request.bearer_auth(key.expose()),
            None => request,
        }
    }
}

/// Sends a request, again where that can help. `what` names it in the reason of a failure.
pub async fn send(request: RequestBuilder, what: &str, deadline: Instant) -> Result<Answer, String> {
    let (mut attempt, mut pause) = (1, FIRST_PAUSE);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(format!("{what}: no time left"));
        }
        let Some(this) = request.try_clone() else {
            return Err(format!("{what}: the request cannot be sent again"));
        };
        let (failure, asked) = match once(this.timeout(left)).await {
            Ok((answer, headers)) if is_passing(answer.status) => (answer.refusal(what), retry_after(&headers)),
            Ok((answer, _)) => return Ok(answer),
            Err(reason) => (format!("{what}: {reason}"), None),
        };
        let wait = asked.unwrap_or(pause).min(RETRY_AFTER_MAX);
        if attempt >= ATTEMPTS_MAX || Instant::now() + wait >= deadline {
            return Err(failure);
        }
        tokio::time::sleep(wait).await;
        (attempt, pause) = (attempt + 1, pause * 2);
    }
}

async fn once(request: RequestBuilder) -> Result<(Answer, HeaderMap), String> {
    let mut response = request.send().await.map_err(|error| reason(&error))?;
    let (status, headers) = (response.status(), response.headers().clone());
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| reason(&error))? {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err(format!("the answer is larger than {ANSWER_BYTES_MAX} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok((Answer { status, body }, headers))
}

impl Answer {
    /// The body, if the status is a success and the body reads as what it should be.
    pub fn read<T: DeserializeOwned>(&self, what: &str) -> Result<T, String> {
        if !self.status.is_success() {
            return Err(self.refusal(what));
        }
        serde_json::from_slice(&self.body).map_err(|error| {
            format!(
                "{what} answered {} with something else than expected: {error}",
                self.status.as_u16()
            )
        })
    }

    /// A refusal in one line: what the server itself says about it, where it says something.
    pub fn refusal(&self, what: &str) -> String {
        let said = serde_json::from_slice::<Value>(&self.body).ok().and_then(|problem| {
            let detail = problem
                .get("detail")
                .or_else(|| problem.get("title"))
                .or_else(|| problem.get("message"));
            let detail = detail.or_else(|| problem.pointer("/error/message"));
            detail.and_then(Value::as_str).map(one_line)
        });
        let said = said.unwrap_or_else(|| one_line(&String::from_utf8_lossy(&self.body)));
        format!("{what} answered {}: {said}", self.status.as_u16())
    }
}

fn is_passing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 502 | 503 | 504)
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers
        .get(RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()
        .map(Duration::from_secs)
}

/// The chain of causes without the address.
pub fn reason(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".into();
    }
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    let kind = if error.is_connect() {
        "cannot connect"
    } else {
        "the exchange broke off"
    };
    // reqwest's own text holds the address, its causes do not.
    if std::ptr::addr_eq(innermost, error) {
        kind.into()
    } else {
        format!("{kind}: {}", one_line(&innermost.to_string()))
    }
}
