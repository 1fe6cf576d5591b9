//! What the model says to a request: decided here, told by the server.

use serde_json::{Map, Value, json};

use super::{
    request::Request,
    script::{Script, ToolOrder},
};

const WORDS: [&str; 12] = [
    "this", "is", "the", "answer", "of", "a", "scripted", "model", "which", "says", "always", "so:",
];

/// A word that is sent as `t`, sixteen digits of microseconds since 1970, and a blank: the time of sending.
pub(crate) const TIME: &str = "t0000000000000000 ";

#[derive(Debug, PartialEq)]
pub(crate) enum Reply {
    Calls(Vec<Call>),
    /// In the pieces in which it is streamed.
    Text(Vec<String>),
}

#[derive(Debug, PartialEq)]
pub(crate) struct Call {
    pub name: String,
    /// JSON, as a string: that is how the API carries it.
    pub args: String,
}

impl Reply {
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Calls(_) => "tool_call",
            Self::Text(_) => "answer",
        }
    }

    pub fn finish_reason(&self) -> &'static str {
        match self {
            Self::Calls(_) => "tool_calls",
            Self::Text(_) => "stop",
        }
    }

    /// About: a word is a token, and so are four letters of arguments.
    pub fn tokens(&self) -> usize {
        match self {
            Self::Calls(calls) => calls.iter().map(|c| 4 + c.args.len() / 4).sum(),
            Self::Text(pieces) => pieces.len(),
        }
    }
}

pub(crate) fn decide(request: &Request, script: &Script, text: &str, tokens: usize) -> Reply {
    match calls(request, script, text) {
        calls if !calls.is_empty() => Reply::Calls(calls),
        _ => Reply::Text(answer(request, script, tokens)),
    }
}

fn calls(request: &Request, script: &Script, text: &str) -> Vec<Call> {
    let offered = request.tools();
    let step = request.steps_taken();
    // A model without tools calls none, whatever it is told.
    let Some(first) = offered.iter().find(|(name, _)| *name == "lookup").or(offered.first()) else {
        return vec![];
    };
    let ordered = |order: &ToolOrder| {
        let schema = offered
            .iter()
            .find(|(name, _)| *name == order.name)
            .map_or(&Value::Null, |(_, schema)| *schema);
        let args = order
            .args
            .clone()
            .unwrap_or_else(|| arguments(&order.name, schema, text));
        Call {
            name: order.name.clone(),
            args: args.to_string(),
        }
    };
    let unasked = || {
        vec![Call {
            name: first.0.to_owned(),
            args: arguments(first.0, first.1, text).to_string(),
        }]
    };
    if script.again.is_some_and(|steps| step < steps) {
        return script
            .tools
            .first()
            .map_or_else(unasked, |step| step.iter().map(ordered).collect());
    }
    if !script.tools.is_empty() {
        return script.tools.get(step).into_iter().flatten().map(ordered).collect();
    }
    let answers_at_once = script.say.is_some() || script.echo || script.times.is_some() || script.again.is_some();
    if request.last_role() == "user" && !answers_at_once {
        unasked()
    } else {
        vec![]
    }
}

/// Arguments that a tool's schema accepts, with the user's text wherever a text is wanted.
fn arguments(tool: &str, schema: &Value, text: &str) -> Value {
    if tool == "lookup" {
        return json!({ "q": text });
    }
    match instance(schema, schema, text, 0) {
        Value::Object(args) => Value::Object(args),
        _ => json!({}),
    }
}

fn answer(request: &Request, script: &Script, tokens: usize) -> Vec<String> {
    if let Some(text) = &script.say {
        return pieces(text);
    }
    if script.echo {
        let shown = request
            .messages
            .iter()
            .map(|m| json!({"role": m.role, "content": m.text().unwrap_or_default()}));
        return pieces(&Value::from_iter(shown).to_string());
    }
    if let Some(schema) = request.answer_schema() {
        let value = if schema.is_null() {
            json!({})
        } else {
            instance(schema, schema, "scripted", 0)
        };
        return vec![value.to_string()];
    }
    if let Some(words) = script.times {
        return vec![TIME.into(); words];
    }
    let words = script.tokens.unwrap_or(tokens).max(1);
    let mut pieces: Vec<_> = (0..words - 1).map(|i| format!("{} ", WORDS[i % WORDS.len()])).collect();
    pieces.push("done.".into());
    pieces
}

