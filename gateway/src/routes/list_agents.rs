//! `GET /v1/agents`: who can be given a task.

use axum::{
    Json,
    extract::{RawQuery, State},
};
use serde::Serialize;
use steadfast::run::{Agent, Amounts, Budget, Limits, agent::Policies};

use crate::{gateway::Gateway, identity::Who, problem::Problem, query::Query, view::List};

#[derive(Serialize)]
pub struct AgentView {
    object: &'static str,
    name: String,
    version: String,
    model: String,
    fallbacks: Vec<String>,
    tools: Vec<String>,
    limits: Limits,
    policies: Policies,
    budget: Option<Budget>,
}

impl From<&Agent> for AgentView {
    fn from(agent: &Agent) -> Self {
        let reference = agent.reference();
        Self {
            object: "agent",
            name: reference.name,
            version: reference.version,
            model: agent.model.clone(),
            fallbacks: agent.fallbacks.clone(),
            tools: agent.tools.iter().map(|tool| tool.name.clone()).collect(),
            limits: agent.limits,
            policies: agent.policies,
            budget: Some(agent.budget).filter(|budget| budget.amounts != Amounts::default()),
        }
    }
}

pub async fn handle(
    State(gateway): State<Gateway>,
    _: Who,
    RawQuery(query): RawQuery,
) -> Result<Json<List<AgentView>>, Problem> {
    Query::read(query.as_deref(), &[])?;
    Ok(Json(List::whole(gateway.agents.iter().map(AgentView::from).collect())))
}
