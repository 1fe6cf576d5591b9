//! `POST /v1/runs/{id}/tool_outputs`: the client posts what its tools returned.

use axum::{
    extract::{Request, State},
    http::StatusCode,
    response::Response,
};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use steadfast::run::{Command, Refusal, RunId, ToolOutput};

use crate::{
    body::{self, Object},
    change, clock,
    gateway::Gateway,
    idempotency::Key,
    identity::Who,
    problem::Problem,
    query::PathId,
    task::check_text,
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OutputsBody {
    outputs: Vec<Object<OutputBody>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OutputBody {
    tool_call_id: String,
    /// Text, or any JSON, which the model is shown as it is.
    #[serde(default, deserialize_with = "given")]
    output: Option<Value>,
    error: Option<String>,
}

/// Tells `null` from nothing.
pub fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// An output as the model is shown it.
pub fn as_text(output: Value) -> String {
    match output {
        Value::String(text) => text,
        other => other.to_string(),
    }
}

pub async fn handle(
    State(gateway): State<Gateway>,
    who: Who,
    PathId(run_id): PathId<RunId>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let bytes = body::read(&parts.headers, body, gateway.limits.body_bytes_max).await?;
    let key = Key::of(&parts.headers, &parts.method, parts.uri.path(), &bytes)?;
    let outputs = read(body::parse(&bytes)?)?;
    let command = || Command::SubmitToolOutputs {
        now: clock::now(),
        outputs: outputs.clone(),
    };
    change::change(&gateway, &who, run_id, key, command, |refusal| {
        refused(refusal, &outputs)
    })
    .await
}

fn read(body: OutputsBody) -> Result<Vec<ToolOutput>, Problem> {
    let read = |(at, Object(output)): (usize, Object<OutputBody>)| {
        let pointer = |field: &str| format!("/outputs/{at}/{field}");
        let outcome = match (output.output, output.error) {
            (Some(output), None) => Ok(as_text(output)),
            (None, Some(error)) => Err(error),
            (None, None) => {
                return Err(Problem::invalid(
                    pointer("output"),
                    "it is missing; give output, or error",
                ));
            }
            (Some(_), Some(_)) => return Err(Problem::invalid(pointer("error"), "give output or error, not both")),
        };
        check_text(&pointer("output"), outcome.as_ref().unwrap_or_else(|error| error))?;
        Ok(ToolOutput {
            tool_call_id: output.tool_call_id,
            outcome,
        })
    };
    body.outputs.into_iter().enumerate().map(read).collect()
}

fn refused(refusal: &Refusal, outputs: &[ToolOutput]) -> Problem {
    let detail = refusal.to_string();
    let pointer = |id: &str| {
        let at = outputs
            .iter()
            .rposition(|output| output.tool_call_id == id)
            .unwrap_or(0);
        format!("/outputs/{at}/tool_call_id")
    };
    match refusal {
        Refusal::AlreadyEnded(_) => Problem::conflict("run_already_ended", detail),
        Refusal::OutputDiffers(id) => Problem::conflict("output_differs", detail.clone()).at(pointer(id), detail),
        Refusal::UnknownToolCall(id) => {
            let remedy = format!("{detail}; waiting_on of GET /v1/runs/{{id}} lists the calls that are open");
            Problem::not_found("unknown_tool_call", remedy.clone()).at(pointer(id), remedy)
        }
        Refusal::NotAClientTool(id) | Refusal::DuplicateOutput(id) => Problem::invalid(pointer(id), detail),
        Refusal::NoOutputs => Problem::invalid("/outputs", detail),
        _ => Problem::new(StatusCode::CONFLICT, "nothing_to_do", detail),
    }
}
