//! The workload and nothing else: two model calls, the tool, the text streamed to the client as it comes (an event for
//! each piece read). Nothing is kept, so a process that dies takes its runs with it. It is no peer: it is a plain
//! implementation of the HTTP that every one of them has to do.

use std::{convert::Infallible, sync::Arc};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::State,
    response::{IntoResponse, Response},
    routing::{get, post},
    serve::ListenerExt,
};
use chat::Model;
use clap::Parser;
use futures::stream;
use serde::Deserialize;
use serde_json::json;
use tokio::{net::TcpListener, sync::mpsc};

#[derive(Parser)]
struct Args {
    #[arg(long)]
    port: u16,
    /// An OpenAI-compatible server, up to and with /v1
    #[arg(long)]
    model_url: String,
}

#[derive(Deserialize)]
struct Task {
    input: String,
}

type Client = mpsc::UnboundedSender<Bytes>;

fn frame(event: &str, data: &str) -> String {
    format!("event: {event}\ndata: {}\n\n", json!(data))
}

fn tell(client: &Client, frames: String) {
    // Whoever has left hears nothing.
    let _ = client.send(frames.into());
}

async fn agent(model: &Model, task: &str, client: &Client) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
    let mut messages = chat::conversation(task);
    loop {
        let reply = model
            .streamed(&messages, |text| tell(client, frame("text", text)))
            .await?;
        let calls = chat::tool_calls(&reply);
        if calls.is_empty() {
            return Ok(reply["content"].as_str().unwrap_or_default().to_owned());
        }
        messages.push(reply);
        for call in &calls {
            messages.push(chat::tool_message(call, chat::lookup(call)?));
        }
    }
}

async fn run(State(model): State<Arc<Model>>, Json(task): Json<Task>) -> Response {
    let (client, pieces) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        match agent(&model, &task.input, &client).await {
            Ok(output) => tell(&client, frame("completed", &output)),
            Err(error) => tell(&client, frame("failed", &error.to_string())),
        }
    });
    let pieces = stream::unfold(pieces, |mut pieces| async move {
        let piece = pieces.recv().await?;
        Some((Ok::<_, Infallible>(piece), pieces))
    });
    ([("content-type", "text/event-stream")], Body::from_stream(pieces)).into_response()
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let router = Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/runs", post(run))
        .with_state(Arc::new(Model::new(&args.model_url)?));
    let listener = TcpListener::bind(("127.0.0.1", args.port)).await?;
    let listener = listener.tap_io(|socket| drop(socket.set_nodelay(true)));
    axum::serve(listener, router).await?;
    Ok(())
}
