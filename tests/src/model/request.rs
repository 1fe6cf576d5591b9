//! The part of a chat-completions request the model looks at, the rest left as it came, and OpenAI's rules for a history,
//! checked strictly: a conversation that this server takes, the real ones take.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::{Value, value::RawValue};

#[derive(Debug)]
pub(crate) struct Request<'a> {
    /// What came before, where that was read already.
    before: Option<&'a SoFar>,
    pub messages: Vec<Message<'a>>,
    /// Where the first of them begins.
    pub messages_at: usize,
    /// Nothing but the end of the body follows them.
    pub ends_with_messages: bool,
    settings: Settings<'a>,
}

/// All but the messages, which are looked at afterwards.
#[derive(Debug, Deserialize)]
struct Settings<'a> {
    #[serde(default)]
    model: String,
    #[serde(default = "no_messages", borrow)]
    messages: &'a RawValue,
    #[serde(default)]
    stream: bool,
    #[serde(default)]
    stream_options: Value,
    #[serde(default)]
    tools: Value,
    #[serde(default)]
    tool_choice: Value,
    #[serde(default)]
    response_format: Value,
}

fn no_messages() -> &'static RawValue {
    serde_json::from_str("[]").expect("a list")
}

/// What is looked at of messages that were read: a whole history.
#[derive(Debug, Clone, Default)]
pub(crate) struct SoFar {
    messages: usize,
    user_text: String,
    /// Since the user spoke.
    steps: usize,
    last_role: String,
}

/// Each request carries its whole history, of which little is looked at: what a message holds is left as it came.
#[derive(Debug, Deserialize)]
pub(crate) struct Message<'a> {
    #[serde(borrow)]
    pub role: Cow<'a, str>,
    #[serde(default, borrow)]
    content: Option<&'a RawValue>,
    #[serde(default, borrow)]
    tool_calls: Option<Vec<Call<'a>>>,
    #[serde(default, borrow)]
    tool_call_id: Option<Cow<'a, str>>,
}

#[derive(Debug, Deserialize)]
struct Call<'a> {
    #[serde(default, borrow)]
    id: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    function: Option<Function<'a>>,
}

#[derive(Debug, Deserialize)]
struct Function<'a> {
    #[serde(default, borrow)]
    name: Option<&'a RawValue>,
    #[serde(default, borrow)]
    arguments: Option<&'a RawValue>,
}

impl Message<'_> {
    /// Content is a string, null, or a list of parts of which some are text.
    pub fn text(&self) -> Result<String, serde_json::Error> {
        let content = self.content.map(|raw| serde_json::from_str(raw.get())).transpose()?;
        Ok(match content {
            Some(Value::String(text)) => text,
            Some(Value::Array(parts)) => parts
                .iter()
                .filter_map(|part| part["text"].as_str())
                .collect::<Vec<_>>()
                .join(" "),
            _ => String::new(),
        })
    }

    fn calls(&self) -> &[Call<'_>] {
        self.tool_calls.as_deref().unwrap_or_default()
    }

    fn is_instruction(&self) -> bool {
        matches!(&*self.role, "system" | "developer")
    }
}

impl Call<'_> {
    fn is_whole(&self) -> bool {
        let is_text = |raw: Option<&RawValue>| raw.is_some_and(|raw| raw.get().starts_with('"'));
        let function = self.function.as_ref();
        function.is_some_and(|function| is_text(function.name) && is_text(function.arguments))
    }
}

impl<'a> Request<'a> {
    /// `before`: what the body leaves out.
    pub fn read(body: &'a [u8], before: Option<&'a SoFar>) -> Result<Self, serde_json::Error> {
        let settings: Settings = match std::str::from_utf8(body) {
            // Looked through once, as a whole: strings need not be looked through again.
            Ok(text) => serde_json::from_str(text)?,
            // It says where.
            Err(_) => serde_json::from_slice(body)?,
        };
        let raw = settings.messages.get();
        let at = raw.as_ptr().addr().wrapping_sub(body.as_ptr().addr());
        Ok(Self {
            before,
            messages: serde_json::from_str(raw)?,
            messages_at: at.wrapping_add(1),
            ends_with_messages: raw.ends_with(']') && body.get(at.saturating_add(raw.len())..) == Some(b"}"),
            settings,
        })
    }

    pub fn model(&self) -> &str {
        &self.settings.model
    }

    pub fn stream(&self) -> bool {
        self.settings.stream
    }

    pub fn wants_usage(&self) -> bool {
        self.settings.stream_options["include_usage"] == true
    }

    pub fn message_count(&self) -> usize {
        self.before.map_or(0, |before| before.messages) + self.messages.len()
    }

    /// The text the directives and the statistics go by.
    pub fn user_text(&self) -> Result<String, serde_json::Error> {
        let last = self.messages.iter().rfind(|m| m.role == "user");
        let before = || self.before.map(|before| before.user_text.clone());
        last.map_or_else(|| Ok(before().unwrap_or_default()), Message::text)
    }

    /// The role of the message to react to. Instructions may stand anywhere, also after it.
    pub fn last_role(&self) -> &str {
        let last = self.messages.iter().rfind(|m| !m.is_instruction());
        let before = || self.before.map_or("", |before| &before.last_role);
        last.map_or_else(before, |m| &m.role)
    }

