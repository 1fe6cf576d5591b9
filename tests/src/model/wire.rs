//! The bytes of an answer, whole or streamed, sound or broken in the middle.

use std::{io, time::Duration};

use axum::{
    Json,
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    reply::{Reply, TIME},
    script::Fault,
    state::Settings,
};

/// Of one answer.
pub(crate) struct Envelope<'a> {
    /// Unique in this process: the ids of the completion and of its tool calls are made of it.
    pub id: &'a str,
    pub model: &'a str,
    pub created: u64,
    pub prompt_tokens: usize,
    pub with_usage: bool,
}

/// An error in OpenAI's words.
pub(crate) fn error(status: u16, message: &str, retry_after_s: Option<u64>) -> Response {
    let kind = match status {
        429 => "rate_limit_exceeded",
        400..500 => "invalid_request_error",
        _ => "server_error",
    };
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, Json(error_body(kind, message))).into_response();
    if let Some(seconds) = retry_after_s {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

fn error_body(kind: &str, message: &str) -> Value {
    json!({"error": {"message": message, "type": kind, "param": null, "code": kind}})
}

/// The whole answer at once. Faults of the stream become what a body without a stream can suffer.
pub(crate) fn whole<G: Send + 'static>(
    envelope: &Envelope,
    reply: &Reply,
    fault: Option<Fault>,
    settings: &Settings,
    guard: G,
) -> Response {
    let message = match reply {
        Reply::Calls(calls) => {
            let calls = calls
                .iter()
                .enumerate()
                .map(|(i, call)| tool_call(envelope, i, &call.name, &call.args));
            json!({"role": "assistant", "content": null, "tool_calls": Value::from_iter(calls)})
        }
        Reply::Text(_) if fault == Some(Fault::Empty) => json!({"role": "assistant", "content": ""}),
        Reply::Text(pieces) => json!({"role": "assistant", "content": pieces.concat()}),
    };
    let body = json!({
        "id": envelope.id, "object": "chat.completion", "created": envelope.created, "model": envelope.model,
        "choices": [{"index": 0, "message": message, "logprobs": null, "finish_reason": reply.finish_reason()}],
        "usage": usage(envelope, reply),
    });
    let mut body = body.to_string().into_bytes();
    let half = body.len() / 2;
    let last = match fault {
        Some(Fault::HangMid) => Last::Hang,
        Some(Fault::Cut) => Last::Cut,
        _ => Last::End,
    };
    match fault {
        Some(Fault::HangMid | Fault::Cut | Fault::Malformed) => body.truncate(half),
        Some(Fault::BadUtf8) => body[half] = 0xff,
        Some(Fault::ErrorIn200) => body = error_body("server_error", "the engine failed").to_string().into_bytes(),
        _ => {}
    }
    let total = settings.ttft_ms + settings.token_ms * (reply.tokens() as u64).saturating_sub(1);
    let settings = Settings {
        ttft_ms: total,
        ..settings.clone()
    };
    respond("application/json", vec![body.into()], last, &settings, false, guard)
}

/// The answer in chunks, one word each.
pub(crate) fn streamed<G: Send + 'static>(
    envelope: &Envelope,
    reply: &Reply,
    fault: Option<Fault>,
    settings: &Settings,
    guard: G,
) -> Response {
    let mut deltas = if fault == Some(Fault::Empty) {
        vec![]
    } else {
        deltas(envelope, reply)
    };
    if let Some(first) = deltas.first_mut() {
        first.role = Some("assistant");
    }
    let mut frames: Vec<Bytes> = deltas.iter().map(|delta| chunk(envelope, delta, None)).collect();
    // Never before the first chunk: then it would be another fault.
    let middle = (frames.len() / 2).max(1).min(frames.len());
    let last = match fault {
        Some(Fault::HangMid) => Last::Hang,
        Some(Fault::Cut) => Last::Cut,
        _ => Last::End,
    };
    match fault {
        Some(Fault::HangMid | Fault::Cut) => frames.truncate(middle),
        Some(Fault::ErrorIn200) => {
            frames.truncate(middle);
            frames.push(frame(&error_body("server_error", "the engine failed")));
        }
        _ => {
            match fault {
                Some(Fault::Malformed) => {
                    frames.insert(
                        middle,
                        Bytes::from_static(b"data: {\"id\":\"chatcmpl-\",\"choices\":[{\"del\n\n"),
                    );
                }
                Some(Fault::BadUtf8) => frames.insert(
                    middle,
                    Bytes::from_static(
                        b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\xf0\x9f\xff\"}}]}\n\n",
                    ),
                ),
                _ => {}
            }
            let reason = if fault == Some(Fault::Empty) {
                "stop"
            } else {
                reply.finish_reason()
            };
            frames.push(chunk(envelope, &Delta::default(), Some(reason)));
            if envelope.with_usage {
                frames.push(frame(&envelope.chunk(&[], Some(usage(envelope, reply)))));
            }
            frames.push(Bytes::from_static(b"data: [DONE]\n\n"));
        }
    }
    let timed = matches!(reply, Reply::Text(pieces) if pieces.first().is_some_and(|piece| piece == TIME));
    respond("text/event-stream; charset=utf-8", frames, last, settings, timed, guard)
}

