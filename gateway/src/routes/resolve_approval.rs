//! `POST /v1/runs/{id}/approvals/{approval_id}/resolve`: a person decides what a run waits for.

use axum::{
    extract::{Path, Request, State},
    http::StatusCode,
    response::Response,
};
use serde::Deserialize;
use serde_json::Value;
use steadfast::run::{ApprovalId, Command, Decision, Refusal, RunId};

use super::{
    cancel_run::check_reason,
    submit_tool_outputs::{as_text, given},
};
use crate::{
    body, change, clock, gateway::Gateway, idempotency::Key, identity::Who, problem::Problem, task::check_text,
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DecisionBody {
    decision: Word,
    /// Why not; with `deny`.
    reason: Option<String>,
    /// What the tool call came to; with `edit`.
    #[serde(default, deserialize_with = "given")]
    output: Option<Value>,
    /// Of the call the decision is about, so that nobody decides on another than the one they saw.
    arguments_sha256: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    Allow,
    Deny,
    Edit,
}

pub async fn handle(
    State(gateway): State<Gateway>,
    who: Who,
    Path((run_id, approval_id)): Path<(String, String)>,
    request: Request,
) -> Result<Response, Problem> {
    let run_id: RunId = run_id.parse().map_err(|_| Problem::no_such_run(&run_id))?;
    let (parts, body) = request.into_parts();
    let bytes = body::read(&parts.headers, body, gateway.limits.body_bytes_max).await?;
    let key = Key::of(&parts.headers, &parts.method, parts.uri.path(), &bytes)?;
    let DecisionBody {
        decision,
        reason,
        output,
        arguments_sha256,
    } = body::parse(&bytes)?;
    let decision = read(decision, reason, output)?;
    // Whose run it is comes before which of its approvals there are.
    gateway.load(&who, run_id).await?;
    let approval_id: ApprovalId = (approval_id.parse()).map_err(|_| no_such_approval(&approval_id).of_run(run_id))?;
    let command = || Command::ResolveApproval {
        now: clock::now(),
        approval_id,
        arguments_sha256: arguments_sha256.clone(),
        decision: decision.clone(),
        by: who.by.clone(),
    };
    change::change(&gateway, &who, run_id, key, command, refused).await
}

fn read(word: Word, reason: Option<String>, output: Option<Value>) -> Result<Decision, Problem> {
    if reason.is_some() && word != Word::Deny {
        return Err(Problem::invalid(
            "/reason",
            "a reason is given with \"deny\" only; leave it out",
        ));
    }
    if output.is_some() && word != Word::Edit {
        return Err(Problem::invalid(
            "/output",
            "an output is given with \"edit\" only; leave it out",
        ));
    }
    match (word, output) {
        (Word::Allow, _) => Ok(Decision::Allow),
        (Word::Deny, _) => {
            check_reason(reason.as_deref())?;
            Ok(Decision::Deny { reason })
        }
        (Word::Edit, Some(output)) => {
            let output = as_text(output);
            check_text("/output", &output)?;
            Ok(Decision::Edit { output })
        }
        (Word::Edit, None) => Err(Problem::invalid(
            "/output",
            "it is missing; say what the tool call came to",
        )),
    }
}

fn no_such_approval(id: &str) -> Problem {
    let id: String = id.chars().take(80).collect();
    let detail = format!("this run has asked for no approval {id:?}; GET /v1/runs/{{id}}/approvals lists them");
    Problem::not_found("approval_not_found", detail)
}

fn refused(refusal: &Refusal) -> Problem {
    let detail = refusal.to_string();
    match refusal {
        Refusal::UnknownApproval(id) => no_such_approval(&id.to_string()),
        Refusal::AlreadyEnded(_) => Problem::conflict("run_already_ended", detail),
        Refusal::DecisionDiffers(_) => Problem::conflict("decision_differs", detail),
        Refusal::OtherArguments(_) => {
            Problem::conflict("arguments_differ", detail.clone()).at("/arguments_sha256", detail)
        }
        Refusal::NothingToEdit(_) => Problem::invalid("/decision", detail),
        _ => Problem::new(StatusCode::CONFLICT, "approval_refused", detail),
    }
}
