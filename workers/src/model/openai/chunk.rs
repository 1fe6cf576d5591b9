//! One chunk of a streamed answer, as compatible servers really send it.
//!
//! Whatever differs between servers is a plain JSON value here and is read with patience: nulls, empty strings,
//! numbers as text, arguments as an object, text as a list of parts.

use serde::Deserialize;
use serde_json::Value;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Chunk {
    pub id: Value,
    pub model: Value,
    pub choices: Option<Vec<Choice>>,
    pub usage: Option<Tokens>,
    pub error: Value,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Choice {
    pub delta: Option<Delta>,
    /// In place of `delta` where a server does not stream.
    pub message: Option<Delta>,
    pub finish_reason: Value,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Delta {
    content: Value,
    refusal: Value,
    reasoning_content: Value,
    reasoning: Value,
    pub tool_calls: Option<Vec<Fragment>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Tokens {
    pub prompt_tokens: Value,
    pub completion_tokens: Value,
}

/// A piece of a tool call, or a whole one.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Fragment {
    index: Value,
    id: Value,
    function: Option<Function>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Function {
    name: Value,
    arguments: Value,
}

impl Delta {
    /// What the model says to the user, a refusal included.
    pub fn text(&self) -> String {
        plain(&self.content) + &plain(&self.refusal)
    }

    /// A sign of life that is not part of the answer.
    pub fn is_thinking(&self) -> bool {
        [&self.reasoning_content, &self.reasoning]
            .iter()
            .any(|value| !plain(value).is_empty())
    }
}

impl Fragment {
    pub fn index(&self) -> Option<u64> {
        self.index.as_u64().or_else(|| self.index.as_str()?.parse().ok())
    }

    pub fn id(&self) -> String {
        plain(&self.id)
    }

    pub fn name(&self) -> String {
        self.function
            .as_ref()
            .map(|function| plain(&function.name))
            .unwrap_or_default()
    }

    pub fn arguments(&self) -> String {
        match self.function.as_ref().map(|function| &function.arguments) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(whole) => whole.to_string(),
        }
    }
}

/// Text, or the text of the parts it comes in.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part.get("text")?.as_str()).collect(),
        _ => String::new(),
    }
}

/// A text that says something.
pub fn filled(value: &Value) -> Option<String> {
    value.as_str().filter(|text| !text.is_empty()).map(Into::into)
}
