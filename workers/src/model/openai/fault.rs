//! What a failed call means: from a status, an error object or a broken connection to a class.

use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::header::{HeaderMap, RETRY_AFTER};
use serde_json::Value;

use super::super::{ErrorClass, ModelError, http};

/// Of what the provider says, so that no page of HTML ends up in the log.
const MESSAGE_CHARS_MAX: usize = 500;

/// An answer whose status says that it is none.
pub fn of_status(status: u16, headers: &HeaderMap, body: &[u8], now: DateTime<Utc>) -> ModelError {
    let class = class_of_status(status);
    let said = message_of(body);
    let said = if said.is_empty() {
        String::new()
    } else {
        format!(": {said}")
    };
    let message = match status {
        300..=399 => {
            format!("the provider answered {status} and points elsewhere; check its base URL (OPENAI_BASE_URL)")
        }
        401 | 403 => format!("the provider answered {status}; check its key (OPENAI_API_KEY){said}"),
        404 => format!(
            "the provider answered 404; check the model's name and the provider's base URL (OPENAI_BASE_URL){said}"
        ),
        _ => format!("the provider answered {status}{said}"),
    };
    let retry_after = retry_after(headers, now).filter(|_| class != ErrorClass::Rejected);
    ModelError {
        status: Some(status),
        retry_after,
        ..ModelError::new(class, message)
    }
}

/// An error object where chunks should be: the status has been sent already, so its words must do.
pub fn of_error_object(error: &Value) -> ModelError {
    let said = clip(&words_of(error));
    let word = |key: &str| {
        error
            .get(key)
            .map(|value| value.as_str().map_or_else(|| value.to_string(), Into::into))
    };
    let status = ["status", "code", "status_code"]
        .iter()
        .find_map(|key| word(key)?.parse::<u16>().ok());
    let class = match status.filter(|status| (400..600).contains(status)) {
        Some(status) => class_of_status(status),
        None => class_of_words(
            &["type", "code", "status"]
                .map(|key| word(key).unwrap_or_default())
                .concat(),
            &said,
        ),
    };
    let said = if said.is_empty() {
        "without saying why".into()
    } else {
        said
    };
    ModelError::new(class, format!("the provider broke off with an error: {said}"))
}

pub fn of_connection(error: &(dyn std::error::Error + 'static)) -> ModelError {
    let timed_out = error
        .downcast_ref::<reqwest::Error>()
        .is_some_and(reqwest::Error::is_timeout);
    let class = if timed_out {
        ErrorClass::Timeout
    } else {
        ErrorClass::Connection
    };
    ModelError::new(
        class,
        format!("the connection to the provider failed: {}", http::chain(error)),
    )
}

fn class_of_status(status: u16) -> ErrorClass {
    match status {
        429 => ErrorClass::RateLimited,
        // 409 is what some providers answer while a model is being loaded; 5xx holds 529, overloaded.
        408 | 409 | 500..=599 => ErrorClass::Unavailable,
        _ => ErrorClass::Rejected,
    }
}

fn class_of_words(kind: &str, said: &str) -> ErrorClass {
    let (kind, said) = (kind.to_lowercase(), said.to_lowercase());
    let has = |words: &[&str]| words.iter().any(|word| kind.contains(word));
    if has(&["rate_limit", "ratelimit", "quota", "too_many"]) || said.contains("rate limit") {
        ErrorClass::RateLimited
    } else if has(&[
        "invalid",
        "authentication",
        "permission",
        "not_found",
        "context_length",
        "content_filter",
        "policy",
    ]) {
        ErrorClass::Rejected
    } else {
        ErrorClass::Unavailable
    }
}

/// `Retry-After` in seconds or as a date, or OpenAI's `retry-after-ms`. A date is read against the server's own
/// `Date` where it sends one, so that its clock and ours need not agree.
pub fn retry_after(headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let date = |text: &str| {
        DateTime::parse_from_rfc2822(text)
            .ok()
            .map(|date| date.with_timezone(&Utc))
    };
    if let Some(ms) = text("retry-after-ms").and_then(|ms| ms.parse::<f64>().ok()) {
        return Duration::try_from_secs_f64(ms / 1_000.0).ok();
    }
    let asked = text(RETRY_AFTER.as_str())?;
    if let Ok(seconds) = asked.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let from = text("date").and_then(date).unwrap_or(now);
    // A moment that has passed asks for no wait.
    Some((date(asked)? - from).to_std().unwrap_or_default())
}

/// The sentence in an error body, in any of the usual shapes; else the body's own beginning.
fn message_of(body: &[u8]) -> String {
    match serde_json::from_slice::<Value>(body) {
        Ok(json) => clip(&words_of(json.get("error").unwrap_or(&json))),
        Err(_) => clip(&String::from_utf8_lossy(body)),
    }
}

fn words_of(error: &Value) -> String {
    let words = ["message", "detail", "error", "msg"]
        .iter()
        .find_map(|key| error.get(key));
    match words.unwrap_or(error) {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn clip(text: &str) -> String {
    let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match flat.char_indices().nth(MESSAGE_CHARS_MAX) {
        Some((at, _)) => format!("{}…", &flat[..at]),
        None => flat,
    }
}
