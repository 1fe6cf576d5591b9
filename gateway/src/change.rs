//! Adding facts to a run that exists: cancels and tool outputs.
//!
//! The worker may add facts at the same moment. Whoever loses the race reads what came in between and decides again,
//! so a client's post is never lost to a race and never taken twice.

use axum::{http::StatusCode, response::Response};
use steadfast::{
    crash::{self, Point},
    run::{Command, Event, Refusal, RunId, Status, decide},
    store::{Append, Appended, Lease, Loaded, Outcome},
};

use crate::{
    announce::{self, News},
    clock,
    gateway::Gateway,
    idempotency::{self, Key, json},
    identity::Who,
    limits::{APPEND_PATIENCE, DECISIONS_MAX},
    problem::Problem,
    view::RunView,
};

/// Carries out a command and answers with the run as it is then. `refused` says what a refusal means for the client.
pub async fn change(
    gateway: &Gateway,
    who: &Who,
    run_id: RunId,
    key: Option<Key>,
    command: impl Fn() -> Command,
    refused: impl Fn(&Refusal) -> Problem,
) -> Result<Response, Problem> {
    if let Some(key) = &key
        && let Some(earlier) = key.earlier(gateway, who).await?
    {
        tell_again(gateway, who, run_id);
        return Ok(idempotency::again(earlier));
    }
    let mut loaded = gateway.load(who, run_id).await?;
    for _ in 0..DECISIONS_MAX {
        let events = decide(&loaded.run, command()).map_err(|refusal| refused(&refusal).of_run(run_id))?;
        if events.is_empty() {
            if loaded.run.status() == Status::Queued {
                tell_again(gateway, who, run_id);
            }
            return Ok(json(StatusCode::OK, render(&loaded)?));
        }
        let (append, body) = prepare(gateway, &loaded, events, key.as_ref())?;
        let status = append.status;
        match gateway.store.appender.append(append).await? {
            Outcome::Appended(appended) => {
                crash::at(Point::InputAfter);
                tell(gateway, run_id, who, status, &appended);
                return Ok(json(StatusCode::OK, body));
            }
            Outcome::Conflict => gateway.store.reader.refresh(&mut loaded).await?,
            Outcome::KeyUsed { fingerprint, answer } => {
                let Some(key) = &key else { break };
                tell_again(gateway, who, run_id);
                return key.replay(&fingerprint, answer).map(idempotency::again);
            }
            Outcome::NoSuchSession => break,
        }
    }
    Err(Problem::unavailable("the run is changing too fast; try again").of_run(run_id))
}

/// The append, and the answer that is true once it has happened.
fn prepare(
    gateway: &Gateway,
    loaded: &Loaded,
    events: Vec<Event>,
    key: Option<&Key>,
) -> Result<(Append, String), Problem> {
    let now = clock::now();
    let mut after = loaded.clone();
    for event in &events {
        after.run = after.run.evolve(event);
    }
    after.head.updated_at = now;
    let body = render(&after)?;
    let status = after.run.status();
    let lease = match status {
        Status::Queued => Lease::Release {
            due_in: Some(gateway.limits.claim_within()),
        },
        status if status.is_terminal() => Lease::Release { due_in: None },
        _ => Lease::Keep,
    };
    let append = Append {
        run_id: loaded.head.run_id,
        tenant: loaded.head.tenant.clone(),
        expected_version: loaded.run.version,
        expected_epoch: loaded.head.epoch,
        prev_hash: loaded.hash,
        time: now,
        events,
        status,
        usage: after.run.usage,
        lease,
        accept: None,
        idempotency: key.map(|key| key.with_answer(StatusCode::OK, &body)),
        patience: APPEND_PATIENCE,
    };
    Ok((append, body))
}

fn tell(gateway: &Gateway, run_id: RunId, who: &Who, status: Status, appended: &Appended) {
    let mut news = News::of(run_id, &who.tenant, appended);
    if status == Status::Waiting {
        // Some outputs are still missing: there is nothing to do for a worker.
        news.commands.clear();
    }
    news.frames = appended.events.iter().map(announce::frame).collect();
    news.changed = Some(run_id);
    gateway.announcer.tell(news);
}

/// A client that posts again may do so because the process that took its first post died before it told anyone.
fn tell_again(gateway: &Gateway, who: &Who, run_id: RunId) {
    gateway.announcer.tell(News {
        commands: vec![announce::again(run_id, &who.tenant)],
        changed: Some(run_id),
        ..News::default()
    });
}

pub fn render(loaded: &Loaded) -> Result<String, Problem> {
    let view = RunView::loaded(loaded);
    let view = view.ok_or_else(|| Problem::internal(format!("run {} has no request", loaded.head.run_id)))?;
    serde_json::to_string(&view).map_err(|error| Problem::internal(error.to_string()))
}
