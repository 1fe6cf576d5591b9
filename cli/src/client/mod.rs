//! A client of a running Steadfast: the HTTP API, as anybody else would use it.

pub mod follow;

use std::time::Duration;

use reqwest::{Method, RequestBuilder, Response, StatusCode, Url, header::RETRY_AFTER};
use serde_json::Value;

use crate::{
    config::ClientSettings,
    error::{Context, Failure, chain},
    output::clean,
    secret::{Secret, shown_url},
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Heartbeats come every 15 s: a stream that is silent for longer is broken.
const SILENCE_MAX: Duration = Duration::from_secs(45);
/// Bytes of an answer that is not a stream.
const ANSWER_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Bytes of an error's body that are read.
const PROBLEM_BYTES_MAX: usize = 64 * 1024;

pub struct Client {
    http: reqwest::Client,
    base: String,
    key: Option<Secret>,
}

/// An answer that is not a success.
#[derive(Debug)]
pub struct Refusal {
    pub status: StatusCode,
    pub retry_after: Option<Duration>,
    /// What the server says about it, in one text.
    pub said: String,
}

impl Client {
    pub fn new(settings: ClientSettings) -> Result<Self, Failure> {
        let shown = shown_url(&settings.url);
        let url = Url::parse(&settings.url).context(format!("--url or STEADFAST_URL, {shown:?}"))?;
        let Some(host) = url.host_str().filter(|_| matches!(url.scheme(), "http" | "https")) else {
            let message = format!("--url or STEADFAST_URL is {shown:?}; give an address such as http://127.0.0.1:8080");
            return Err(Failure::new(message));
        };
        let http = http_client(is_loopback(host), |builder| builder.read_timeout(SILENCE_MAX))?;
        Ok(Self {
            http,
            base: settings.url,
            key: settings.api_key,
        })
    }

    pub fn base(&self) -> String {
        shown_url(&self.base).trim_end_matches('/').to_owned()
    }

    pub async fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Value, Failure> {
        self.answer(self.request(Method::GET, path).query(query)).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.answer(self.request(Method::POST, path).json(body)).await
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.key {
            Some(key) => request.bearer_auth(key.expose()),
            None => request,
        }
    }

    async fn answer(&self, request: RequestBuilder) -> Result<Value, Failure> {
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        if !response.status().is_success() {
            return Err(Failure::new(refusal(response).await.said));
        }
        let body = read(response, ANSWER_BYTES_MAX)
            .await
            .map_err(|error| self.unreachable(&error))?;
        serde_json::from_slice(&body).context(format!("{} answered with something else than JSON", self.base()))
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        let remedy = "start one with `steadfast dev`, or name another with --url or STEADFAST_URL";
        Failure::new(format!(
            "no Steadfast answers at {}: {}; {remedy}",
            self.base(),
            reason(error)
        ))
    }
}

/// An HTTP client of this process. A proxy of the environment is for the world outside, never for this machine.
#[expect(clippy::disallowed_methods, reason = "the edge: this room's one client")]
pub fn http_client(
    loopback: bool,
    shape: impl Fn(reqwest::ClientBuilder) -> reqwest::ClientBuilder,
) -> Result<reqwest::Client, Failure> {
    let builder = || {
        let plain = reqwest::Client::builder()
            .tcp_nodelay(true)
            .connect_timeout(CONNECT_TIMEOUT);
        // A redirect would carry the key to a place nobody named.
        let plain = plain.redirect(reqwest::redirect::Policy::none());
        shape(if loopback { plain.no_proxy() } else { plain })
    };
    // On a machine without CA certificates there is still plain http.
    builder()
        .build()
        .or_else(|_| builder().tls_certs_only([]).build())
        .context("making an HTTP client")
}

pub fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// The innermost cause: the outer ones repeat the address.
pub fn reason(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".into();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    chain(cause)
}

pub async fn refusal(response: Response) -> Refusal {
    let status = response.status();
    let seconds = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.parse().ok());
    let body = read(response, PROBLEM_BYTES_MAX).await.unwrap_or_default();
    Refusal {
        status,
        retry_after: seconds.map(Duration::from_secs),
        said: said(status, &body),
    }
}

/// A problem document as text: the detail, each field that is wrong, and what to quote to the operator.
fn said(status: StatusCode, body: &[u8]) -> String {
    let problem: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |value: &Value, key: &str| value[key].as_str().map(clean);
    let Some(detail) = text(&problem, "detail").or_else(|| text(&problem, "title")) else {
        return format!("the server answered {status}");
    };
    let mut said = format!("{detail} ({})", status.as_u16());
    for error in problem["errors"].as_array().into_iter().flatten() {
        if let (Some(pointer), Some(detail)) = (text(error, "pointer"), text(error, "detail")) {
            said += &format!("\n  {pointer}: {detail}");
        }
    }
    if status == StatusCode::UNAUTHORIZED {
        said += "\n  give a key with --api-key or STEADFAST_API_KEY; `steadfast keys create` makes one";
    }
    if status.is_server_error()
        && let Some(id) = text(&problem, "request_id")
    {
        said += &format!("\n  request {id}");
    }
    said
}

async fn read(mut response: Response, bytes_max: usize) -> Result<Vec<u8>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        let room = bytes_max - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if body.len() == bytes_max {
            break;
        }
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_told_with_its_fields_and_nothing_that_steers_a_terminal() {
        let body = br#"{"detail":"no such\u001b agent","errors":[{"pointer":"/agent","detail":"did you mean x?"}],"request_id":"r1"}"#;
        let told = said(StatusCode::UNPROCESSABLE_ENTITY, body);
        assert_eq!(told, "no such\u{fffd} agent (422)\n  /agent: did you mean x?");
        assert!(said(StatusCode::BAD_GATEWAY, b"<html>").contains("502"));
        assert!(said(StatusCode::INTERNAL_SERVER_ERROR, body).ends_with("request r1"));
    }
}
