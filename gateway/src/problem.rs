//! Errors as clients see them: RFC 9457 problem documents.
//!
//! A handler answers with a [`Problem`]; the [edge](crate::edge) renders it, because only the edge knows the id of the
//! request. What a client can do about it is in `detail` and `errors`; what only an operator should see goes to the log.

use std::fmt;

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use steadfast::{run::RunId, store};

/// An answer that is not what the client asked for.
#[derive(Clone)]
pub struct Problem(Box<Parts>);

#[derive(Clone)]
struct Parts {
    status: StatusCode,
    code: &'static str,
    detail: String,
    errors: Vec<FieldError>,
    retry_after_seconds: Option<u64>,
    run_id: Option<RunId>,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// For the log only.
    cause: Option<String>,
}

/// What is wrong with one field: a JSON pointer into the body, or the name of a header or query parameter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldError {
    pub pointer: String,
    pub detail: String,
}

#[derive(Serialize)]
struct Document<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    instance: &'a str,
    code: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [FieldError],
    retryable: bool,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    run_id: Option<RunId>,
}

impl Problem {
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        let (detail, errors, headers) = (detail.into(), Vec::new(), Vec::new());
        Self(Box::new(Parts {
            status,
            code,
            detail,
            errors,
            retry_after_seconds: None,
            run_id: None,
            headers,
            cause: None,
        }))
    }

    /// The request cannot be read.
    pub fn malformed(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    /// The request reads, but a value in it cannot be taken.
    pub fn invalid(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_request", detail.clone()).at(pointer, detail)
    }

    pub fn not_found(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, detail)
    }

    pub fn no_such_run(id: &str) -> Self {
        let id: String = id.chars().take(80).collect();
        Self::not_found(
            "run_not_found",
            format!("there is no run {id:?}; GET /v1/runs lists yours"),
        )
    }

    pub fn no_such_session(id: &str) -> Self {
        let id: String = id.chars().take(80).collect();
        let detail = format!("there is no session {id:?}; GET /v1/sessions lists yours, POST /v1/sessions creates one");
        Self::not_found("session_not_found", detail)
    }

    /// The state of things forbids it, and trying again will not help: clients' automatic retries are told so.
    pub fn conflict(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, detail).header(
            HeaderName::from_static("x-should-retry"),
            HeaderValue::from_static("false"),
        )
    }

    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail).retry_after(1)
    }

    /// Ours to explain, not the client's: the cause is logged.
    pub fn internal(cause: impl Into<String>) -> Self {
        let detail = "something went wrong on our side; the request id finds it in the log";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail).because(cause)
    }

    pub fn code(mut self, code: &'static str) -> Self {
        self.0.code = code;
        self
    }

    pub fn at(mut self, pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        self.0.errors.push(FieldError {
            pointer: pointer.into(),
            detail: detail.into(),
        });
        self
    }

    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.0.retry_after_seconds = Some(seconds.max(1));
        self
    }

    pub fn of_run(mut self, run_id: RunId) -> Self {
        self.0.run_id = Some(run_id);
        self
    }

    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.push((name, value));
        self
    }

    pub fn because(mut self, cause: impl Into<String>) -> Self {
        self.0.cause = Some(cause.into());
        self
    }

    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    pub fn code_word(&self) -> &'static str {
        self.0.code
    }

    pub fn errors(&self) -> &[FieldError] {
        &self.0.errors
    }

    pub fn cause(&self) -> Option<&str> {
        self.0.cause.as_deref()
    }

    /// Fills in the body and the headers of the response that stands for this problem.
    pub fn render(&self, response: &mut Response, request_id: &str, instance: &str) {
        let parts = &self.0;
        let document = Document {
            r#type: format!("urn:steadfast:problem:{}", parts.code),
            title: parts.status.canonical_reason().unwrap_or("Error"),
            status: parts.status.as_u16(),
            detail: &parts.detail,
            instance,
            code: parts.code,
            errors: &parts.errors,
            retryable: parts.retry_after_seconds.is_some(),
            request_id,
            run_id: parts.run_id,
        };
        // Strings and numbers only: rendering cannot fail, and an empty body would still carry the status.
        *response.body_mut() = Body::from(serde_json::to_vec(&document).unwrap_or_default());
        let headers = response.headers_mut();
        headers.remove(header::CONTENT_LENGTH);
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = parts.retry_after_seconds {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        for (name, value) in &parts.headers {
            headers.insert(name, value.clone());
        }
    }
}

impl fmt::Debug for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}: {} {:?}",
            self.0.status.as_u16(),
            self.0.code,
            self.0.detail,
            self.0.errors
        )
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.0.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<store::Error> for Problem {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::Unavailable(_) => {
                Self::unavailable("the database is not available; try again").because(error.to_string())
            }
            store::Error::Refused(_) | store::Error::Corrupt { .. } => Self::internal(error.to_string()),
            store::Error::Newer { run_id, .. } => {
                let detail = "a newer build has written to this run, as during an upgrade: its events can be read and \
                              streamed here, and a newer gateway answers the rest; try again";
                Self::unavailable(detail)
                    .code("newer_build")
                    .of_run(run_id)
                    .because(error.to_string())
            }
        }
    }
}
