//! The workload as an agentplane agent: a manifest (`agent.yaml`) and a typed tool; its runtime journals every model call and
//! the tool call. Behind HTTP, the model's text streamed on as SSE.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, SystemTime},
};

use agentplane::{
    core::{RunId, SourceId, Timestamp},
    manifest::Manifest,
    model::{ModelStreamEvent, chat_completions::ChatCompletions},
    prelude::*,
    runtime::{Agent, RunStreamObserver, RuntimeBuilder},
    schemars,
    store::PostgresStore,
    tools::ToolFailure,
};
use axum::{
    Json,
    body::{Body, Bytes},
    extract::State,
    response::{IntoResponse, Response},
    routing::post,
};
use chat::{Args, Task};
use clap::Parser;
use futures::stream;
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// By default it has two for each core.
const CONNECTIONS_MAX: usize = 20;
/// As `agentplane serve` has them: how often runs are taken up whose process has died, and when an event is given up.
const SWEEP_EVERY: Duration = Duration::from_secs(30);
const EVENT_GRACE: Duration = Duration::from_secs(3600);

#[derive(Parser)]
struct Options {
    #[command(flatten)]
    common: Args,
    /// postgres://…, or a file for redb
    #[arg(long)]
    store: String,
}

/// Returns the text it is given.
#[derive(serde::Deserialize, schemars::JsonSchema)]
#[schemars(crate = "agentplane::schemars")]
struct Lookup {
    /// The text to return.
    q: String,
}

#[async_trait]
impl Tool for Lookup {
    const SERVER: &'static str = "bench";
    const NAME: &'static str = "lookup";

    fn mutates() -> bool {
        false
    }

    async fn call(self) -> Result<Value, ToolFailure> {
        Ok(self.q.into())
    }
}

type Client = mpsc::UnboundedSender<Bytes>;

tokio::task_local! {
    /// Who waits for the run that this task executes.
    static CLIENT: Client;
}

fn tell(client: &Client, event: &str, data: &str) {
    // Whoever has left hears nothing.
    let _ = client.send(format!("event: {event}\ndata: {}\n\n", json!(data)).into());
}

#[derive(Debug)]
struct ToClient;

impl RunStreamObserver for ToClient {
    fn event(&self, _run: RunId, event: Tainted<ModelStreamEvent>) {
        if let ModelStreamEvent::TextDelta(text) = event.peek() {
            // Nobody waits for a run that was taken up again.
            let _ = CLIENT.try_with(|client| tell(client, "token", text));
        }
    }
}

async fn answer(runtime: &Runtime, task: String) -> Result<String, Box<dyn std::error::Error>> {
    let input = Tainted::from_source(task.into(), SourceId::new("http://client"));
    let output = runtime.start("bench.run", input).run().await?.success()?;
    Ok(output.peek()["text"].as_str().unwrap_or_default().to_owned())
}

async fn run(State(runtime): State<Arc<Runtime>>, Json(task): Json<Task>) -> Response {
    let (client, frames) = mpsc::unbounded_channel();
    tokio::spawn(CLIENT.scope(client.clone(), async move {
        match answer(&runtime, task.input).await {
            Ok(output) => tell(&client, "done", &output),
            Err(error) => tell(&client, "failed", &error.to_string()),
        }
    }));
    let frames = stream::unfold(frames, |mut frames| async move {
        let frame = frames.recv().await?;
        Some((Ok::<_, Infallible>(frame), frames))
    });
    ([("content-type", "text/event-stream")], Body::from_stream(frames)).into_response()
}

async fn on(store: &str) -> Result<RuntimeBuilder, Box<dyn std::error::Error>> {
    Ok(if store.starts_with("postgres://") {
        Runtime::builder_on(Arc::new(
            PostgresStore::connect_sized(store, Some(CONNECTIONS_MAX)).await?,
        ))
    } else {
        Runtime::builder_on(Arc::new(RedbStore::open(store)?))
    })
}

async fn sweep(runtime: Arc<Runtime>) {
    let mut ticks = tokio::time::interval(SWEEP_EVERY);
    loop {
        ticks.tick().await;
        if let Err(error) = runtime.sweep(Timestamp::from(SystemTime::now()), EVENT_GRACE).await {
            eprintln!("the sweep failed: {error}");
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = Options::parse();
    let manifest = Manifest::parse(include_str!("../agent.yaml"))?;
    let runtime = on(&options.store)
        .await?
        .provider(
            "chat-completions",
            Arc::new(ChatCompletions::new(&options.common.model_url)?),
        )
        .agent(Agent::new(&manifest))
        .toolbox(ToolBox::new().with::<Lookup>())
        .observe_model_streams(Arc::new(ToClient))
        .try_build()?;
    tokio::spawn(sweep(runtime.clone()));
    chat::serve(options.common.port, post(run).with_state(runtime)).await?;
    Ok(())
}
