use std::{sync::Arc, time::Duration};

use serde_json::json;
use steadfast::run::{Message, ToolCall, ToolSpec};

use super::{Model, ModelRequest, Scripted, plan::plan};

fn tool(name: &str, parameters: serde_json::Value) -> ToolSpec {
    ToolSpec {
        name: name.into(),
        description: String::new(),
        parameters,
    }
}

fn built_in() -> Vec<ToolSpec> {
    ["clock", "calculator", "http_get"]
        .map(|name| tool(name, json!({"type": "object"})))
        .into()
}

/// Names and arguments of what is called for a text.
fn called(text: &str, tools: &[ToolSpec]) -> Vec<(String, String)> {
    let calls = plan(&[&Message::user(text)], tools).tool_calls;
    calls.into_iter().map(|call| (call.name, call.arguments)).collect()
}

fn calculated(text: &str) -> Option<String> {
    let calls = called(text, &built_in()).into_iter();
    calls
        .filter(|(name, _)| name == "calculator")
        .map(|(_, arguments)| arguments)
        .next()
}

#[test]
fn an_expression_in_the_text_is_calculated() {
    let expression = |text: &str| Some(json!({"expression": text}).to_string());
    assert_eq!(calculated("What is 6 * 7?"), expression("6 * 7"));
    assert_eq!(calculated("2+2"), expression("2+2"));
    assert_eq!(
        calculated("Compute (1 + 2.5) * -3, please."),
        expression("(1 + 2.5) * -3")
    );
    assert_eq!(calculated("the sum (of 3 + 4) matters"), expression("3 + 4"));
    for text in [
        "hello",
        "I have 3 cats and 4 dogs",
        "room 12",
        "on 2026-11-22",
        "a - b",
        "well - known",
        "",
    ] {
        assert_eq!(calculated(text), None, "{text:?}");
    }
}

#[test]
fn time_and_addresses_are_looked_up_where_the_tool_is_offered() {
    assert_eq!(
        called("What time is it?", &built_in()),
        [("clock".to_string(), "{}".to_string())]
    );
    assert_eq!(
        called("Read <https://example.com/a?b=1>.", &built_in()),
        [(
            "http_get".to_string(),
            json!({"url": "https://example.com/a?b=1"}).to_string()
        )]
    );
    assert_eq!(called("sometimes I wonder", &built_in()), []);
    assert_eq!(called("What time is it? And 1 + 1?", &[]), []);
}

#[test]
fn several_tools_are_called_in_one_turn_under_different_ids() {
    let calls = plan(&[&Message::user("What is 6 * 7, and what time is it?")], &built_in()).tool_calls;
    let ids: Vec<(&str, &str)> = calls
        .iter()
        .map(|call| (call.id.as_str(), call.name.as_str()))
        .collect();
    assert_eq!(ids, [("call_1", "clock"), ("call_2", "calculator")]);
}

#[test]
fn a_tool_of_the_clients_is_called_with_the_least_its_schema_accepts() {
    let schema = json!({
        "type": "object",
        "required": ["city", "unit", "days", "flags", "where", "exact", "names"],
        "properties": {
            "city": {"type": "string"},
            "unit": {"enum": ["C", "F"]},
            "days": {"type": "integer", "minimum": 3},
            "flags": {"type": "array", "items": {"type": "boolean"}, "minItems": 1},
            "names": {"type": ["array", "null"]},
            "where": {"type": "object", "required": ["lat"], "properties": {"lat": {"type": "number"}}},
            "exact": {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
            "optional": {"type": "string"}
        }
    });
    let expected = json!({
        "city": "Weather in Paris?", "unit": "C", "days": 3, "flags": [true], "names": [], "where": {"lat": 1},
        "exact": true
    });
    let calls = called("Weather in Paris?", &[tool("weather", schema)]);
    assert_eq!(calls, [("weather".to_string(), expected.to_string())]);
    assert_eq!(
        called("x", &[tool("bare", json!({}))]),
        [("bare".to_string(), "{}".to_string())]
    );
}

#[test]
fn a_schema_without_end_ends() {
    let mut schema = json!({"type": "string"});
    for _ in 0..100 {
        schema = json!({"type": "object", "required": ["x"], "properties": {"x": schema}});
    }
    assert_eq!(called("x", &[tool("deep", schema)]).len(), 1);
}

#[test]
fn what_the_tools_returned_is_told_and_no_tool_is_called_again() {
    let asked = plan(&[&Message::user("What is 6 * 7?")], &built_in());
    let messages = [
        Message::user("What is 6 * 7?"),
        Message::Assistant {
            content: String::new(),
            tool_calls: asked.tool_calls,
        },
        Message::Tool {
            tool_call_id: "call_1".into(),
            content: "42".into(),
        },
    ];
    let answer = plan(&messages.each_ref(), &built_in());
    assert_eq!(answer.tool_calls, Vec::<ToolCall>::new());
    assert!(answer.text.starts_with("calculator returned: 42. "), "{}", answer.text);
    assert!(answer.text.contains("built-in scripted model"), "{}", answer.text);
}

#[test]
fn without_anything_to_do_it_says_what_it_is_and_how_to_get_a_real_model() {
    for messages in [vec![], vec![&Message::user("hello")]] {
        let text = plan(&messages, &built_in()).text;
        for part in [
            "built-in scripted model",
            "OPENAI_BASE_URL",
            "OPENAI_API_KEY",
            "STEADFAST_MODEL",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn it_streams_word_by_word_and_the_words_are_the_text() {
    let request = ModelRequest {
        model: "scripted".into(),
        messages: Arc::new([Message::user("hello")].into_iter().collect()),
        tools: vec![],
        output_tokens_max: 100,
        temperature: None,
        idempotency_key: "k".into(),
    };
    let mut pieces: Vec<String> = Vec::new();
    let model = Scripted::new(Duration::from_millis(15));
    let reply = model
        .call(&request, &mut |text| pieces.push(text.into()))
        .await
        .expect("it never fails");
    assert!(pieces.len() > 10, "{pieces:?}");
    assert_eq!(pieces.concat(), reply.text);
    assert_eq!(
        reply.latency_ms,
        15 * (pieces.len() as u64 - 1),
        "a pause between any two words"
    );
    assert_eq!(reply.first_token_ms, Some(0));
    assert!(reply.usage.input_tokens > 0 && reply.usage.output_tokens > 0);
    let again = Scripted::new(Duration::ZERO)
        .call(&request, &mut |_| {})
        .await
        .expect("it never fails");
    assert_eq!(
        (again.text, again.tool_calls),
        (reply.text, reply.tool_calls),
        "the same every time"
    );
}
