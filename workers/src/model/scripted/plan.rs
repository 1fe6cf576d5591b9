//! What the scripted model says and calls, as a function of the conversation. Pure.

use serde_json::{Map, Value, json};
use steadfast::run::{Message, ToolCall, ToolSpec};

/// Of a tool's output in the answer.
const SHOWN_CHARS_MAX: usize = 600;
/// Of the user's text as an argument.
const ARGUMENT_CHARS_MAX: usize = 80;
/// Of the user's text that is searched for something to do.
const READ_CHARS_MAX: usize = 10_000;
/// Schemas inside schemas are followed this deep.
const SCHEMA_DEPTH_MAX: usize = 4;

#[derive(Debug, PartialEq)]
pub struct Plan {
    pub text: String,
    pub tool_calls: Vec<ToolCall>,
}

pub fn plan(messages: &[&Message], tools: &[ToolSpec]) -> Plan {
    let results = results(messages);
    if !results.is_empty() {
        return Plan {
            text: report(&results),
            tool_calls: Vec::new(),
        };
    }
    let asked = messages.iter().rev().find_map(|message| match message {
        Message::User { content } => Some(content.chars().take(READ_CHARS_MAX).collect::<String>()),
        _ => None,
    });
    let tool_calls = calls(asked.as_deref().unwrap_or_default(), tools);
    let text = match (tool_calls.as_slice(), tools.is_empty()) {
        ([], true) => format!("{WHAT_I_AM} I can only repeat myself. {HOW_TO_GET_A_REAL_ONE}"),
        ([], false) => format!("{WHAT_I_AM} {WHAT_I_CAN} {HOW_TO_GET_A_REAL_ONE}"),
        _ => String::new(),
    };
    Plan { text, tool_calls }
}

const WHAT_I_AM: &str = "I am Steadfast's built-in scripted model, not a real one.";
const WHAT_I_CAN: &str = "I call the tools I am given, where your text holds an arithmetic expression (such as 6 * 7), \
                          asks for the time, or names a web address.";
const HOW_TO_GET_A_REAL_ONE: &str = "For a real model set OPENAI_BASE_URL, OPENAI_API_KEY and STEADFAST_MODEL, and \
                                     start Steadfast again.";

/// Name and output of the tools the conversation ends with.
fn results<'a>(messages: &[&'a Message]) -> Vec<(&'a str, &'a str)> {
    let is_result = |message: &&&Message| matches!(message, Message::Tool { .. });
    let count = messages.iter().rev().take_while(is_result).count();
    let (before, ended) = messages.split_at(messages.len() - count);
    let calls = match before.last() {
        Some(Message::Assistant { tool_calls, .. }) => tool_calls.as_slice(),
        _ => &[],
    };
    let results = ended.iter().filter_map(|message| match message {
        Message::Tool { tool_call_id, content } => {
            let name = calls
                .iter()
                .find(|call| call.id == *tool_call_id)
                .map_or("a tool", |call| &call.name);
            Some((name, content.as_str()))
        }
        _ => None,
    });
    results.collect()
}

fn report(results: &[(&str, &str)]) -> String {
    let said = results.iter().map(|(name, output)| match output.trim() {
        "" => format!("{name} returned nothing."),
        output if output.chars().count() > SHOWN_CHARS_MAX => {
            let shown: String = output.chars().take(SHOWN_CHARS_MAX).collect();
            format!("{name} returned, among more: {shown} …")
        }
        output => format!("{name} returned: {output}."),
    });
    format!(
        "{} {WHAT_I_AM} {HOW_TO_GET_A_REAL_ONE}",
        said.collect::<Vec<_>>().join(" ")
    )
}

/// The three tools it knows are called where the text calls for them, any other in any case: a client that brings a
/// tool wants to see it called.
fn calls(text: &str, tools: &[ToolSpec]) -> Vec<ToolCall> {
    let arguments = |tool: &ToolSpec| match tool.name.as_str() {
        "calculator" => arithmetic(text).map(|expression| json!({"expression": expression})),
        "clock" => asks_for_time(text).then(|| json!({})),
        "http_get" => url(text).map(|url| json!({"url": url})),
        _ => Some(minimal(&tool.parameters, text, 0)),
    };
    let wanted = tools.iter().filter_map(|tool| Some((tool, arguments(tool)?)));
    wanted
        .enumerate()
        .map(|(at, (tool, arguments))| ToolCall {
            id: format!("call_{}", at + 1),
            name: tool.name.clone(),
            arguments: arguments.to_string(),
        })
        .collect()
}

