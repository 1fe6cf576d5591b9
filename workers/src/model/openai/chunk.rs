//! One chunk of a streamed answer, as compatible servers really send it.
//!
//! Whatever differs between servers is read with patience: nulls, empty strings, numbers as text, arguments as an
//! object, text as a list of parts. There is a chunk for every few letters, so what need not be copied is borrowed.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::Value;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Chunk<'a> {
    #[serde(borrow)]
    pub id: Text<'a>,
    #[serde(borrow)]
    pub model: Text<'a>,
    #[serde(borrow)]
    pub choices: Option<Vec<Choice<'a>>>,
    pub usage: Option<Tokens>,
    pub error: Value,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Choice<'a> {
    #[serde(borrow)]
    pub delta: Option<Delta<'a>>,
    /// In place of `delta` where a server does not stream.
    #[serde(borrow)]
    pub message: Option<Delta<'a>>,
    #[serde(borrow)]
    pub finish_reason: Text<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Delta<'a> {
    #[serde(borrow)]
    content: Text<'a>,
    #[serde(borrow)]
    refusal: Text<'a>,
    #[serde(borrow)]
    reasoning_content: Text<'a>,
    #[serde(borrow)]
    reasoning: Text<'a>,
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

impl<'a> Delta<'a> {
    /// What the model says to the user, a refusal included.
    pub fn text(&self) -> Cow<'a, str> {
        match (&self.content.0, &self.refusal.0) {
            (content, refusal) if refusal.is_empty() => content.clone(),
            (content, refusal) => Cow::Owned(format!("{content}{refusal}")),
        }
    }

    /// A sign of life that is not part of the answer.
    pub fn is_thinking(&self) -> bool {
        [&self.reasoning_content, &self.reasoning]
            .iter()
            .any(|text| !text.0.is_empty())
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

/// The same, read without a copy where that can be; whatever else stands there says nothing.
#[derive(Debug, Default)]
pub struct Text<'a>(Cow<'a, str>);

impl Text<'_> {
    /// A text that says something.
    pub fn filled(&self) -> Option<String> {
        Some(&*self.0).filter(|text| !text.is_empty()).map(Into::into)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor).map(Self)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_owned()))
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut parts: S) -> Result<Self::Value, S::Error> {
        let mut text = String::new();
        while let Some(part) = parts.next_element::<Value>()? {
            text.push_str(part.get("text").and_then(Value::as_str).unwrap_or_default());
        }
        Ok(Cow::Owned(text))
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Cow::default())
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(Cow::default())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Cow::default())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Cow::default())
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Cow::default())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Cow::default())
    }
}
