//! What is shown of an answer: its status and its text, as far as it is text and has room.

use futures::StreamExt;
use reqwest::{Response, header::CONTENT_TYPE};

use super::super::OUTPUT_BYTES_MAX;
use crate::model::http;

pub const ACCEPTED: &str = "text/*, application/json, application/xml;q=0.9, */*;q=0.1";

/// Leaves room in the tool's output for the status line and the note that something is missing.
const BODY_BYTES_MAX: usize = OUTPUT_BYTES_MAX - 1024;

/// An answer that is an error is an answer: the model should see it.
pub async fn read(answer: Response, place: &str) -> Result<String, String> {
    let header = answer
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let kind = header.split(';').next().unwrap_or_default().trim().to_lowercase();
    if !is_text(&kind) {
        return Err(format!("{place} is {kind}; only text can be read"));
    }
    let status = answer.status();
    let mut body = Vec::new();
    let mut chunks = std::pin::pin!(answer.bytes_stream());
    let mut whole = true;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|e| format!("{place} broke off: {}", http::chain(&e)))?;
        let room = BODY_BYTES_MAX - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if chunk.len() > room {
            whole = false;
            break;
        }
    }
    if body.contains(&0) {
        return Err(format!("{place} is not text"));
    }
    let text = String::from_utf8_lossy(&body);
    let note = if whole {
        String::new()
    } else {
        format!("\n[cut: only the first {BODY_BYTES_MAX} bytes were read]")
    };
    Ok(format!(
        "HTTP {status}, {}\n\n{text}{note}",
        if kind.is_empty() { "of no named type" } else { &kind }
    ))
}

/// By its name; a type nobody named is judged by its bytes.
fn is_text(kind: &str) -> bool {
    const TEXTS: [&str; 8] = [
        "",
        "application/json",
        "application/xml",
        "application/javascript",
        "application/yaml",
        "application/x-yaml",
        "application/x-ndjson",
        "application/x-www-form-urlencoded",
    ];
    TEXTS.contains(&kind) || kind.starts_with("text/") || kind.ends_with("+json") || kind.ends_with("+xml")
}