fn pieces(text: &str) -> Vec<String> {
    text.split_inclusive(' ').map(str::to_owned).collect()
}

/// A small value that a JSON schema accepts: required properties only, first alternatives, least numbers.
fn instance(schema: &Value, root: &Value, text: &str, depth: usize) -> Value {
    // A schema may contain itself.
    if depth > 16 {
        return Value::Null;
    }
    let inner = |schema: &Value| instance(schema, root, text, depth + 1);
    if let Some(path) = schema["$ref"].as_str() {
        return inner(root.pointer(path.trim_start_matches('#')).unwrap_or(&Value::Null));
    }
    if let Some(value) = schema.get("const").or_else(|| schema["enum"].get(0)) {
        return value.clone();
    }
    if let Some(first) = ["anyOf", "oneOf", "allOf"].iter().find_map(|key| schema[key].get(0)) {
        return inner(first);
    }
    match schema["type"].as_str().or_else(|| schema["type"][0].as_str()) {
        Some("string") => json!(text),
        Some("integer" | "number") => schema.get("minimum").cloned().unwrap_or(json!(1)),
        Some("boolean") => json!(true),
        Some("array") => {
            let least = schema["minItems"].as_u64().unwrap_or(0).min(16);
            Value::from_iter((0..least).map(|_| inner(&schema["items"])))
        }
        Some("null") => Value::Null,
        _ => {
            let required = schema["required"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str);
            Value::Object(Map::from_iter(
                required.map(|name| (name.into(), inner(&schema["properties"][name]))),
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(text: &str, tools: Value, later: Value) -> Reply {
        let mut messages = vec![json!({"role": "user", "content": text})];
        messages.extend(later.as_array().cloned().unwrap_or_default());
        let body = json!({"messages": messages, "tools": tools}).to_string();
        let request = Request::read(body.as_bytes(), None).unwrap();
        decide(&request, &Script::parse(text).unwrap(), text, 3)
    }

    fn names(reply: &Reply) -> Vec<&str> {
        match reply {
            Reply::Calls(calls) => calls.iter().map(|c| c.name.as_str()).collect(),
            Reply::Text(_) => vec![],
        }
    }

    fn tools() -> Value {
        let schema = json!({"type": "object", "required": ["n", "why"],
            "properties": {"n": {"type": "integer", "minimum": 3}, "why": {"type": "string"}, "more": {}}});
        json!([{"type": "function", "function": {"name": "first", "parameters": schema}},
            {"type": "function", "function": {"name": "second"}}])
    }

    fn after_one_step() -> Value {
        json!([{"role": "assistant", "tool_calls": [{"id": "a"}]}, {"role": "tool", "tool_call_id": "a", "content": "x"}])
    }

    #[test]
    fn without_orders_it_calls_a_tool_once_and_answers() {
        let text = || Reply::Text(vec!["this ".into(), "is ".into(), "done.".into()]);
        let Reply::Calls(calls) = reply("hi", tools(), json!([])) else {
            panic!("no call")
        };
        assert_eq!(
            calls,
            [Call {
                name: "first".into(),
                args: r#"{"n":3,"why":"hi"}"#.into()
            }]
        );
        assert_eq!(reply("hi", tools(), after_one_step()), text());
        assert_eq!(reply("hi", json!([]), json!([])), text());
    }

    #[test]
    fn orders_decide_which_tools_and_when() {
        let chain = r#"[[tool:second {"a":1}]][[tool:ghost]][[then]][[tool:first]][[say:bye now]]"#;
        assert_eq!(names(&reply(chain, tools(), json!([]))), ["second", "ghost"]);
        assert_eq!(names(&reply(chain, tools(), after_one_step())), ["first"]);
        let said = Reply::Text(vec!["bye ".into(), "now".into()]);
        assert_eq!(reply(chain, json!([]), json!([])), said);
        assert_eq!(reply("[[say:bye now]]", tools(), json!([])), said);
        assert_eq!(names(&reply("[[loop]]", tools(), after_one_step())), ["first"]);
        assert_eq!(names(&reply("[[loop:2]]", tools(), after_one_step())), ["first"]);
        assert_eq!(reply("[[loop:1]]", tools(), after_one_step()).kind(), "answer");
    }
}
