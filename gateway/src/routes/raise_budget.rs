//! `POST /v1/runs/{id}/budget`: a person raises a run's budget; a run that waited for it goes on.

use axum::{
    extract::{Request, State},
    response::Response,
};
use steadfast::run::{Command, Refusal, RunId};

use crate::{
    body, change, clock, gateway::Gateway, idempotency::Key, identity::Who, problem::Problem, query::PathId,
    task::narrow::AmountsBody,
};

/// The amounts are new totals, not additions: the same request twice raises once.
pub async fn handle(
    State(gateway): State<Gateway>,
    who: Who,
    PathId(run_id): PathId<RunId>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let bytes = body::read(&parts.headers, body, gateway.limits.body_bytes_max).await?;
    let key = Key::of(&parts.headers, &parts.method, parts.uri.path(), &bytes)?;
    let to = body::parse::<AmountsBody>(&bytes)?.read("")?;
    let command = || Command::RaiseBudget {
        now: clock::now(),
        to,
        by: who.by.clone(),
    };
    change::change(&gateway, &who, run_id, key, command, refused).await
}

fn refused(refusal: &Refusal) -> Problem {
    let detail = refusal.to_string();
    match refusal {
        Refusal::AlreadyEnded(_) => Problem::conflict("run_already_ended", detail),
        Refusal::NoSuchBudget(limit) | Refusal::BudgetLowered { limit, .. } => {
            Problem::invalid(format!("/{}", limit.as_str()), detail)
        }
        Refusal::NoAmounts => Problem::invalid("", detail),
        _ => Problem::conflict("budget_refused", detail),
    }
}
