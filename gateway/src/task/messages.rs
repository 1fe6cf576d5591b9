//! The input of a task: a text, or the messages of a conversation so far.

use serde::{Deserialize, Deserializer, de};
use steadfast::run::{Message, ToolCall};

use super::check_text;
use crate::{body::Object, limits::GatewayLimits, problem::Problem};

/// Text, or messages.
#[derive(Debug)]
pub enum Input {
    Text(String),
    Messages(Vec<Object<MessageBody>>),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MessageBody {
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

pub fn messages(input: Input, limits: &GatewayLimits) -> Result<Vec<Message>, Problem> {
    let messages = match input {
        Input::Text(text) => {
            check_text("/input", &text)?;
            vec![Message::user(text)]
        }
        Input::Messages(bodies) if bodies.len() > limits.messages_max => {
            let (given, max) = (bodies.len(), limits.messages_max);
            return Err(Problem::invalid(
                "/input",
                format!("{given} messages are more than {max} (gateway.messages_max)"),
            ));
        }
        Input::Messages(bodies) => conversation(bodies)?,
    };
    let bytes: usize = messages.iter().map(|message| message.content().len()).sum();
    if bytes > limits.input_bytes_max {
        let max = limits.input_bytes_max;
        let detail = format!("the text is {bytes} bytes long, more than {max} (gateway.input_bytes_max); shorten it");
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
