//! The workload and nothing else: two model calls, the tool, the text streamed to the client. Nothing is kept, so a
//! process that dies takes its runs with it. It is no peer: with text gathered and runs limited as Steadfast does it, it
//! is the closest thing to a floor for the HTTP of a run that this bench has.

mod pieces;

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Json,
    body::{Body, Bytes},
    extract::State,
    response::{IntoResponse, Response},
    routing::post,
};
use chat::{Args, Model, Task};
use clap::Parser;
use futures::stream;
use serde_json::json;
use tokio::sync::{Semaphore, mpsc};

use pieces::Pieces;

#[derive(Parser)]
struct Options {
    #[command(flatten)]
    common: Args,
    /// Gather text for so long after a piece was sent; without it each piece read is sent as it comes
    #[arg(long)]
    gather_ms: Option<u64>,
    /// Runs that execute at the same time, at most, while the others wait; without it all do
    #[arg(long)]
    at_once: Option<usize>,
}

struct Agent {
    model: Model,
    gather: Option<Duration>,
    slots: Semaphore,
}

type Client = mpsc::UnboundedSender<Bytes>;

fn frame(event: &str, data: &str) -> String {
    format!("event: {event}\ndata: {}\n\n", json!(data))
}

fn tell(client: &Client, frames: String) {
    // Whoever has left hears nothing.
    let _ = client.send(frames.into());
}

impl Agent {
    async fn run(&self, task: &str, client: &Client) -> Result<String, chat::Error> {
        let _slot = self.slots.acquire().await?;
        let mut messages = chat::conversation(task);
        loop {
            let pieces = Pieces::new(client, self.gather);
            let reply = tokio::select! {
                biased;
                reply = self.model.streamed(&messages, |text| pieces.push(text)) => reply?,
                never = pieces.run() => match never {},
            };
            pieces.flush();
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
}

async fn run(State(agent): State<Arc<Agent>>, Json(task): Json<Task>) -> Response {
    let (client, frames) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        match agent.run(&task.input, &client).await {
            Ok(output) => tell(&client, frame("completed", &output)),
            Err(error) => tell(&client, frame("failed", &error.to_string())),
        }
    });
    let frames = stream::unfold(frames, |mut frames| async move {
        let frame = frames.recv().await?;
        Some((Ok::<_, Infallible>(frame), frames))
    });
    ([("content-type", "text/event-stream")], Body::from_stream(frames)).into_response()
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = Options::parse();
    let agent = Agent {
        model: Model::new(&options.common.model_url)?,
        gather: options.gather_ms.map(Duration::from_millis),
        slots: Semaphore::new(options.at_once.unwrap_or(Semaphore::MAX_PERMITS)),
    };
    chat::serve(options.common.port, post(run).with_state(Arc::new(agent))).await?;
    Ok(())
}