/// The longest piece of the text that could be computed: two numbers at least, and an operator between them.
fn arithmetic(text: &str) -> Option<String> {
    let belongs = |c: char| c.is_ascii_digit() || " .+-*/%^()".contains(c);
    let pieces = text.split(|c: char| !belongs(c)).map(|piece| {
        let piece = piece.trim_matches(|c: char| !(c.is_ascii_digit() || "(-)".contains(c)));
        // A bracket that belongs to the sentence, not to the expression.
        let (open, close) = (piece.matches('(').count(), piece.matches(')').count());
        if open == close {
            piece
        } else {
            piece.trim_matches(['(', ')', ' '])
        }
    });
    let computable = |piece: &&str| {
        let numbers = piece
            .split(|c: char| !(c.is_ascii_digit() || c == '.'))
            .filter(|number| !number.is_empty());
        let is_date = looks_like_a_date(piece);
        numbers.count() >= 2 && piece.contains(['+', '-', '*', '/', '%', '^']) && !is_date
    };
    pieces
        .filter(computable)
        .max_by_key(|piece| piece.len())
        .map(|piece| piece.trim().to_string())
}

/// `2026-11-22` and the like: digits and hyphens only, without a space around them.
fn looks_like_a_date(piece: &str) -> bool {
    let parts: Vec<&str> = piece.split('-').collect();
    parts.len() == 3 && parts[0].len() == 4 && parts.iter().all(|part| part.bytes().all(|b| b.is_ascii_digit()))
}

fn asks_for_time(text: &str) -> bool {
    const WORDS: [&str; 8] = ["time", "date", "clock", "today", "now", "day", "hour", "year"];
    text.split(|c: char| !c.is_alphanumeric())
        .any(|word| WORDS.contains(&word.to_lowercase().as_str()))
}

fn url(text: &str) -> Option<&str> {
    let word = text
        .split_whitespace()
        .map(|word| word.trim_start_matches(['(', '<', '"', '\'', '[']))
        .find(|word| {
            let lower = word.to_lowercase();
            lower.starts_with("http://") || lower.starts_with("https://")
        })?;
    Some(word.trim_end_matches(['.', ',', ';', ':', '!', '?', ')', '>', '"', '\'', ']']))
}

/// The least a JSON Schema accepts, as far as it can be told from what schemas usually say.
fn minimal(schema: &Value, text: &str, depth: usize) -> Value {
    let given = ["const", "default"].iter().find_map(|key| schema.get(key));
    let first = || {
        ["enum", "examples"]
            .iter()
            .find_map(|key| schema.get(key)?.as_array()?.first())
    };
    if let Some(value) = given.or_else(first) {
        return value.clone();
    }
    if let Some(choice) = ["anyOf", "oneOf"]
        .iter()
        .find_map(|key| schema.get(key)?.as_array()?.first())
    {
        return if depth < SCHEMA_DEPTH_MAX {
            minimal(choice, text, depth + 1)
        } else {
            Value::Null
        };
    }
    let kind = match schema.get("type") {
        Some(Value::Array(kinds)) => kinds.first().and_then(Value::as_str),
        Some(kind) => kind.as_str(),
        None if schema.get("properties").is_some() || depth == 0 => Some("object"),
        None => None,
    };
    match kind {
        Some("object") if depth < SCHEMA_DEPTH_MAX => object(schema, text, depth),
        Some("object") => json!({}),
        Some("integer" | "number") => schema.get("minimum").cloned().unwrap_or(json!(1)),
        Some("boolean") => json!(true),
        Some("array") => array(schema, text, depth),
        Some("null") => Value::Null,
        _ => text.trim().chars().take(ARGUMENT_CHARS_MAX).collect::<String>().into(),
    }
}

fn object(schema: &Value, text: &str, depth: usize) -> Value {
    let required = schema
        .get("required")
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice);
    let fields = required.iter().filter_map(Value::as_str).map(|name| {
        let field = schema
            .get("properties")
            .and_then(|properties| properties.get(name))
            .unwrap_or(&Value::Null);
        (name.to_string(), minimal(field, text, depth + 1))
    });
    Value::Object(fields.collect::<Map<_, _>>())
}

fn array(schema: &Value, text: &str, depth: usize) -> Value {
    let wants_one = schema
        .get("minItems")
        .and_then(Value::as_u64)
        .is_some_and(|least| least > 0);
    match schema.get("items").filter(|_| wants_one && depth < SCHEMA_DEPTH_MAX) {
        Some(items) => json!([minimal(items, text, depth + 1)]),
        None => json!([]),
    }
}
