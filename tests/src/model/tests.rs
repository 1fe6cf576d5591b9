//! The model over its own wire: what a client of it sees.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::*;
use crate::{SseClient, http, sse::SseError};

fn user(text: &str) -> Value {
    json!({"role": "user", "content": text})
}

fn lookup() -> Value {
    json!([{"type": "function", "function": {"name": "other"}}, {"type": "function", "function": {"name": "lookup"}}])
}

fn request(messages: &[Value]) -> Value {
    json!({"model": "m", "messages": messages, "tools": lookup()})
}

async fn ask(model: &ScriptedModel, body: &Value) -> (u16, Value) {
    let answer = http()
        .post(format!("{}/chat/completions", model.base_url()))
        .json(body)
        .send()
        .await
        .unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

async fn stream(model: &ScriptedModel, mut body: Value) -> Result<Vec<Value>, SseError> {
    body["stream"] = true.into();
    body["stream_options"] = json!({"include_usage": true});
    let url = format!("{}/chat/completions", model.base_url());
    let mut frames = SseClient::post(&url, &body).await?.collect().await?;
    assert_eq!(frames.pop().map(|f| f.data).as_deref(), Some("[DONE]"));
    frames
        .iter()
        .map(|f| serde_json::from_str(&f.data).map_err(|e| SseError::Malformed(e.to_string())))
        .collect()
}

fn text_of(chunks: &[Value]) -> String {
    chunks
        .iter()
        .filter_map(|c| c["choices"][0]["delta"]["content"].as_str())
        .collect()
}

#[tokio::test]
async fn a_tool_is_called_and_then_an_answer_given() {
    let model = ScriptedModel::start().await;
    let (status, first) = ask(&model, &request(&[user("where?")])).await;
    let message = &first["choices"][0]["message"];
    let call = &message["tool_calls"][0];
    assert_eq!(
        (status, &first["choices"][0]["finish_reason"]),
        (200, &json!("tool_calls"))
    );
    assert_eq!(
        call["function"],
        json!({"name": "lookup", "arguments": r#"{"q":"where?"}"#})
    );
    let result = json!({"role": "tool", "tool_call_id": call["id"], "content": "here"});
    let (_, second) = ask(&model, &request(&[user("where?"), message.clone(), result])).await;
    let answer = second["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(
        answer.ends_with(" done.") && answer.split(' ').count() == 32,
        "{answer}"
    );
    assert_ne!(first["id"], second["id"]);
    assert_eq!(second["usage"]["completion_tokens"], 32);

    let stats = model.stats();
    assert_eq!(
        (stats.requests, stats.kind("tool_call"), stats.kind("answer")),
        (2, 1, 1)
    );
    assert_eq!((stats.calls_for("where?"), stats.calls_for("who?")), (2, 0));
    assert_eq!(model.ledger().iter().map(|c| c.step).collect::<Vec<_>>(), [1, 2]);
}

#[tokio::test]
async fn a_stream_carries_the_same_as_a_whole_answer() {
    let model = ScriptedModel::start().await;
    let chunks = stream(&model, request(&[user(r#"[[tool:a {"x":"é"}]][[tool:b {}]]"#)]))
        .await
        .unwrap();
    let mut calls = vec![(String::new(), String::new()); 2];
    for part in chunks
        .iter()
        .filter_map(|c| c["choices"][0]["delta"]["tool_calls"].get(0))
    {
        let call = &mut calls[part["index"].as_u64().unwrap() as usize];
        call.0.push_str(part["function"]["name"].as_str().unwrap_or_default());
        call.1
            .push_str(part["function"]["arguments"].as_str().unwrap_or_default());
    }
    assert_eq!(calls, [("a".into(), r#"{"x":"é"}"#.into()), ("b".into(), "{}".into())]);
    assert_eq!(chunks[chunks.len() - 2]["choices"][0]["finish_reason"], "tool_calls");
    assert!(chunks[chunks.len() - 1]["usage"]["total_tokens"].as_u64().unwrap() > 0);

    let chunks = stream(&model, request(&[user("[[say:two  words]]")])).await.unwrap();
    assert_eq!(text_of(&chunks), "two  words");
    let chunks = stream(&model, json!({"messages": [user("[[tokens:200]]")]}))
        .await
        .unwrap();
    assert_eq!(text_of(&chunks).split(' ').count(), 200);
}

#[tokio::test]
async fn an_echo_shows_the_conversation() {
    let model = ScriptedModel::start().await;
    let said = json!({"role": "assistant", "content": "hello"});
    let shown = [user("hi"), said, user("and now [[echo]]")];
    let chunks = stream(&model, request(&shown)).await.unwrap();
    assert_eq!(serde_json::from_str::<Value>(&text_of(&chunks)).unwrap(), json!(shown));
}

#[tokio::test]
async fn errors_come_as_often_as_ordered_and_then_the_answer() {
    let model = ScriptedModel::start().await;
    for (status, retry_after) in [(429, Some("3")), (503, Some("1")), (500, None), (400, None)] {
        let seconds = if status == 429 { ":3" } else { "" };
        let body = request(&[user(&format!("[[fault:{status}{seconds}*2]] go"))]);
        for _ in 0..2 {
            let url = format!("{}/chat/completions", model.base_url());
            let answer = http().post(url).json(&body).send().await.unwrap();
            assert_eq!(answer.status().as_u16(), status);
            assert_eq!(
                answer.headers().get("retry-after").map(|v| v.to_str().unwrap()),
                retry_after
            );
            assert!(answer.json::<Value>().await.unwrap()["error"]["message"].is_string());
        }
        assert_eq!(ask(&model, &body).await.0, 200);
        assert_eq!(model.stats().kind(&format!("error_{status}")), 2);
    }
}

#[tokio::test]
async fn a_fault_can_wait_for_the_second_step() {
    let model = ScriptedModel::start().await;
    let task = user("[[fault:503@2]]");
    let (status, first) = ask(&model, &request(std::slice::from_ref(&task))).await;
    assert_eq!(status, 200);
    let message = first["choices"][0]["message"].clone();
    let result = json!({"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "x"});
    assert_eq!(ask(&model, &request(&[task, message, result])).await.0, 503);
}

#[tokio::test]
async fn a_streamed_word_can_say_when_it_was_sent() {
    let model = ScriptedModel::start_with(Settings {
        token_ms: 20,
        ..Settings::default()
    })
    .await;
    let chunks = stream(&model, request(&[user("[[times:3]]")])).await.unwrap();
    let text = text_of(&chunks);
    let times: Vec<u64> = text
        .split_whitespace()
        .filter_map(|word| word.strip_prefix('t')?.parse().ok())
        .collect();
    assert!(times.len() == 3 && times[0] > 0, "{text}");
    assert!(times.windows(2).all(|pair| pair[1] > pair[0]), "{text}");
}

#[tokio::test]
async fn a_stream_breaks_in_the_way_that_was_ordered() {
    let model = ScriptedModel::start().await;
    let broken =
        async |fault: &str| stream(&model, request(&[user(&format!("[[fault:{fault}*1]][[say:a b c d]]"))])).await;
    assert!(matches!(broken("cut").await, Err(SseError::Transport(_))));
    assert!(matches!(broken("malformed").await, Err(SseError::Malformed(_))));
    assert!(matches!(broken("bad_utf8").await, Err(SseError::Malformed(_))));
    assert_eq!(text_of(&broken("empty").await.unwrap()), "");
    assert_eq!(
        text_of(&broken("empty").await.unwrap()),
        "a b c d",
        "it was ordered once"
    );

    let url = format!("{}/chat/completions", model.base_url());
    let body = json!({"messages": [user("[[fault:error_in_200]]")], "stream": true});
    let frames = SseClient::post(&url, &body).await.unwrap().collect().await.unwrap();
    assert!(frames.last().unwrap().data.starts_with(r#"{"error":"#));

    let cut = json!({"messages": [user("[[fault:cut]]")]});
    assert!(
        http()
            .post(&url)
            .json(&cut)
            .send()
            .await
            .unwrap()
            .bytes()
            .await
            .is_err()
    );
    assert_eq!((model.stats().kind("cut"), model.stats().kind("malformed")), (2, 1));
}

#[tokio::test]
async fn a_hanging_model_is_in_flight_until_its_client_gives_up() {
    let model = ScriptedModel::start().await;
    let url = format!("{}/chat/completions", model.base_url());
    let patience = Duration::from_millis(300);
    let body = json!({"messages": [user("[[fault:hang]]")]});
    assert!(http().post(&url).json(&body).timeout(patience).send().await.is_err());
    let body = json!({"messages": [user("[[fault:hang_mid]]")], "stream": true});
    let mut frames = SseClient::post(&url, &body).await.unwrap();
    assert!(frames.next().await.unwrap().unwrap().data.contains("this"));
    let rest = tokio::time::timeout(patience, async { while frames.next().await.is_some() {} }).await;
    assert!(rest.is_err(), "it should hang");
    assert!(model.stats().in_flight >= 1);
    drop(frames);
    let end = Instant::now() + Duration::from_secs(5);
    while model.stats().in_flight > 0 {
        assert!(Instant::now() < end, "a request outlived its client");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!((model.stats().kind("hang"), model.stats().kind("hang_mid")), (1, 1));
}

#[tokio::test]
async fn a_broken_history_is_refused_unless_told_otherwise() {
    let model = ScriptedModel::start().await;
    let orphan = request(&[user("hi"), json!({"role": "tool", "tool_call_id": "a", "content": "x"})]);
    let (status, body) = ask(&model, &orphan).await;
    assert_eq!((status, &body["error"]["type"]), (400, &json!("invalid_request_error")));
    model.set(Settings {
        strict: false,
        ..model.settings()
    });
    assert_eq!(ask(&model, &orphan).await.0, 200);
    assert_eq!(ask(&model, &json!("not an object")).await.0, 400);
    assert_eq!(ask(&model, &request(&[user("[[fault:nonsense]]")])).await.0, 400);
    assert_eq!(model.stats().kind("error_400"), 3);
}

#[tokio::test]
async fn a_killed_model_cuts_its_clients_and_comes_back_with_its_counts() {
    let model = ScriptedModel::start().await;
    model.set(Settings {
        token_ms: 20,
        ..Settings::default()
    });
    let url = format!("{}/chat/completions", model.base_url());
    let body = json!({"messages": [user("long")], "stream": true});
    let mut frames = SseClient::post(&url, &body).await.unwrap();
    assert!(frames.next().await.unwrap().is_ok());
    model.kill();
    let mut last = None;
    while let Some(frame) = frames.next().await {
        last = Some(frame);
    }
    assert!(matches!(last, Some(Err(SseError::Transport(_)))), "{last:?}");
    assert!(http().get(format!("{}/models", model.base_url())).send().await.is_err());
    model.restart().await.unwrap();
    assert_eq!(
        text_of(&stream(&model, request(&[user("[[say:back]]")])).await.unwrap()),
        "back"
    );
    assert_eq!(model.stats().requests, 2);
}

#[tokio::test]
async fn it_is_steered_and_read_over_http() {
    let model = ScriptedModel::start().await;
    let root = format!("http://{}", model.address());
    let ctl = format!("{root}/ctl?error_rate=1&ttft_ms=1&retry_after_s=-1&strict=false");
    let stats: Value = http().post(ctl).send().await.unwrap().json().await.unwrap();
    assert_eq!(stats["settings"]["retry_after_s"], Value::Null);
    assert!(matches!(ask(&model, &request(&[user("x")])).await.0, 429 | 503));
    let stats: Value = http()
        .get(format!("{root}/stats"))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(
        (&stats["requests"], &stats["conversations"]["x"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(
        http()
            .post(format!("{root}/ctl?eror_rate=1"))
            .send()
            .await
            .unwrap()
            .status(),
        400
    );
    http().post(format!("{root}/ctl?reset=true")).send().await.unwrap();
    assert_eq!(model.stats().requests, 0);
    crate::wait_http_ok(&format!("{root}/v1/models"), Duration::from_secs(5))
        .await
        .unwrap();
}
