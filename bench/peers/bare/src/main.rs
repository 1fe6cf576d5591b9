//! The workload and nothing else: two model calls, the tool, the text streamed to the client. Nothing is kept, so a
//! process that dies takes its runs with it. It is no peer: with text gathered and runs limited as Steadfast does it, it
//! is the closest thing to a floor for the HTTP of a run that this bench has. With `--keep` every event of a run is on the
//! disk before the run goes on, which is the closest thing to a floor for a durable run; nothing takes up what is there.
//! With `--role` two processes share the work, over NATS.

mod keeper;
mod pieces;
mod shared;

use std::{convert::Infallible, sync::Arc, time::Duration};

use async_nats::jetstream;
use axum::{
    Json,
    body::{Body, Bytes},
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use chat::{Args, Model, Task};
use clap::{Parser, ValueEnum};
use futures::stream;
use serde_json::json;
use tokio::sync::{Semaphore, mpsc};
use uuid::Uuid;

use keeper::{Keeper, Kept};
use pieces::Pieces;
use shared::Gateway;

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
    #[arg(long, default_value_t = Semaphore::MAX_PERMITS)]
    at_once: usize,
    /// Share the work between a gateway and a worker; the gateway makes the tables
    #[arg(long, requires_all = ["keep", "nats", "prefix"])]
    role: Option<Role>,
    /// nats://…
    #[arg(long, requires = "role")]
    nats: Option<String>,
    /// In front of every name in NATS
    #[arg(long, requires = "role")]
    prefix: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Role {
    Gateway,
    Worker,
}

struct Agent {
    model: Model,
    gather: Option<Duration>,
    slots: Arc<Semaphore>,
    keeper: Option<Keeper>,
}

/// A piece of what the client of a run reads.
#[derive(Debug, PartialEq)]
struct Frame {
    run_id: Uuid,
    text: Bytes,
    last: bool,
}

/// Whoever reads the answer of a run.
struct Client {
    run_id: Uuid,
    frames: mpsc::UnboundedSender<Frame>,
}

impl Client {
    fn tell(&self, event: &str, data: &str) {
        self.send(event, data, false);
    }

    fn end(&self, result: Result<String, chat::Error>) {
        match result {
            Ok(output) => self.send("completed", &output, true),
            Err(error) => self.send("failed", &error.to_string(), true),
        }
    }

    fn send(&self, event: &str, data: &str, last: bool) {
        let text = format!("event: {event}\ndata: {}\n\n", json!(data)).into();
        let frame = Frame {
            run_id: self.run_id,
            text,
            last,
        };
        // Whoever has left hears nothing.
        let _ = self.frames.send(frame);
    }
}

impl Agent {
    async fn run(&self, task: &str, client: &Client, mut log: RunLog) -> Result<String, chat::Error> {
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
    /// Acknowledged once something is kept: then this process has the run.
    command: Option<jetstream::Message>,
}

impl RunLog {
    fn of(kept: Option<Kept>, command: Option<jetstream::Message>) -> Self {
        Self {
            kept,
            noted: Vec::new(),
            command,
        }
    }

    fn note(&mut self, kind: &'static str, payload: impl FnOnce() -> String) {
        if self.kept.is_some() {
            self.noted.push((kind, payload()));
        }
    }

    async fn keep(&mut self) -> Result<(), chat::Error> {
        if let Some(kept) = &mut self.kept {
            kept.append(self.noted.drain(..)).await?;
        }
        if let Some(command) = self.command.take() {
            command.ack().await?;
        }
        Ok(())
    }
}

async fn run(State(agent): State<Arc<Agent>>, Json(task): Json<Task>) -> Result<Response, (StatusCode, String)> {
    let mut log = RunLog::of(agent.keeper.as_ref().map(Keeper::run), None);
    log.note("run.requested", || json!({"input": task.input}).to_string());
    log.keep().await.map_err(broken)?;
    let (frames, answer) = mpsc::unbounded_channel();
    // The channel is this run's own: nobody looks whose frames they are.
    let run_id = Uuid::nil();
    let client = Client { run_id, frames };
    tokio::spawn(async move {
        let executed = async {
            let _slot = agent.slots.acquire().await?;
            agent.run(&task.input, &client, log).await
        };
        client.end(executed.await);
    });
    Ok(streamed(answer))
}

fn broken(error: chat::Error) -> (StatusCode, String) {
    (StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

/// Ends when nobody can send a frame any more.
fn streamed(frames: mpsc::UnboundedReceiver<Frame>) -> Response {
    let frames = stream::unfold(frames, |mut frames| async move {
        let frame = frames.recv().await?;
        Some((Ok::<_, Infallible>(frame.text), frames))
    });
    ([("content-type", "text/event-stream")], Body::from_stream(frames)).into_response()
}

#[tokio::main]
async fn main() -> Result<(), chat::Error> {
    let options = Options::parse();
    let port = options.common.port;
    let mut agent = Agent {
        model: Model::new(&options.common.model_url)?,
        gather: options.gather_ms.map(Duration::from_millis),
        slots: Arc::new(Semaphore::new(options.at_once)),
        keeper: None,
    };
    match options.role {
        None => {
            if let Some(place) = &options.keep {
                agent.keeper = Some(Keeper::open(place).await?);
            }
            chat::serve(port, post(run).with_state(Arc::new(agent))).await?;
            Ok(())
        }
        Some(role) => {
            let [postgres, nats, prefix] = [options.keep, options.nats, options.prefix].map(Option::unwrap_or_default);
            match role {
                Role::Gateway => {
                    let gateway = Gateway::open(&postgres, &nats, &prefix).await?;
                    chat::serve(port, gateway.routes()).await?;
                    Ok(())
                }
                Role::Worker => shared::work(Arc::new(agent), &postgres, &nats, &prefix, port).await,
            }
        }
    }
}
