//! `GET /v1/runs/{id}/approvals`: what people were asked about a run, and what they said.

use axum::{
    Json,
    extract::{RawQuery, State},
};
use serde::Serialize;
use steadfast::run::{Approval, ApprovalId, Decision, Question, RunId};

use crate::{
    gateway::Gateway,
    identity::Who,
    problem::Problem,
    query::{PathId, Query},
    view::List,
};

#[derive(Serialize)]
pub struct ApprovalView {
    id: ApprovalId,
    object: &'static str,
    run_id: RunId,
    status: &'static str,
    #[serde(flatten)]
    question: Question,
    #[serde(flatten)]
    decision: Option<Decision>,
    by: Option<String>,
}

impl ApprovalView {
    fn of(run_id: RunId, approval: &Approval) -> Self {
        let resolution = approval.resolution.clone();
        let decision = resolution.as_ref().map(|resolution| resolution.decision.clone());
        Self {
            id: approval.id,
            object: "approval",
            run_id,
            status: match decision {
                None => "pending",
                Some(Decision::Allow | Decision::Edit { .. }) => "granted",
                Some(Decision::Deny { .. }) => "denied",
            },
            question: approval.question.clone(),
            decision,
            by: resolution.map(|resolution| resolution.by),
        }
    }
}

pub async fn handle(
    State(gateway): State<Gateway>,
    who: Who,
    PathId(run_id): PathId<RunId>,
    RawQuery(query): RawQuery,
) -> Result<Json<List<ApprovalView>>, Problem> {
    Query::read(query.as_deref(), &[])?;
    let loaded = gateway.load(&who, run_id).await?;
    let view = |approval| ApprovalView::of(run_id, approval);
    Ok(Json(List::whole(loaded.run.approvals.iter().map(view).collect())))
}
