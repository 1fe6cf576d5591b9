//! What the peers that are written in Rust have in common: the model and the tool of the workload, what they are told,
//! and how those that have no server of their own are reached.

use std::io;

use axum::{
    Router,
    routing::{MethodRouter, get},
    serve::ListenerExt,
};
use clap::Parser;
use reqwest::Client;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;

#[derive(Parser)]
pub struct Args {
    #[arg(long)]
    pub port: u16,
    /// An OpenAI-compatible server, up to and with /v1
    #[arg(long)]
    pub model_url: String,
}

/// What a client posts.
#[derive(Deserialize)]
pub struct Task {
    pub input: String,
}

/// Takes tasks at `/runs`.
pub async fn serve(port: u16, runs: MethodRouter) -> io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/runs", runs);
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    axum::serve(listener.tap_io(|socket| drop(socket.set_nodelay(true))), router).await
}

pub const MODEL: &str = "scripted-server";

/// An OpenAI-compatible server.
pub struct Model {
    http: Client,
    url: String,
}

impl Model {
    /// `url` goes up to and with `/v1`.
    pub fn new(url: &str) -> Result<Self, reqwest::Error> {
        Ok(Self {
            http: Client::builder().no_proxy().build()?,
            url: format!("{url}/chat/completions"),
        })
    }

    /// The reply's message, whole: these peers have no way to stream it on.
    pub async fn reply(&self, messages: &[Value]) -> Result<Value, reqwest::Error> {
        let response = self.http.post(&self.url).json(&request(messages)).send().await?;
        let mut reply: Value = response.error_for_status()?.json().await?;
        Ok(reply["choices"][0]["message"].take())
    }

    /// The reply's message, and its text as it comes: what one piece of the answer holds together.
    pub async fn streamed(&self, messages: &[Value], mut on_text: impl FnMut(&str)) -> Result<Value, Error> {
        let mut asked = request(messages);
        asked["stream"] = true.into();
        let response = self.http.post(&self.url).json(&asked).send().await?;
        let mut response = response.error_for_status()?;
        let (mut text, mut content, mut calls) = (Vec::new(), String::new(), Vec::new());
        while let Some(piece) = response.chunk().await? {
            text.extend_from_slice(&piece);
            let known = content.len();
            let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            for line in text[..whole].split(|byte| *byte == b'\n') {
                let data = line.strip_prefix(b"data: ").filter(|data| !data.starts_with(b"[DONE]"));
                let chunk: Option<Chunk> = data.map(serde_json::from_slice).transpose()?;
                for choice in chunk.into_iter().flat_map(|chunk| chunk.choices) {
                    content += choice.delta.content.as_deref().unwrap_or_default();
                    for call in choice.delta.tool_calls.into_iter().flatten() {
                        assemble(&mut calls, call);
                    }
                }
            }
            text.drain(..whole);
            if content.len() > known {
                on_text(&content[known..]);
            }
        }
        Ok(match calls.is_empty() {
            true => json!({"role": "assistant", "content": content}),
            false => json!({"role": "assistant", "content": content, "tool_calls": calls}),
        })
    }
}

#[derive(Deserialize)]
struct Chunk {
    choices: Vec<Choice>,
}

#[derive(Deserialize)]
struct Choice {
    delta: Delta,
}

#[derive(Deserialize)]
struct Delta {
    content: Option<String>,
    tool_calls: Option<Vec<Value>>,
}

pub type Error = Box<dyn std::error::Error + Send + Sync>;

fn request(messages: &[Value]) -> Value {
    json!({"model": MODEL, "messages": messages, "tools": [{"type": "function", "function": {
        "name": "lookup",
        "description": "Returns the text it is given.",
        "parameters": {
            "type": "object",
            "properties": {"q": {"type": "string", "description": "The text to return."}},
            "required": ["q"],
        },
    }}]})
}

/// Adds a piece of a tool call to those it belongs to: the first piece has the name, the others more of the arguments.
fn assemble(calls: &mut Vec<Value>, mut piece: Value) {
    let index = piece["index"].as_u64().and_then(|index| usize::try_from(index).ok());
    match calls.get_mut(index.unwrap_or_default()) {
        Some(call) => {
            let more = piece["function"]["arguments"].as_str().unwrap_or_default();
            let known = call["function"]["arguments"].as_str().unwrap_or_default();
            call["function"]["arguments"] = format!("{known}{more}").into();
        }
        None => {
            if let Some(fields) = piece.as_object_mut() {
                fields.remove("index");
            }
            calls.push(piece);
        }
    }
}

/// How a conversation begins.
pub fn conversation(task: &str) -> Vec<Value> {
    vec![
        json!({"role": "system", "content": "You look things up."}),
        json!({"role": "user", "content": task}),
    ]
}

/// The tool calls a reply asks for; none: its text is the answer.
pub fn tool_calls(reply: &Value) -> Vec<Value> {
    reply["tool_calls"].as_array().cloned().unwrap_or_default()
}

/// Runs a call of the one tool there is.
pub fn lookup(call: &Value) -> Result<String, serde_json::Error> {
    let arguments: Value = serde_json::from_str(call["function"]["arguments"].as_str().unwrap_or_default())?;
    Ok(arguments["q"].as_str().unwrap_or_default().to_owned())
}

/// What the model is told of it.
pub fn tool_message(call: &Value, found: String) -> Value {
    json!({"role": "tool", "tool_call_id": call["id"], "content": found})
}
