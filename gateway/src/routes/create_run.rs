//! `POST /v1/runs`: a task becomes a run. Accepted means committed.

use axum::{
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use steadfast::{
    crash::{self, Point},
    metrics,
    run::{Command, Event, Run, RunId, SessionId, Status, Time, Usage, command, decide},
    store::{Accept, Append, GENESIS, Idempotency, Lease, Outcome, StoredAnswer},
};

use super::stream_events;
use crate::{
    announce::{self, News},
    body, clock,
    demand::Admission,
    gateway::Gateway,
    idempotency::{self, Key, json},
    identity::Who,
    limits::APPEND_PATIENCE,
    problem::Problem,
    stream::follow::Follower,
    task::{self, Task, TaskBody},
    view::RunView,
};

pub async fn handle(State(gateway): State<Gateway>, who: Who, request: Request) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    // Before the body is read: what is refused costs next to nothing. A post with a key may be one that was accepted.
    let admission = match gateway.demand.admit(&who.tenant, &gateway.limits) {
        Err(refusal) if !idempotency::has_key(&parts.headers) => return Err(refusal),
        admission => admission,
    };
    let bytes = body::read(&parts.headers, body, gateway.limits.body_bytes_max).await?;
    let key = Key::of(&parts.headers, &parts.method, parts.uri.path(), &bytes)?;
    let body: TaskBody = body::parse(&bytes)?;
    let (stream, session) = (body.stream.unwrap_or(false), body.session_id);
    let admission = match (admission, &key) {
        (Err(refusal), Some(key)) => {
            let earlier = key.earlier(&gateway, &who).await?.ok_or(refusal)?;
            return replay(&gateway, &who, earlier, stream).await;
        }
        (admission, _) => admission?,
    };
    let task = body.check(&gateway.agents, &gateway.limits)?;
    if let Some(session_id) = session {
        let found = gateway.store.reader.session(&who.tenant, session_id).await?;
        found.ok_or_else(|| no_such_session(session_id))?;
    }
    gateway.keep_agents().await?;

    let run_id = RunId(clock::new_id());
    // Room for the stream is taken, and the feed watched, before the run exists: nothing of it can be missed.
    let watch = if stream {
        let slot = gateway.slots.take(&who.tenant)?;
        Some((gateway.watch(run_id).await, slot))
    } else {
        None
    };
    let request = ask(&gateway, task, session, key.as_ref());
    let now = request.now;
    // Without a queue the workers still find what is in a line.
    let held = admission == Admission::Held || !gateway.announcer.can_command();
    let accept = Accept {
        session_id: request.session_id,
        new_session: session.is_none(),
        agent: request.agent.name.clone(),
        claim_within: gateway.limits.claim_within(),
        held,
    };
    let agent = accept.agent.clone();
    let events = decide(&Run::default(), Command::Request(request)).map_err(|refusal| task::refused(&refusal))?;
    // A stream answers with the events themselves; only a key needs the other answer kept.
    let answer = if stream && key.is_none() {
        String::new()
    } else {
        answer(run_id, now, &events)?
    };
    let idempotency = key.as_ref().map(|key| key.with_answer(StatusCode::ACCEPTED, &answer));
    let append = first_append(&who, run_id, now, events, accept, idempotency);
    crash::at(Point::AcceptBefore);
    match gateway.store.appender.append(append).await? {
        Outcome::Appended(appended) => {
            crash::at(Point::AcceptAfter);
            metrics::runs().accepted.with_label_values(&[&agent]).inc();
            // Nobody else knows the run yet: whoever learns of it from the answer reads this event in the store, so
            // the feed need not carry it.
            if held {
                metrics::flow().joined.with_label_values(&["gateway"]).inc();
            } else {
                gateway.announcer.tell(News::of(run_id, &who.tenant, &appended));
            }
            Ok(match watch {
                Some((subscription, slot)) => {
                    let written = appended.events.iter().map(announce::frame).collect();
                    let follower = Follower::from_start(gateway.sources(), run_id, written, subscription, slot);
                    located(stream_events::respond(follower), run_id)
                }
                None => located(json(StatusCode::ACCEPTED, answer), run_id),
            })
        }
        Outcome::KeyUsed { fingerprint, answer } => {
            drop(watch);
            let key = key.ok_or_else(|| Problem::internal("an append without a key met a used key"))?;
            replay(&gateway, &who, key.replay(&fingerprint, answer)?, stream).await
        }
        Outcome::NoSuchSession => {
            Err(session.map_or_else(|| Problem::internal("a new session was not found"), no_such_session))
        }
        Outcome::Conflict => Err(Problem::unavailable("the run could not be written; try again")),
    }
}

fn no_such_session(id: SessionId) -> Problem {
    let problem = Problem::no_such_session(&id.to_string());
    problem.at(
        "/session_id",
        "no session of yours has this id; leave it out to begin a new one",
    )
}

fn ask(gateway: &Gateway, task: Task<'_>, session: Option<SessionId>, key: Option<&Key>) -> command::Request {
    command::Request {
        now: clock::now(),
        agent: gateway.version_of(task.agent),
        model: task.agent.model.clone(),
        fallbacks: task.agent.fallbacks.clone(),
        server_tools: task.agent.tools.clone(),
        client_tools: task.client_tools,
        limits: task.limits,
        terms: Box::new(task.terms),
        session_id: session.unwrap_or_else(|| SessionId(clock::new_id())),
        continues_session: session.is_some(),
        input: task.input,
        metadata: task.metadata,
        idempotency_key: key.map(|key| key.key.clone()),
    }
}

fn first_append(
    who: &Who,
    run_id: RunId,
    now: Time,
    events: Vec<Event>,
    accept: Accept,
    idempotency: Option<Idempotency>,
) -> Append {
    Append {
        run_id,
        tenant: who.tenant.clone(),
        expected_version: 0,
        expected_epoch: 0,
        prev_hash: GENESIS,
        time: now,
        events,
        status: Status::Queued,
        usage: Usage::default(),
        lease: Lease::Release {
            due_in: Some(accept.claim_within),
        },
        accept: Some(accept),
        idempotency,
        patience: APPEND_PATIENCE,
    }
}

/// The run as it is once its first event is written.
fn answer(run_id: RunId, now: Time, events: &[Event]) -> Result<String, Problem> {
    let run = Run::fold(events);
    let view = RunView::of(run_id, &run, now, None).ok_or_else(|| Problem::internal("a request left no trace"))?;
    serde_json::to_string(&view).map_err(|error| Problem::internal(error.to_string()))
}

/// The same request came again: the same answer, or the same stream from its start.
async fn replay(gateway: &Gateway, who: &Who, answer: StoredAnswer, stream: bool) -> Result<Response, Problem> {
    let run_id = serde_json::from_str::<Answered>(&answer.body)
        .map_err(|error| Problem::internal(format!("a stored answer does not read: {error}")))?
        .id;
    // The process that took the first post may have died before it told a worker.
    gateway.announcer.tell(News {
        commands: vec![announce::again(run_id, &who.tenant)],
        ..News::default()
    });
    let response = if stream {
        stream_events::from_start(gateway, who, run_id).await?
    } else {
        return Ok(located(idempotency::again(answer), run_id));
    };
    Ok(idempotency::mark(located(response, run_id)))
}

#[derive(serde::Deserialize)]
struct Answered {
    id: RunId,
}

/// Where the run is: relative, so that following it never leads elsewhere.
fn located(mut response: Response, run_id: RunId) -> Response {
    if let Ok(location) = HeaderValue::try_from(format!("/v1/runs/{run_id}")) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}
