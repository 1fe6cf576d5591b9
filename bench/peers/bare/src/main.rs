//! The workload and nothing else: two model calls, the tool, the text streamed to the client. Nothing is kept, so a
//! process that dies takes its runs with it. It is no peer: with text gathered and runs limited as Steadfast does it, it
//! is the closest thing to a floor for the HTTP of a run that this bench has. With `--keep` every event of a run is on the
//! disk before the run goes on, which is the closest thing to a floor for a durable run; nothing takes up what is there.

mod keeper;
mod pieces;

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Json,
    body::{Body, Bytes},
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use chat::{Args, Model, Task};
use clap::Parser;
use futures::stream;
use serde_json::json;
use tokio::sync::{Semaphore, mpsc};

use keeper::{Keeper, Kept};
use pieces::Pieces;

#[derive(Parser)]
struct Options {
    #[command(flatten)]
    common: Args,
    /// Gather text for so long after a piece was sent; without it each piece read is sent as it comes
    #[arg(long)]
    gather_ms: Option<u64>,
    /// Keep the events of each run, in as many commits a run as Steadfast's: postgres://… (an empty database), or a new file
    #[arg(long)]
    keep: Option<String>,
    /// Runs that execute at the same time, at most, while the others wait; without it all do
    #[arg(long)]
    at_once: Option<usize>,
}

struct Agent {
    model: Model,
    gather: Option<Duration>,
    slots: Semaphore,
    keeper: Option<Keeper>,
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
    async fn run(&self, task: &str, client: &Client, mut log: RunLog) -> Result<String, chat::Error> {
        let _slot = self.slots.acquire().await?;
        let mut messages = chat::conversation(task);
        log.note("run.started", || "{}".into());
        loop {
            log.note("model.called", || json!({"model": chat::MODEL}).to_string());
            log.keep().await?;
            let pieces = Pieces::new(client, self.gather);
            let reply = tokio::select! {
                biased;
                reply = self.model.streamed(&messages, |text| pieces.push(text)) => reply?,
                never = pieces.run() => match never {},
            };
            pieces.flush();
            let calls = chat::tool_calls(&reply);
            log.note("model.replied", || reply.to_string());
            if calls.is_empty() {
                let output = reply["content"].as_str().unwrap_or_default();
                log.note("run.completed", || json!({"output": output}).to_string());
                log.keep().await?;
                return Ok(output.to_owned());
            }
            messages.push(reply);
            for call in &calls {
                let found = chat::tool_message(call, chat::lookup(call)?);
                log.note("tool.called", || call.to_string());
                log.note("tool.succeeded", || found.to_string());
                messages.push(found);
            }
        }
    }
}

/// What a run has done since it was last kept; nothing is noted where nothing is kept.
struct RunLog {
    kept: Option<Kept>,
    noted: Vec<(&'static str, String)>,
}

impl RunLog {
    fn of(kept: Option<Kept>) -> Self {
        Self {
            kept,
            noted: Vec::new(),
        }
    }

    fn note(&mut self, kind: &'static str, payload: impl FnOnce() -> String) {
        if self.kept.is_some() {
            self.noted.push((kind, payload()));
        }
    }

    async fn keep(&mut self) -> Result<(), chat::Error> {
        match &mut self.kept {
            Some(kept) => kept.append(self.noted.drain(..)).await,
            None => Ok(()),
        }
    }
}

async fn run(State(agent): State<Arc<Agent>>, Json(task): Json<Task>) -> Result<Response, (StatusCode, String)> {
    let mut log = RunLog::of(agent.keeper.as_ref().map(Keeper::run));
    log.note("run.requested", || json!({"input": task.input}).to_string());
    let accepted = log.keep().await;
    accepted.map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    let (client, frames) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        match agent.run(&task.input, &client, log).await {
            Ok(output) => tell(&client, frame("completed", &output)),
            Err(error) => tell(&client, frame("failed", &error.to_string())),
        }
    });
    let frames = stream::unfold(frames, |mut frames| async move {
        let frame = frames.recv().await?;
        Some((Ok::<_, Infallible>(frame), frames))
    });
    Ok(([("content-type", "text/event-stream")], Body::from_stream(frames)).into_response())
}

#[tokio::main]
async fn main() -> Result<(), chat::Error> {
    let options = Options::parse();
    let keeper = match &options.keep {
        Some(place) => Some(Keeper::open(place).await?),
        None => None,
    };
    let agent = Agent {
        model: Model::new(&options.common.model_url)?,
        gather: options.gather_ms.map(Duration::from_millis),
        slots: Semaphore::new(options.at_once.unwrap_or(Semaphore::MAX_PERMITS)),
        keeper,
    };
    chat::serve(options.common.port, post(run).with_state(Arc::new(agent))).await?;
    Ok(())
}
