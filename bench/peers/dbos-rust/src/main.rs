//! The workload as a DBOS workflow in Rust: every model call and the tool call are steps. Behind HTTP, as a user would
//! have it. `DBOS_DATABASE_URL` says where its Postgres is.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode, routing::post};
use chat::{Args, Model, Task};
use clap::Parser;
use dbos::{Config, DBOS, WorkflowRef, step};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Twice the default, as many as the Python SDK has.
const CONNECTIONS_MAX: u32 = 20;

#[derive(Debug, thiserror::Error, Serialize, Deserialize)]
#[error("{0}")]
struct Failed(String);

type Agent = WorkflowRef<String, String, Failed>;

async fn agent(model: Arc<Model>, task: String) -> dbos::Result<String, Failed> {
    let mut messages = chat::conversation(&task);
    loop {
        let sent = &messages;
        let reply: Value = step("model", || async {
            let reply = model.reply(sent).await.map_err(|e| Failed(e.to_string()))?;
            Ok::<_, dbos::Error<Failed>>(reply)
        })
        .await?;
        let calls = chat::tool_calls(&reply);
        if calls.is_empty() {
            return Ok(reply["content"].as_str().unwrap_or_default().to_owned());
        }
        messages.push(reply);
        for call in &calls {
            let found: String = step("lookup", || async {
                let found = chat::lookup(call).map_err(|e| Failed(e.to_string()))?;
                Ok::<_, dbos::Error<Failed>>(found)
            })
            .await?;
            messages.push(chat::tool_message(call, found));
        }
    }
}

async fn run(State(agent): State<Agent>, Json(task): Json<Task>) -> Result<Json<Value>, (StatusCode, String)> {
    match agent.run(task.input).await {
        Ok(output) => Ok(Json(json!({ "output": output }))),
        Err(e) => Err((StatusCode::INTERNAL_SERVER_ERROR, e.to_string())),
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let model = Arc::new(Model::new(&args.model_url)?);
    let dbos = DBOS::new(Config {
        app_version: Some(env!("CARGO_PKG_VERSION").into()),
        max_connections: CONNECTIONS_MAX,
        ..Config::from_env("side-by-side")
    });
    let workflow: Agent = dbos.register_workflow("agent", move |task| agent(model.clone(), task))?;
    dbos.launch().await?;
    chat::serve(args.port, post(run).with_state(workflow)).await?;
    Ok(())
}
