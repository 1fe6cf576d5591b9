//! Replies put together from whatever servers send. No network.

use proptest::prelude::*;

use super::super::{super::ErrorClass, assembly::Assembly};
use super::*;

fn assemble(chunks: &[Value]) -> Result<ModelReply, ModelError> {
    let mut assembly = Assembly::default();
    for chunk in chunks {
        assembly.take(&chunk.to_string())?;
    }
    assembly.reply(&request())
}

fn fragments(fragments: Value) -> Value {
    json!({"choices": [{"index": 0, "delta": {"tool_calls": fragments}}]})
}

/// Id, name and arguments of each call.
fn calls(chunks: &[Value]) -> Vec<(String, String, String)> {
    let reply = assemble(chunks).unwrap_or_else(|error| panic!("{error:?}"));
    reply
        .tool_calls
        .into_iter()
        .map(|call| (call.id, call.name, call.arguments))
        .collect()
}

fn expected(calls: &[(&str, &str, &str)]) -> Vec<(String, String, String)> {
    calls
        .iter()
        .map(|(id, name, arguments)| ((*id).into(), (*name).into(), (*arguments).into()))
        .collect()
}

#[test]
fn calls_in_pieces_are_put_together_by_index_however_they_are_mixed() {
    let chunks = [
        fragments(json!([{"index": 0, "id": "a", "type": "function", "function": {"name": "clock", "arguments": ""}}])),
        fragments(json!([{"index": 1, "id": "b", "function": {"name": "calculator", "arguments": "{\"exp"}}])),
        fragments(
            json!([{"index": 0, "function": {"arguments": "{}"}}, {"index": 1, "function": {"arguments": "ression\":"}}]),
        ),
        fragments(json!([{"index": 1, "id": null, "function": {"name": null, "arguments": "\"1+1\"}"}}])),
        stops("tool_calls"),
    ];
    assert_eq!(
        calls(&chunks),
        expected(&[("a", "clock", "{}"), ("b", "calculator", "{\"expression\":\"1+1\"}")])
    );
}

#[test]
fn whole_calls_at_once_are_taken_with_and_without_index() {
    let whole = json!([
        {"id": "a", "function": {"name": "clock", "arguments": "{}"}},
        {"id": "b", "function": {"name": "clock", "arguments": {"utc_offset_minutes": 60}}}
    ]);
    assert_eq!(
        calls(&[fragments(whole)]),
        expected(&[("a", "clock", "{}"), ("b", "clock", "{\"utc_offset_minutes\":60}")])
    );
}

#[test]
fn calls_that_are_all_numbered_0_are_told_apart_by_their_ids() {
    let chunks = [
        fragments(json!([{"index": 0, "id": "a", "function": {"name": "clock", "arguments": "{}"}}])),
        fragments(json!([{"index": 0, "id": "b", "function": {"name": "lookup", "arguments": "{\"q\":1}"}}])),
    ];
    assert_eq!(
        calls(&chunks),
        expected(&[("a", "clock", "{}"), ("b", "lookup", "{\"q\":1}")])
    );
}

#[test]
fn a_call_without_id_and_without_arguments_is_a_call() {
    let chunks = [fragments(json!([{"index": 0, "function": {"name": "clock"}}]))];
    assert_eq!(calls(&chunks), expected(&[("", "clock", "{}")]));
}

#[test]
fn a_name_repeated_with_every_piece_is_the_name_and_one_in_pieces_is_joined() {
    let piece = |arguments: &str| {
        fragments(json!([{"index": 0, "id": "a", "function": {"name": "lookup", "arguments": arguments}}]))
    };
    assert_eq!(
        calls(&[piece("{\"q\":"), piece("1}")]),
        expected(&[("a", "lookup", "{\"q\":1}")])
    );
    let chunks = [
        fragments(json!([{"index": 0, "id": "a", "function": {"name": "look"}}])),
        fragments(json!([{"index": 0, "function": {"name": "up", "arguments": "{}"}}])),
    ];
    assert_eq!(calls(&chunks), expected(&[("a", "lookup", "{}")]));
}

#[test]
fn what_compatible_servers_get_wrong_is_forgiven() {
    let chunks = [
        json!({"id": "", "model": "", "choices": [{"index": 0, "delta": {"role": "assistant", "content": null}, "finish_reason": ""}]}),
        json!({"choices": null, "usage": null}),
        json!({"choices": [{"delta": {"reasoning_content": "hm"}, "finish_reason": null, "logprobs": {}}]}),
        json!({"choices": [{"delta": {"content": [{"type": "text", "text": "parts"}]}}], "x": {"y": []}}),
        json!({"choices": [{"delta": {"content": "!"}, "finish_reason": "stop"}], "usage": {"prompt_tokens": "7"}}),
    ];
    let reply = assemble(&chunks).expect("an answer");
    assert_eq!(
        (reply.text.as_str(), reply.model.as_str(), reply.provider_id),
        ("parts!", "m", None)
    );
    assert_eq!(reply.finish_reason.as_deref(), Some("stop"));
}