fn deltas<'a>(envelope: &Envelope, reply: &'a Reply) -> Vec<Delta<'a>> {
    let calls = match reply {
        Reply::Text(pieces) => return pieces.iter().map(|piece| Delta::content(piece)).collect(),
        Reply::Calls(calls) => calls,
    };
    let mut deltas = vec![];
    for (i, call) in calls.iter().enumerate() {
        let mut head = tool_call(envelope, i, &call.name, "");
        head["index"] = i.into();
        deltas.push(Delta::tool_calls(json!([head])));
        // In two pieces, because a client that parses the arguments before they are whole must be found out.
        let middle = call
            .args
            .char_indices()
            .nth(call.args.chars().count() / 2)
            .map_or(0, |(at, _)| at);
        let (one, two) = call.args.split_at(middle);
        for part in [one, two].into_iter().filter(|part| !part.is_empty()) {
            deltas.push(Delta::tool_calls(
                json!([{"index": i, "function": {"arguments": part}}]),
            ));
        }
    }
    deltas
}

fn tool_call(envelope: &Envelope, i: usize, name: &str, args: &str) -> Value {
    let id = format!("call_{}_{i}", envelope.id.trim_start_matches("chatcmpl-"));
    json!({"id": id, "type": "function", "function": {"name": name, "arguments": args}})
}

/// What a streamed answer consists of. Typed, as there is one for each word.
#[derive(Serialize)]
struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: &'a [Choice<'a>],
    /// Null in all chunks but the last, where usage was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Value>,
}

#[derive(Serialize)]
struct Choice<'a> {
    index: u64,
    delta: &'a Delta<'a>,
    logprobs: (),
    finish_reason: Option<&'a str>,
}

#[derive(Serialize, Default)]
struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<Value>,
}

impl<'a> Delta<'a> {
    fn content(text: &'a str) -> Self {
        Self {
            content: Some(text),
            ..Self::default()
        }
    }

    fn tool_calls(calls: Value) -> Self {
        Self {
            tool_calls: Some(calls),
            ..Self::default()
        }
    }
}

impl Envelope<'_> {
    fn chunk<'a>(&'a self, choices: &'a [Choice<'a>], usage: Option<Value>) -> Chunk<'a> {
        Chunk {
            id: self.id,
            object: "chat.completion.chunk",
            created: self.created,
            model: self.model,
            choices,
            usage,
        }
    }
}

fn chunk(envelope: &Envelope, delta: &Delta, finish_reason: Option<&str>) -> Bytes {
    let choice = Choice {
        index: 0,
        delta,
        logprobs: (),
        finish_reason,
    };
    frame(&envelope.chunk(&[choice], envelope.with_usage.then_some(Value::Null)))
}

fn frame(value: &impl Serialize) -> Bytes {
    let mut frame = b"data: ".to_vec();
    // To memory, and of nothing that JSON cannot say: it does not fail.
    let _ = serde_json::to_writer(&mut frame, value);
    frame.extend(b"\n\n");
    frame.into()
}

fn usage(envelope: &Envelope, reply: &Reply) -> Value {
    let (prompt, completion) = (envelope.prompt_tokens, reply.tokens());
    json!({"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion})
}

enum Last {
    End,
    Cut,
    Hang,
}

/// `timed`: words that say when they are sent are among the frames. `guard` lives until the body has been sent or its
/// reader has gone.
fn respond<G: Send + 'static>(
    content_type: &'static str,
    frames: Vec<Bytes>,
    last: Last,
    settings: &Settings,
    timed: bool,
    guard: G,
) -> Response {
    let (first_ms, next_ms) = (settings.ttft_ms, settings.token_ms);
    let frames = stream::iter(frames.into_iter().enumerate()).then(move |(i, frame)| async move {
        let ms = if i == 0 { first_ms } else { next_ms };
        // No timer without a wait: frames that are ready together leave in one write.
        if ms > 0 {
            tokio::time::sleep(Duration::from_millis(ms)).await;
        }
        Ok(if timed { with_time(&frame) } else { frame })
    });
    let end = async move {
        let _held = guard;
        match last {
            Last::End => None,
            // hyper answers an error in the body by closing the connection without the final chunk.
            Last::Cut => {
                // What was sent must arrive first, or the cut would fall anywhere.
                tokio::time::sleep(Duration::from_millis(5)).await;
                Some(Err(io::Error::other("cut on purpose")))
            }
            Last::Hang => std::future::pending().await,
        }
    };
    let body = frames.chain(stream::once(end).filter_map(std::future::ready));
    (
        [
            (header::CONTENT_TYPE, content_type),
            (header::CACHE_CONTROL, "no-cache"),
        ],
        boxed(body),
    )
        .into_response()
}

/// The frame with the time that it is now, if it says one.
fn with_time(frame: &Bytes) -> Bytes {
    let Some(at) = frame.windows(TIME.len()).position(|window| window == TIME.as_bytes()) else {
        return frame.clone();
    };
    let now = format!("t{:016} ", crate::since_epoch().as_micros());
    [&frame[..at], now.as_bytes(), &frame[at + TIME.len()..]]
        .concat()
        .into()
}

fn boxed(stream: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Body {
    Body::from_stream(stream)
}
