//! The body of `POST /v1/runs`, and how it becomes a request to a run.

use serde::{Deserialize, Deserializer, de};
use serde_json::{Map, Value};
use steadfast::{
    agents::Agents,
    run::{Agent, Limits, Message, Refusal, SessionId, ToolCall, ToolSpec},
};

use crate::{
    body::{Object, closest},
    limits::GatewayLimits,
    problem::Problem,
};

const DEFAULT_AGENT: &str = "assistant";
const TOOL_NAME_CHARS_MAX: usize = 64;

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
}

/// Text, or messages.
#[derive(Debug)]
enum Input {
    Text(String),
    Messages(Vec<Object<MessageBody>>),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MessageBody {
    role: Role,
    content: Option<String>,
    tool_calls: Option<Vec<Object<ToolCallBody>>>,
    tool_call_id: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Role {
    System,
    User,
    Assistant,
    Tool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ToolCallBody {
    id: String,
    name: String,
    arguments: String,
}

/// A client tool: plain, or as OpenAI wraps it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ToolBody {
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

/// Narrower walls than the agent's, by the names the agent's file uses.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitsBody {
    steps_max: Option<u32>,
    run_seconds_max: Option<u64>,
    output_tokens_max: Option<u32>,
    model_attempts_max: Option<u32>,
    claims_max: Option<u32>,
    history_turns_max: Option<u32>,
    history_chars_max: Option<u32>,
}

/// A task that can be requested.
#[derive(Debug)]
pub struct Task<'a> {
    pub agent: &'a Agent,
    pub input: Vec<Message>,
    pub client_tools: Vec<ToolSpec>,
    pub metadata: Value,
    pub limits: Limits,
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
        Ok(Task {
            agent,
            input,
            client_tools,
            metadata,
            limits,
        })
    }
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
            .unwrap_or_default();
        let detail = format!("there is no agent {name:?}{hint} The agents are: {}", known.join(", "));
        Problem::invalid("/agent", detail).code("unknown_agent")
    })
}

fn messages(input: Input, limits: &GatewayLimits) -> Result<Vec<Message>, Problem> {
    let messages = match input {
        Input::Text(text) => {
            check_text("/input", &text)?;
            vec![Message::user(text)]
        }
        Input::Messages(bodies) if bodies.len() > limits.messages_max => {
            let (given, max) = (bodies.len(), limits.messages_max);
            return Err(Problem::invalid(
                "/input",
                format!("{given} messages are more than {max} (limits.messages_max)"),
            ));
        }
        Input::Messages(bodies) => conversation(bodies)?,
    };
    let bytes: usize = messages.iter().map(|message| message.content().len()).sum();
    if bytes > limits.input_bytes_max {
        let max = limits.input_bytes_max;
        let detail = format!("the text is {bytes} bytes long, more than {max} (limits.input_bytes_max); shorten it");
        return Err(Problem::invalid("/input", detail).code("input_too_large"));
    }
    match messages.last() {
        None => Err(Problem::invalid("/input", "it is empty; give at least one message")),
        Some(Message::User { content }) if content.trim().is_empty() => {
            Err(Problem::invalid("/input", "it is empty; say what is to be done"))
        }
        Some(_) => Ok(messages),
    }
}

