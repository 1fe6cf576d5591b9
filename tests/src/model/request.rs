//! The part of a chat-completions request the model looks at, read leniently, and OpenAI's rules for a history, checked
//! strictly: a conversation that this server takes, the real ones take.

use serde::Deserialize;
use serde_json::Value;

#[derive(Debug, Deserialize)]
pub(crate) struct Request {
    #[serde(default)]
    pub model: String,
    #[serde(default)]
    pub messages: Vec<Message>,
    #[serde(default)]
    pub stream: bool,
    #[serde(default)]
    stream_options: Value,
    #[serde(default)]
    tools: Value,
    #[serde(default)]
    tool_choice: Value,
    #[serde(default)]
    response_format: Value,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Message {
    pub role: String,
    #[serde(default)]
    content: Value,
    #[serde(default)]
    tool_calls: Value,
    #[serde(default)]
    tool_call_id: Option<String>,
}

impl Message {
    /// Content is a string, null, or a list of parts of which some are text.
    pub fn text(&self) -> String {
        match &self.content {
            Value::String(text) => text.clone(),
            Value::Array(parts) => parts
                .iter()
                .filter_map(|part| part["text"].as_str())
                .collect::<Vec<_>>()
                .join(" "),
            _ => String::new(),
        }
    }

    fn calls(&self) -> &[Value] {
        self.tool_calls.as_array().map_or(&[], Vec::as_slice)
    }

    fn is_instruction(&self) -> bool {
        matches!(self.role.as_str(), "system" | "developer")
    }
}

impl Request {
    pub fn wants_usage(&self) -> bool {
        self.stream_options["include_usage"] == true
    }

    /// The text the directives and the statistics go by.
    pub fn user_text(&self) -> String {
        self.messages
            .iter()
            .rfind(|m| m.role == "user")
            .map(Message::text)
            .unwrap_or_default()
    }

    /// The role of the message to react to. Instructions may stand anywhere, also after it.
    pub fn last_role(&self) -> &str {
        self.messages
            .iter()
            .rfind(|m| !m.is_instruction())
            .map_or("", |m| &m.role)
    }

    /// Steps of the loop taken since the user spoke.
    pub fn steps_taken(&self) -> usize {
        self.messages
            .iter()
            .rev()
            .take_while(|m| m.role != "user")
            .filter(|m| !m.calls().is_empty())
            .count()
    }

    /// The tools that may be called now: (name, parameters), the one the client insists on alone.
    pub fn tools(&self) -> Vec<(&str, &Value)> {
        if self.tool_choice == "none" {
            return vec![];
        }
        let forced = self.tool_choice["function"]["name"].as_str();
        let functions = self
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
        match self.response_format["type"].as_str() {
            Some("json_schema") => Some(&self.response_format["json_schema"]["schema"]),
            Some("json_object") => Some(&Value::Null),
            _ => None,
        }
    }

    /// What OpenAI would refuse, in about its words.
    pub fn refusal(&self) -> Option<String> {
        if self.messages.is_empty() {
            return Some("'messages' must not be empty".into());
        }
        let mut open: Vec<&str> = vec![];
        for (i, m) in self.messages.iter().enumerate() {
            match m.role.as_str() {
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
                        let (Some(id), Some(_), Some(_)) = (
                            call["id"].as_str(),
                            call["function"]["name"].as_str(),
                            call["function"]["arguments"].as_str(),
                        ) else {
                            return Some(format!(
                                "messages[{i}]: a tool call needs an id, a name and arguments as a string"
                            ));
                        };
                        open.push(id);
                    }
                    let silent = m.content.is_null() && m.calls().is_empty();
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

    fn request(messages: Value) -> Request {
        serde_json::from_value(json!({ "messages": messages })).unwrap()
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
        assert_eq!(request(json!([system, user, call("a"), result("a")])).refusal(), None);
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
            assert!(request(bad.clone()).refusal().is_some(), "{bad}");
        }
    }

    #[test]
    fn steps_are_counted_from_the_last_user_message() {
        let user = json!({"role": "user", "content": [{"type": "text", "text": "hi"}]});
        let result = json!({"role": "tool", "tool_call_id": "a", "content": "ok"});
        let r = request(json!([
            user,
            call("a"),
            result,
            user,
            call("a"),
            result,
            call("a"),
            result
        ]));
        assert_eq!(
            (r.steps_taken(), r.user_text().as_str(), r.last_role()),
            (2, "hi", "tool")
        );
    }
}
