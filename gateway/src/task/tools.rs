//! The client tools of a task.

use serde::Deserialize;
use serde_json::{Map, Value};
use steadfast::run::{Agent, ToolSpec};

use super::check_text;
use crate::{body::Object, limits::GatewayLimits, problem::Problem};

const TOOL_NAME_CHARS_MAX: usize = 64;

/// A client tool: plain, or as OpenAI wraps it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolBody {
    r#type: Option<String>,
    function: Option<Object<FunctionBody>>,
    name: Option<String>,
    description: Option<String>,
    parameters: Option<Map<String, Value>>,
    /// Asked of providers that can enforce a schema; the model is told the schema either way.
    #[serde(rename = "strict")]
    _strict: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FunctionBody {
    name: String,
    description: Option<String>,
    parameters: Option<Map<String, Value>>,
    #[serde(rename = "strict")]
    _strict: Option<bool>,
}

pub fn tools(bodies: Vec<Object<ToolBody>>, agent: &Agent, limits: &GatewayLimits) -> Result<Vec<ToolSpec>, Problem> {
    if bodies.len() > limits.tools_max {
        let (given, max) = (bodies.len(), limits.tools_max);
        return Err(Problem::invalid(
            "/tools",
            format!("{given} tools are more than {max} (gateway.tools_max)"),
        ));
    }
    let mut specs: Vec<ToolSpec> = Vec::with_capacity(bodies.len());
    for (at, Object(body)) in bodies.into_iter().enumerate() {
        let (base, spec) = tool(at, body)?;
        let pointer = format!("{base}/name");
        let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        if !(1..=TOOL_NAME_CHARS_MAX).contains(&spec.name.len()) || !spec.name.bytes().all(fits) {
            let detail = format!("a tool's name is 1 to {TOOL_NAME_CHARS_MAX} of a-z A-Z 0-9 _ -");
            return Err(Problem::invalid(pointer, detail));
        }
        if agent.tools.iter().any(|tool| tool.name == spec.name) {
            let detail = format!(
                "agent {:?} has a tool {:?} of its own; give yours another name",
                agent.name, spec.name
            );
            return Err(Problem::invalid(pointer, detail));
        }
        if specs.iter().any(|earlier| earlier.name == spec.name) {
            return Err(Problem::invalid(
                pointer,
                format!("two tools are called {:?}; give each its own name", spec.name),
            ));
        }
        check_text(&format!("{base}/description"), &spec.description)?;
        specs.push(spec);
    }
    Ok(specs)
}

fn tool(at: usize, body: ToolBody) -> Result<(String, ToolSpec), Problem> {
    let pointer = |field: &str| format!("/tools/{at}/{field}");
    if let Some(kind) = body.r#type.filter(|kind| kind != "function") {
        let detail = format!("there is no tool type {kind:?}; the only one is \"function\"");
        return Err(Problem::invalid(pointer("type"), detail));
    }
    let spec = |name: String, description: Option<String>, parameters: Option<Map<String, Value>>| ToolSpec {
        name,
        description: description.unwrap_or_default(),
        parameters: parameters.map_or_else(|| serde_json::json!({"type": "object"}), Value::Object),
    };
    match (body.function, body.name) {
        (Some(Object(function)), None) if body.description.is_none() && body.parameters.is_none() => Ok((
            pointer("function"),
            spec(function.name, function.description, function.parameters),
        )),
        (Some(_), _) => Err(Problem::invalid(
            pointer("function"),
            "give the tool's fields inside function, or beside it, not both",
        )),
        (None, Some(name)) => Ok((format!("/tools/{at}"), spec(name, body.description, body.parameters))),
        (None, None) => Err(Problem::invalid(pointer("name"), "it is missing; name the tool")),
    }
}
