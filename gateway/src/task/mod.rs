//! The body of `POST /v1/runs`, and how it becomes a request to a run.

mod messages;
pub mod narrow;
mod tools;

#[cfg(test)]
mod tests;

use serde::Deserialize;
use serde_json::{Map, Value};
use steadfast::{
    agents::Agents,
    run::{Agent, Limits, Message, Refusal, SessionId, Terms, ToolSpec},
};

use self::{
    messages::{Input, messages},
    narrow::{BudgetBody, LimitsBody},
    tools::{ToolBody, tools},
};
use crate::{
    body::{Object, closest},
    limits::GatewayLimits,
    problem::Problem,
};

const DEFAULT_AGENT: &str = "assistant";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskBody {
    input: Input,
    agent: Option<String>,
    pub session_id: Option<SessionId>,
    tools: Option<Vec<Object<ToolBody>>>,
    pub stream: Option<bool>,
    metadata: Option<Map<String, Value>>,
    limits: Option<Object<LimitsBody>>,
    budget: Option<Object<BudgetBody>>,
}

/// A task that can be requested.
#[derive(Debug)]
pub struct Task<'a> {
    pub agent: &'a Agent,
    pub input: Vec<Message>,
    pub client_tools: Vec<ToolSpec>,
    pub metadata: Value,
    pub limits: Limits,
    pub terms: Terms,
}

impl TaskBody {
    pub fn check<'a>(self, agents: &'a Agents, limits: &GatewayLimits) -> Result<Task<'a>, Problem> {
        let agent = find_agent(agents, self.agent.as_deref().unwrap_or(DEFAULT_AGENT))?;
        let input = messages(self.input, limits)?;
        let client_tools = tools(self.tools.unwrap_or_default(), agent, limits)?;
        let metadata = metadata(self.metadata, limits)?;
        let limits = self
            .limits
            .map_or(Ok(agent.limits), |Object(body)| body.narrow(agent.limits))?;
        let budget = match self.budget {
            Some(Object(body)) => body.narrow(agent)?,
            None => agent.budget,
        };
        let terms = Terms {
            policies: agent.policies,
            budget,
            price: agent.price,
            prompt_bytes: prompt_bytes(agent, &client_tools),
        };
        Ok(Task {
            agent,
            input,
            client_tools,
            metadata,
            limits,
            terms,
        })
    }
}

/// What the model is shown besides messages. The worker's own tools are not known here; they are short.
fn prompt_bytes(agent: &Agent, client_tools: &[ToolSpec]) -> u64 {
    let tool = |tool: &ToolSpec| tool.name.len() + tool.description.len() + tool.parameters.to_string().len();
    (agent.instructions.len() + client_tools.iter().map(tool).sum::<usize>()) as u64
}

/// Why a run cannot be requested, as the client should see it.
pub fn refused(refusal: &Refusal) -> Problem {
    let pointer = match refusal {
        Refusal::DuplicateTool(_) => "/tools",
        _ => "/input",
    };
    Problem::invalid(pointer, refusal.to_string())
}

fn find_agent<'a>(agents: &'a Agents, name: &str) -> Result<&'a Agent, Problem> {
    agents.get(name).ok_or_else(|| {
        let known: Vec<&str> = agents.iter().map(|agent| agent.name.as_str()).collect();
        let name: String = name.chars().take(60).collect();
        let hint = closest(&name, &known)
            .map(|close| format!("; did you mean {close:?}?"))
            .unwrap_or_else(|| ".".into());
        let detail = format!("there is no agent {name:?}{hint} The agents are: {}.", known.join(", "));
        Problem::invalid("/agent", detail).code("unknown_agent")
    })
}

/// NUL is the one character of JSON that databases do not keep in text.
pub fn check_text(pointer: &str, text: &str) -> Result<(), Problem> {
    if text.contains('\0') {
        return Err(Problem::invalid(
            pointer,
            "it holds the character U+0000, which is not stored; leave it out",
        ));
    }
    Ok(())
}

pub fn metadata(given: Option<Map<String, Value>>, limits: &GatewayLimits) -> Result<Value, Problem> {
    let Some(given) = given.filter(|given| !given.is_empty()) else {
        return Ok(Value::Null);
    };
    let value = Value::Object(given);
    let bytes = value.to_string().len();
    if bytes > limits.metadata_bytes_max {
        let max = limits.metadata_bytes_max;
        let detail = format!("it is {bytes} bytes long, more than {max} (gateway.metadata_bytes_max); shorten it");
        return Err(Problem::invalid("/metadata", detail));
    }
    Ok(value)
}
