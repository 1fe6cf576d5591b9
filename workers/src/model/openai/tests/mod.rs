//! The provider as it can be: well, slow, in trouble, and broken. Each test has a server of its own that speaks HTTP
//! by hand, so that every byte and every silence is the test's.

mod assembly;
mod faults;
mod options;
mod stream;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use serde_json::{Value, json};
use steadfast::run::{Message, ModelReply, ToolSpec};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use super::super::{Conversation, Model, ModelError, ModelRequest};
use super::{ApiKey, OpenAi, OpenAiOptions, Timeouts};

const KEY: &str = "sk-test-secret-0123456789";

/// What the server does with one connection, in order.
#[derive(Clone)]
enum Do {
    Send(Vec<u8>),
    /// Keeps the connection open and says nothing more.
    Hang,
}

/// A server with one script for each connection; the last stays in force. Requests are handed out as they come.
struct Provider {
    address: SocketAddr,
    requests: mpsc::UnboundedReceiver<String>,
}

impl Provider {
    async fn start(scripts: Vec<Vec<Do>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (seen, requests) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            for at in 0.. {
                let Ok((socket, _)) = listener.accept().await else {
                    return;
                };
                let script = scripts.get(at).or(scripts.last()).cloned().unwrap_or_default();
                tokio::spawn(play(socket, script, seen.clone()));
            }
        });
        Self { address, requests }
    }

    async fn answering(bytes: impl Into<Vec<u8>>) -> Self {
        Self::start(vec![vec![Do::Send(bytes.into())]]).await
    }

    fn client(&self) -> OpenAi {
        let timeouts = Timeouts {
            first_token: Duration::from_secs(5),
            ..Timeouts::default()
        };
        self.client_with(timeouts)
    }

    fn client_with(&self, timeouts: Timeouts) -> OpenAi {
        OpenAi::new(OpenAiOptions {
            base_url: format!("http://{}/v1/", self.address),
            api_key: Some(ApiKey::new(KEY)),
            timeouts,
        })
        .expect("an address and a key")
    }
}

/// Reads one request, head and body, then follows the script and hangs up.
async fn play(mut socket: TcpStream, script: Vec<Do>, seen: mpsc::UnboundedSender<String>) {
    let mut request = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let Ok(read) = socket.read(&mut piece).await else {
            return;
        };
        request.extend_from_slice(&piece[..read]);
        let text = String::from_utf8_lossy(&request);
        if read == 0 {
            return;
        }
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head
            .lines()
            .find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        if body.len() >= length.unwrap_or(0) {
            break;
        }
    }
    let _ = seen.send(String::from_utf8_lossy(&request).into_owned());
    for step in script {
        match step {
            Do::Send(bytes) => {
                if socket.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            Do::Hang => std::future::pending().await,
        }
    }
    let _ = socket.shutdown().await;
}

const STREAM_HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";

/// A stream of these chunks, ended properly.
fn stream(chunks: &[Value]) -> String {
    format!(
        "{STREAM_HEAD}{}data: [DONE]\n\n",
        chunks.iter().map(event).collect::<String>()
    )
}

fn event(chunk: &Value) -> String {
    format!("data: {chunk}\n\n")
}

fn says(text: &str) -> Value {
    json!({"id": "chatcmpl-1", "model": "m-2026", "choices": [{"index": 0, "delta": {"content": text}}]})
}

fn stops(reason: &str) -> Value {
    json!({"id": "chatcmpl-1", "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
}

fn used(input: u64, output: u64) -> Value {
    json!({"choices": [], "usage": {"prompt_tokens": input, "completion_tokens": output}})
}

/// What [`request`] shows the model, and these.
fn conversation(more: impl IntoIterator<Item = Message>) -> Arc<Conversation> {
    let system = Message::System {
        content: "Be brief.".into(),
    };
    let first = [system, Message::user("hello")];
    Arc::new(first.into_iter().chain(more).collect())
}

fn request() -> ModelRequest {
    ModelRequest {
        model: "m".into(),
        messages: conversation([]),
        tools: vec![ToolSpec {
            name: "clock".into(),
            description: "Time.".into(),
            parameters: json!({"type": "object"}),
        }],
        output_tokens_max: 64,
        temperature: Some(0.5),
        idempotency_key: "run_1/1/1".into(),
    }
}

/// One call: how it ended, and the pieces of text that came on the way.
async fn call(client: &OpenAi) -> (Result<ModelReply, ModelError>, Vec<String>) {
    let mut pieces = Vec::new();
    let ended = client.call(&request(), &mut |text| pieces.push(text.into())).await;
    (ended, pieces)
}
