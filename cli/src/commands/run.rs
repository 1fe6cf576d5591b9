//! `steadfast run`: a task, watched to its end.

use std::process::ExitCode;

use serde_json::json;

use super::yes_or_no;
use crate::{
    args,
    client::{
        Client,
        follow::{Start, follow},
    },
    config::Settings,
    edge,
    error::{Context, Failure},
    output,
    render::{Screen, Verdict},
    shutdown::EXIT_INTERRUPTED,
};

pub async fn run(settings: &Settings, args: args::Run) -> Result<ExitCode, Failure> {
    let client = Client::new(settings.client(args.server.url.as_deref(), args.server.api_key.as_deref()))?;
    let mut body = json!({"input": args.task, "stream": true});
    if let Some(agent) = args.agent {
        body["agent"] = agent.into();
    }
    if let Some(session) = args.session {
        body["session_id"] = session.into();
    }
    let idempotency_key = format!("cli-{}", edge::new_id());
    watch(
        &client,
        Start::Task {
            body: &body,
            idempotency_key,
        },
        args.json,
    )
    .await
}

/// Watches a run until it ends, or until the watcher has seen enough.
pub async fn watch(client: &Client, start: Start<'_>, json: bool) -> Result<ExitCode, Failure> {
    let mut screen = Screen::new(json);
    let ended = tokio::select! {
        ended = follow(client, start, |update| screen.show(update)) => Some(ended?),
        interrupted = tokio::signal::ctrl_c() => {
            interrupted.context("listening for Ctrl-C")?;
            None
        }
    };
    screen.end_line()?;
    if ended.is_some() {
        // Nothing left to see is how a run looks that ended before: no news, and no failure.
        return Ok(yes_or_no(matches!(screen.verdict, Some(Verdict::Completed) | None)));
    }
    match (&screen.run_id, &screen.cursor) {
        (Some(id), Some(cursor)) => {
            output::note(&format!(
                "the run goes on. Watch it again: steadfast runs tail {id} --after {cursor}"
            ));
            output::note(&format!("or stop it:                     steadfast runs cancel {id}"));
        }
        _ => output::note("stopped before the task was accepted; see `steadfast runs list`"),
    }
    Ok(ExitCode::from(EXIT_INTERRUPTED))
}