#[test]
fn tokens_nobody_counted_are_estimated() {
    for usage in [
        json!(null),
        json!({}),
        json!({"prompt_tokens": -5, "completion_tokens": 1}),
        json!({"prompt_tokens": 0, "completion_tokens": 0}),
        json!({"prompt_tokens": u64::MAX, "completion_tokens": 1}),
    ] {
        let chunks = [says("twelve chars"), json!({"choices": [], "usage": usage})];
        let reply = assemble(&chunks).expect("an answer");
        assert_eq!(reply.usage.output_tokens, 3, "{usage}");
        assert!(reply.usage.input_tokens > 0, "{usage}");
    }
}

#[test]
fn an_answer_that_says_nothing_is_malformed_and_one_that_was_withheld_is_refused() {
    let class = |chunks: &[Value]| assemble(chunks).expect_err("no answer").class;
    assert_eq!(class(&[]), ErrorClass::Malformed);
    assert_eq!(class(&[says(""), stops("stop"), used(5, 0)]), ErrorClass::Malformed);
    assert_eq!(class(&[stops("length")]), ErrorClass::Malformed);
    assert_eq!(class(&[stops("content_filter")]), ErrorClass::Rejected);
    assert_eq!(
        class(&[fragments(
            json!([{"index": 0, "id": "a", "function": {"arguments": "{}"}}])
        )]),
        ErrorClass::Malformed
    );
}

#[test]
fn what_grows_without_end_is_cut_off() {
    let many: Vec<Value> = (0..200)
        .map(|at| json!({"index": at, "function": {"name": "clock"}}))
        .collect();
    assert_eq!(
        assemble(&[fragments(many.into())]).expect_err("too many").class,
        ErrorClass::Malformed
    );
    let long = says(&"x".repeat(1024 * 1024));
    assert_eq!(
        assemble(&[long.clone(), long.clone(), long.clone(), long.clone(), long])
            .expect_err("too long")
            .class,
        ErrorClass::Malformed
    );
}

#[test]
fn garbage_is_malformed_and_is_not_repeated_in_the_error() {
    for garbage in ["", "{", "secret words", "[1]", "7", "{\"choices\": 7}", "\u{0}"] {
        let error = Assembly::default().take(garbage).expect_err(garbage);
        assert_eq!(error.class, ErrorClass::Malformed, "{garbage:?}");
        assert!(!error.message.contains("secret"), "{error}");
    }
}

/// A chunk of an answer: what differs between them, and texts that look like JSON.
fn any_chunk() -> impl Strategy<Value = String> {
    let text = prop::sample::select(
        &[
            "",
            "a",
            "so ",
            "ö",
            "\"",
            "\\",
            "\n",
            "\u{1}",
            "\"},\"finish_reason\":\"stop",
            "m",
        ][..],
    );
    let shape = prop_oneof![6 => Just(0), 1 => 1..8usize];
    (text, shape).prop_map(|(text, shape)| {
        let delta = match shape {
            0 => json!({"content": text}),
            1 => json!({"refusal": text}),
            2 => json!({"content": text, "reasoning": "hm"}),
            3 => {
                json!({"content": text, "tool_calls": [{"index": 0, "function": {"name": "clock", "arguments": text}}]})
            }
            4 => json!({"content": [{"text": text}]}),
            5 => {
                return format!(
                    r#"{{"choices":[{{"delta":{{"content":{}}},"finish_reason":"stop"}}]}}"#,
                    json!(text)
                );
            }
            6 => return used(3, 4).to_string(),
            _ => {
                return json!({"choices": [{"delta": {"content": text}}], "usage": {"prompt_tokens": 5, "completion_tokens": 6}})
                    .to_string();
            }
        };
        json!({"id": "m", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": null}]}).to_string()
    })
}

proptest! {
    #[test]
    fn chunks_that_look_like_the_one_before_say_the_same_as_if_they_were_read(chunks in prop::collection::vec(any_chunk(), 1..30)) {
        let (mut quick, mut plain) = (Assembly::default(), Assembly::default());
        for (at, chunk) in chunks.iter().enumerate() {
            // White space, but never the same: no chunk looks like the one before.
            let unlike = format!("{chunk}{}", " ".repeat(at));
            prop_assert_eq!(quick.take(chunk), plain.take(&unlike));
        }
        prop_assert_eq!(quick.is_finished(), plain.is_finished());
        prop_assert_eq!(quick.reply(&request()), plain.reply(&request()));
    }
}