fn conversation(bodies: Vec<Object<MessageBody>>) -> Result<Vec<Message>, Problem> {
    let mut messages = Vec::with_capacity(bodies.len());
    let mut called: Vec<String> = Vec::new();
    for (at, Object(body)) in bodies.into_iter().enumerate() {
        let pointer = |field: &str| format!("/input/{at}/{field}");
        check_text(&pointer("content"), body.content.as_deref().unwrap_or_default())?;
        if body.tool_calls.is_some() && body.role != Role::Assistant {
            return Err(Problem::invalid(
                pointer("tool_calls"),
                "only messages of the role assistant have tool calls",
            ));
        }
        if body.tool_call_id.is_some() && body.role != Role::Tool {
            return Err(Problem::invalid(
                pointer("tool_call_id"),
                "only messages of the role tool answer a tool call",
            ));
        }
        let calls = body.tool_calls.unwrap_or_default();
        if body.content.is_none() && calls.is_empty() {
            return Err(Problem::invalid(
                pointer("content"),
                "it is missing; give the text of the message",
            ));
        }
        let content = body.content.unwrap_or_default();
        messages.push(match body.role {
            Role::System => Message::System { content },
            Role::User => Message::User { content },
            Role::Assistant => {
                let tool_calls: Vec<ToolCall> = (calls.into_iter())
                    .map(|Object(ToolCallBody { id, name, arguments })| ToolCall { id, name, arguments })
                    .collect();
                called.extend(tool_calls.iter().map(|call| call.id.clone()));
                Message::Assistant { content, tool_calls }
            }
            Role::Tool => {
                let Some(tool_call_id) = body.tool_call_id else {
                    return Err(Problem::invalid(
                        pointer("tool_call_id"),
                        "it is missing; name the call that is answered",
                    ));
                };
                if !called.contains(&tool_call_id) {
                    let detail = format!("no assistant message before it makes a tool call {tool_call_id:?}");
                    return Err(Problem::invalid(pointer("tool_call_id"), detail));
                }
                Message::Tool { tool_call_id, content }
            }
        });
    }
    Ok(messages)
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

fn tools(bodies: Vec<Object<ToolBody>>, agent: &Agent, limits: &GatewayLimits) -> Result<Vec<ToolSpec>, Problem> {
    if bodies.len() > limits.tools_max {
        let (given, max) = (bodies.len(), limits.tools_max);
        return Err(Problem::invalid(
            "/tools",
            format!("{given} tools are more than {max} (limits.tools_max)"),
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

pub fn metadata(given: Option<Map<String, Value>>, limits: &GatewayLimits) -> Result<Value, Problem> {
    let Some(given) = given.filter(|given| !given.is_empty()) else {
        return Ok(Value::Null);
    };
    let value = Value::Object(given);
    let bytes = value.to_string().len();
    if bytes > limits.metadata_bytes_max {
        let max = limits.metadata_bytes_max;
        let detail = format!("it is {bytes} bytes long, more than {max} (limits.metadata_bytes_max); shorten it");
        return Err(Problem::invalid("/metadata", detail));
    }
    Ok(value)
}

impl LimitsBody {
    fn narrow(self, agents: Limits) -> Result<Limits, Problem> {
        fn lower<T: Into<u64> + Copy>(name: &str, asked: Option<T>, max: T, min: u64) -> Result<T, Problem> {
            let Some(asked) = asked else { return Ok(max) };
            if (min..=max.into()).contains(&asked.into()) {
                return Ok(asked);
            }
            let detail = format!(
                "it may be {min} to {}: a task may only lower its agent's limit",
                max.into()
            );
            Err(Problem::invalid(format!("/limits/{name}"), detail))
        }
        Ok(Limits {
            steps_max: lower("steps_max", self.steps_max, agents.steps_max, 1)?,
            run_seconds_max: lower("run_seconds_max", self.run_seconds_max, agents.run_seconds_max, 1)?,
            output_tokens_max: lower("output_tokens_max", self.output_tokens_max, agents.output_tokens_max, 1)?,
            model_attempts_max: lower(
                "model_attempts_max",
                self.model_attempts_max,
                agents.model_attempts_max,
                1,
            )?,
            claims_max: lower("claims_max", self.claims_max, agents.claims_max, 1)?,
            history_turns_max: lower("history_turns_max", self.history_turns_max, agents.history_turns_max, 0)?,
            history_chars_max: lower("history_chars_max", self.history_chars_max, agents.history_chars_max, 0)?,
        })
    }
}

impl<'de> Deserialize<'de> for Input {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Input;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a text or a list of messages")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Input, E> {
                Ok(Input::Text(text.into()))
            }

            fn visit_string<E: de::Error>(self, text: String) -> Result<Input, E> {
                Ok(Input::Text(text))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, seq: A) -> Result<Input, A::Error> {
                Vec::deserialize(de::value::SeqAccessDeserializer::new(seq)).map(Input::Messages)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::body;

    fn agents() -> Agents {
        Agents::load(None, &BTreeMap::from([("clock".into(), true)])).expect("the built-in agent")
    }

    fn check(json: &str) -> Result<(Vec<Message>, Vec<ToolSpec>, Limits), Problem> {
        let agents = agents();
        let body: TaskBody = body::parse(json.as_bytes())?;
        let task = body.check(
            &agents,
            &GatewayLimits {
                messages_max: 4,
                metadata_bytes_max: 40,
                ..Default::default()
            },
        )?;
        Ok((task.input, task.client_tools, task.limits))
    }

    fn pointer(json: &str) -> String {
        let problem = check(json).err().unwrap_or_else(|| panic!("{json} was taken"));
        assert!(problem.status().is_client_error(), "{problem:?}");
        problem
            .errors()
            .first()
            .map(|error| error.pointer.clone())
            .unwrap_or_default()
    }

    #[test]
    fn a_text_and_a_list_of_messages_are_taken() {
        assert_eq!(check(r#"{"input":"hi"}"#).expect("a text").0, [Message::user("hi")]);
        let (input, ..) = check(
            r#"{"input":[{"role":"system","content":"be brief"},
                {"role":"assistant","tool_calls":[{"id":"c1","name":"f","arguments":"{}"}]},
                {"role":"tool","tool_call_id":"c1","content":"42"},{"role":"user","content":"so?"}]}"#,
        )
        .expect("messages");
        assert_eq!(
            input.iter().map(Message::role).collect::<Vec<_>>(),
            ["system", "assistant", "tool", "user"]
        );
    }

    #[test]
    fn every_mistake_is_named_by_its_pointer() {
        for (json, expected) in [
            (r#"{}"#, ""),
            (r#"{"input":""}"#, "/input"),
            (r#"{"input":"  \n"}"#, "/input"),
            (r#"{"input":[]}"#, "/input"),
            (r#"{"input":5}"#, "/input"),
            (r#"{"input":{"role":"user"}}"#, "/input"),
            (r#"{"input":"a\u0000b"}"#, "/input"),
            (r#"{"input":[["user","hi"]]}"#, "/input/0"),
            (r#"{"input":[{"role":"user"}]}"#, "/input/0/content"),
            (r#"{"input":[{"role":"robot","content":"hi"}]}"#, "/input/0/role"),
            (r#"{"input":[{"role":"user","content":7}]}"#, "/input/0/content"),
            (
                r#"{"input":[{"role":"tool","content":"x","tool_call_id":"nope"}]}"#,
                "/input/0/tool_call_id",
            ),
            (
                r#"{"input":[{"role":"user","content":"x","tool_calls":[]}]}"#,
                "/input/0/tool_calls",
            ),
            (r#"{"input":"a","inptu":"b"}"#, "/inptu"),
            (r#"{"input":"a","agent":"asistant"}"#, "/agent"),
            (r#"{"input":"a","agent":7}"#, "/agent"),
            (r#"{"input":"a","session_id":"abc"}"#, "/session_id"),
            (r#"{"input":"a","stream":"yes"}"#, "/stream"),
            (r#"{"input":"a","metadata":[]}"#, "/metadata"),
            (
                r#"{"input":"a","metadata":{"long":"0123456789012345678901234567890123456789"}}"#,
                "/metadata",
            ),
            (r#"{"input":"a","tools":{}}"#, "/tools"),
            (r#"{"input":"a","tools":[{"name":"a b"}]}"#, "/tools/0/name"),
            (r#"{"input":"a","tools":[{}]}"#, "/tools/0/name"),
            (r#"{"input":"a","tools":[{"name":"f"},{"name":"f"}]}"#, "/tools/1/name"),
            (r#"{"input":"a","tools":[{"name":"clock"}]}"#, "/tools/0/name"),
            (
                r#"{"input":"a","tools":[{"type":"function","function":{"name":""}}]}"#,
                "/tools/0/function/name",
            ),
            (r#"{"input":"a","tools":[{"type":"web_search"}]}"#, "/tools/0/type"),
            (
                r#"{"input":"a","tools":[{"name":"f","parameters":"x"}]}"#,
                "/tools/0/parameters",
            ),
            (r#"{"input":"a","limits":{"steps_max":1000000}}"#, "/limits/steps_max"),
            (r#"{"input":"a","limits":{"steps_max":0}}"#, "/limits/steps_max"),
            (r#"{"input":"a","limits":{"stepsmax":3}}"#, "/limits/stepsmax"),
            (r#"{"input":"a","limits":[3]}"#, "/limits"),
        ] {
            assert_eq!(pointer(json), expected, "{json}");
        }
        let many = format!(r#"{{"input":[{}]}}"#, [r#"{"role":"user","content":"x"}"#; 5].join(","));
        assert_eq!(pointer(&many), "/input");
        let long = format!(r#"{{"input":"{}"}}"#, "x".repeat(600 * 1024));
        assert_eq!(pointer(&long), "/input");
    }

    #[test]
    fn tools_are_read_plain_and_as_openai_wraps_them() {
        let json = r#"{"input":"a","tools":[{"name":"f","description":"d"},
            {"type":"function","function":{"name":"g","parameters":{"type":"object"},"strict":true}}]}"#;
        let (_, tools, _) = check(json).expect("two tools");
        assert_eq!(
            tools.iter().map(|tool| tool.name.as_str()).collect::<Vec<_>>(),
            ["f", "g"]
        );
        assert_eq!(tools[0].parameters, serde_json::json!({"type": "object"}));
    }

    #[test]
    fn a_task_may_only_lower_its_agents_limits() {
        let (.., limits) =
            check(r#"{"input":"a","limits":{"steps_max":2,"history_turns_max":0}}"#).expect("lower limits");
        let agents = agents();
        let agent = agents.get(DEFAULT_AGENT).expect("the built-in agent");
        assert_eq!((limits.steps_max, limits.history_turns_max), (2, 0));
        assert_eq!(limits.run_seconds_max, agent.limits.run_seconds_max);
    }
}
