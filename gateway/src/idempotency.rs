//! `Idempotency-Key`: the same POST sent twice happens once, and is answered twice.
//!
//! The key lies in the store in the same commit as what the request caused, so there is no moment at which one exists
//! without the other, and two requests at the same time cannot both win.

use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use sha2::{Digest, Sha256};
use steadfast::{
    crash::{self, Point},
    store::{Hash, Idempotency, StoredAnswer},
};

use crate::{gateway::Gateway, identity::Who, problem::Problem};

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
const KEY_CHARS_MAX: usize = 255;

/// A key, and what it was sent with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    pub key: String,
    fingerprint: Hash,
}

impl Key {
    /// The key of a request, if it has one.
    pub fn of(headers: &HeaderMap, method: &Method, path: &str, body: &[u8]) -> Result<Option<Self>, Problem> {
        let Some(value) = headers.get(&KEY) else {
            return Ok(None);
        };
        let visible = |bytes: &[u8]| bytes.iter().all(u8::is_ascii_graphic);
        let bytes = value.as_bytes();
        let key = std::str::from_utf8(bytes)
            .ok()
            .filter(|_| (1..=KEY_CHARS_MAX).contains(&bytes.len()) && visible(bytes));
        let Some(key) = key else {
            let detail =
                format!("it must be 1 to {KEY_CHARS_MAX} visible ASCII characters without spaces, such as a UUID");
            let problem = Problem::malformed(
                "bad_idempotency_key",
                format!("the Idempotency-Key cannot be used: {detail}"),
            );
            return Err(problem.at("Idempotency-Key", detail));
        };
        let mut hasher = Sha256::new();
        for part in [method.as_str().as_bytes(), path.as_bytes(), body] {
            hasher.update((part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
        Ok(Some(Self {
            key: key.into(),
            fingerprint: hasher.finalize().into(),
        }))
    }

    /// To be stored with what the request causes.
    pub fn with_answer(&self, status: StatusCode, body: &str) -> Idempotency {
        let answer = StoredAnswer {
            status: status.as_u16(),
            body: body.into(),
        };
        Idempotency {
            key: self.key.clone(),
            fingerprint: self.fingerprint,
            answer,
        }
    }

    /// The key was used before: the old answer, if the request was the same.
    pub fn replay(&self, fingerprint: &Hash, answer: StoredAnswer) -> Result<StoredAnswer, Problem> {
        if *fingerprint == self.fingerprint {
            crash::at(Point::AnswerAgain);
            return Ok(answer);
        }
        let detail = "this Idempotency-Key was used before with another request; use a new key for a new request";
        Err(
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused", detail)
                .at("Idempotency-Key", detail),
        )
    }

    /// The answer given before, if there is one.
    pub async fn earlier(&self, gateway: &Gateway, who: &Who) -> Result<Option<StoredAnswer>, Problem> {
        let used = gateway.store.reader.idempotency(&who.tenant, &self.key).await?;
        used.map(|used| self.replay(&used.fingerprint, used.answer)).transpose()
    }
}

pub fn has_key(headers: &HeaderMap) -> bool {
    headers.contains_key(&KEY)
}

/// An answer given before, as a response.
pub fn again(answer: StoredAnswer) -> Response {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
    mark(json(status, answer.body))
}

/// Says that nothing happened this time.
pub fn mark(mut response: Response) -> Response {
    response
        .headers_mut()
        .insert(REPLAYED, HeaderValue::from_static("true"));
    response
}

/// A response of rendered JSON.
pub fn json(status: StatusCode, body: String) -> Response {
    (
        status,
        [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))],
        Body::from(body),
    )
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(value: &'static [u8], path: &str, body: &[u8]) -> Result<Option<Key>, Problem> {
        let mut headers = HeaderMap::new();
        headers.insert(KEY, HeaderValue::from_bytes(value).expect("a header value"));
        Key::of(&headers, &Method::POST, path, body)
    }

    #[test]
    fn only_visible_ascii_of_a_bounded_length_is_a_key() {
        for bad in [&b""[..], b"a b", b"\xff", &[b'a'; 256], b"\t"] {
            assert_eq!(
                key(bad, "/", b"").expect_err("a bad key was taken").status(),
                StatusCode::BAD_REQUEST
            );
        }
        assert!(key(&[b'a'; 255], "/", b"").is_ok_and(|key| key.is_some()));
        assert_eq!(
            Key::of(&HeaderMap::new(), &Method::POST, "/", b"").expect("no key is fine"),
            None
        );
    }

    #[test]
    fn another_body_or_path_under_the_same_key_is_refused() {
        let read = |path, body| key(b"k", path, body).expect("a good key").expect("a key");
        let (first, same) = (read("/v1/runs", b"a"), read("/v1/runs", b"a"));
        let used = first.with_answer(StatusCode::ACCEPTED, "{}");
        assert!(same.replay(&used.fingerprint, used.answer.clone()).is_ok());
        for other in [read("/v1/runs", b"b"), read("/v1/run", b"sa")] {
            let problem = other
                .replay(&used.fingerprint, used.answer.clone())
                .expect_err("another request was replayed");
            assert_eq!(problem.code_word(), "idempotency_key_reused");
        }
    }
}