    /// Steps of the loop taken since the user spoke.
    pub fn steps_taken(&self) -> usize {
        let spoke = self.messages.iter().rposition(|m| m.role == "user");
        let before = self.before.filter(|_| spoke.is_none()).map_or(0, |before| before.steps);
        let since = &self.messages[spoke.map_or(0, |at| at + 1)..];
        before + since.iter().filter(|m| !m.calls().is_empty()).count()
    }

    pub fn so_far(&self) -> SoFar {
        SoFar {
            messages: self.message_count(),
            user_text: self.user_text().unwrap_or_default(),
            steps: self.steps_taken(),
            last_role: self.last_role().into(),
        }
    }

    /// The tools that may be called now: (name, parameters), the one the client insists on alone.
    pub fn tools(&self) -> Vec<(&str, &Value)> {
        if self.settings.tool_choice == "none" {
            return vec![];
        }
        let forced = self.settings.tool_choice["function"]["name"].as_str();
        let functions = self
            .settings
            .tools
            .as_array()
            .into_iter()
            .flatten()
            .map(|tool| &tool["function"]);
        let named = functions.filter_map(|f| Some((f["name"].as_str()?, &f["parameters"])));
        named
            .filter(|(name, _)| forced.is_none_or(|forced| forced == *name))
            .collect()
    }

    /// The schema of the JSON the client wants for an answer.
    pub fn answer_schema(&self) -> Option<&Value> {
        match self.settings.response_format["type"].as_str() {
            Some("json_schema") => Some(&self.settings.response_format["json_schema"]["schema"]),
            Some("json_object") => Some(&Value::Null),
            _ => None,
        }
    }

    /// What OpenAI would refuse, in about its words.
    pub fn refusal(&self) -> Option<String> {
        if self.message_count() == 0 {
            return Some("'messages' must not be empty".into());
        }
        let mut open: Vec<&str> = vec![];
        let first = self.before.map_or(0, |before| before.messages);
        for (i, m) in (first..).zip(&self.messages) {
            match &*m.role {
                "tool" => {
                    let Some(id) = m.tool_call_id.as_deref() else {
                        return Some(format!("Missing required parameter: 'messages[{i}].tool_call_id'"));
                    };
                    let Some(asked) = open.iter().position(|call| *call == id) else {
                        return Some(format!(
                            "messages[{i}]: messages with role 'tool' must be a response to a preceding message with \
                             'tool_calls'; {id} was not asked for, or was answered already"
                        ));
                    };
                    open.swap_remove(asked);
                }
                "system" | "developer" | "user" | "assistant" => {
                    if !open.is_empty() {
                        return Some(unanswered(&open));
                    }
                    for call in m.calls() {
                        let Some(id) = call.id.as_deref().filter(|_| call.is_whole()) else {
                            return Some(format!(
                                "messages[{i}]: a tool call needs an id, a name and arguments as a string"
                            ));
                        };
                        open.push(id);
                    }
                    let silent = m.content.is_none() && m.calls().is_empty();
                    if silent {
                        return Some(format!("messages[{i}]: expected 'content' or 'tool_calls'"));
                    }
                }
                role => return Some(format!("messages[{i}]: '{role}' is not a role")),
            }
        }
        (!open.is_empty()).then(|| unanswered(&open))
    }
}

fn unanswered(open: &[&str]) -> String {
    format!(
        "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'. \
         The following tool_call_ids did not have response messages: {}",
        open.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn body(messages: &Value) -> String {
        json!({ "messages": messages }).to_string()
    }

    fn request(body: &str) -> Request<'_> {
        Request::read(body.as_bytes(), None).unwrap()
    }

    fn call(id: &str) -> Value {
        json!({"role": "assistant", "content": null,
            "tool_calls": [{"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}}]})
    }

    #[test]
    fn only_a_whole_history_is_taken() {
        let user = json!({"role": "user", "content": "hi"});
        let result = |id: &str| json!({"role": "tool", "tool_call_id": id, "content": "ok"});
        let system = json!({"role": "system", "content": "be good"});
        let whole = body(&json!([system, user, call("a"), result("a")]));
        assert_eq!(request(&whole).refusal(), None);
        for bad in [
            json!([]),
            json!([user, call("a")]),
            json!([user, call("a"), user]),
            json!([user, result("a")]),
            json!([user, call("a"), result("b")]),
            json!([user, call("a"), result("a"), result("a")]),
            json!([{"role": "robot", "content": "hi"}]),
            json!([{"role": "assistant"}]),
        ] {
            assert!(request(&body(&bad)).refusal().is_some(), "{bad}");
        }
    }

    #[test]
    fn a_text_that_is_none_is_told_apart_from_an_empty_one() {
        let said = |content: &str| {
            let body = format!(r#"{{"messages":[{{"role":"user","content":{content}}}]}}"#);
            request(&body).user_text().map_err(|_| "unreadable")
        };
        assert_eq!(said("null"), Ok(String::new()));
        assert_eq!(said(r#""hi""#), Ok("hi".into()));
        assert_eq!(said(r#""\ud800""#), Err("unreadable"));
    }

    #[test]
    fn steps_are_counted_from_the_last_user_message() {
        let user = json!({"role": "user", "content": [{"type": "text", "text": "hi"}]});
        let result = json!({"role": "tool", "tool_call_id": "a", "content": "ok"});
        let later = [call("a"), result.clone(), call("a"), result.clone()];
        let mut all = vec![user.clone(), call("a"), result, user];
        all.extend(later);
        let body = body(&json!(all));
        let r = request(&body);
        assert_eq!(
            (r.steps_taken(), r.user_text().unwrap().as_str(), r.last_role()),
            (2, "hi", "tool")
        );
    }
}
