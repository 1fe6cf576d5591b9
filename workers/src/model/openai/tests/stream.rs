//! Answers that come.

use steadfast::run::{ToolCall, Usage};

use super::*;

#[tokio::test]
async fn an_answer_streams_and_its_pieces_are_its_text() {
    let chunks = [
        says("Hel"),
        says("lo "),
        says(""),
        says("you"),
        stops("stop"),
        used(12, 3),
    ];
    let mut provider = Provider::answering(stream(&chunks)).await;
    let (reply, pieces) = call(&provider.client()).await;
    let reply = reply.expect("an answer");
    assert_eq!(pieces, ["Hel", "lo ", "you"]);
    assert_eq!(reply.text, "Hello you");
    assert_eq!(
        reply.usage,
        Usage {
            input_tokens: 12,
            output_tokens: 3,
            cost_microusd: 0
        }
    );
    assert_eq!(
        (reply.model.as_str(), reply.provider_id.as_deref()),
        ("m-2026", Some("chatcmpl-1"))
    );
    assert_eq!(reply.finish_reason.as_deref(), Some("stop"));
    assert!(reply.first_token_ms.is_some_and(|first| first <= reply.latency_ms));
    assert!(reply.deltas.is_empty(), "that is for the worker to fill in");

    let sent = provider.requests.recv().await.expect("a request");
    let (head, body) = sent.split_once("\r\n\r\n").expect("head and body");
    let head = head.to_lowercase();
    assert!(head.starts_with("post /v1/chat/completions "), "{head}");
    assert!(head.contains(&format!("authorization: bearer {KEY}")), "{head}");
    assert!(head.contains("idempotency-key: run_1/1/1"), "{head}");
    let body: Value = serde_json::from_str(body).expect("JSON");
    let expected = json!({
        "model": "m", "stream": true, "stream_options": {"include_usage": true}, "max_tokens": 64, "temperature": 0.5,
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}],
        "tools": [{"type": "function", "function":
            {"name": "clock", "description": "Time.", "parameters": {"type": "object"}}}]
    });
    assert_eq!(body, expected);
}

#[tokio::test]
async fn a_conversation_with_tools_is_sent_in_the_providers_words() {
    let mut provider = Provider::answering(stream(&[says("x"), stops("stop")])).await;
    let mut request = request();
    let call = ToolCall {
        id: "call_1".into(),
        name: "clock".into(),
        arguments: "{}".into(),
    };
    let asked = Message::Assistant {
        content: String::new(),
        tool_calls: vec![call],
    };
    let answered = Message::Tool {
        tool_call_id: "call_1".into(),
        content: "noon".into(),
    };
    request.messages = conversation([asked, answered]);
    request.tools.clear();
    provider.client().call(&request, &mut |_| {}).await.expect("an answer");
    let sent = provider.requests.recv().await.expect("a request");
    let body: Value = sent
        .split_once("\r\n\r\n")
        .and_then(|(_, body)| serde_json::from_str(body).ok())
        .expect("JSON");
    let expected = json!([
        {"role": "assistant", "tool_calls":
            [{"id": "call_1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "noon"}
    ]);
    assert_eq!(
        body["messages"].as_array().map(|all| &all[2..]),
        expected.as_array().map(Vec::as_slice)
    );
    assert_eq!(body.get("tools"), None, "some servers refuse an empty list");
}

#[tokio::test]
async fn a_character_cut_in_half_between_two_packets_arrives_whole() {
    let bytes = stream(&[says("Füße 🦀"), stops("stop")]).into_bytes();
    let crab = bytes
        .windows(4)
        .position(|four| four == "🦀".as_bytes())
        .expect("a crab");
    for cut in [crab + 1, crab + 2, crab + 3, crab - 5] {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (first, second) = (bytes[..cut].to_vec(), bytes[cut..].to_vec());
        let (arrived, go_on) = tokio::sync::oneshot::channel::<()>();
        tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.expect("a connection");
            let _ = socket.read(&mut [0; 4096]).await;
            let _ = socket.write_all(&first).await;
            // The second half leaves when the client has had time to take the first for all there is.
            let _ = tokio::time::timeout(Duration::from_millis(20), go_on).await;
            let _ = socket.write_all(&second).await;
        });
        let options = OpenAiOptions {
            base_url: format!("http://{address}/v1"),
            api_key: None,
            timeouts: Timeouts::default(),
        };
        let client = OpenAi::new(options).expect("an address");
        let reply = client.call(&request(), &mut |_| {}).await.expect("an answer");
        drop(arrived);
        assert_eq!(reply.text, "Füße 🦀", "cut at {cut}");
    }
}

#[tokio::test]
async fn a_server_that_does_not_stream_has_answered_all_the_same() {
    let body = json!({
        "id": "x", "model": "m", "usage": {"prompt_tokens": 1, "completion_tokens": 2},
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "whole"}}]
    })
    .to_string();
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json; charset=utf-8\r\n";
    let provider = Provider::answering(format!("{head}content-length: {}\r\n\r\n{body}", body.len())).await;
    let (reply, pieces) = call(&provider.client()).await;
    assert_eq!(reply.expect("an answer").text, "whole");
    assert_eq!(pieces, ["whole"]);
}

#[tokio::test]
async fn a_stream_that_ends_without_done_but_with_a_reason_is_whole() {
    let chunks: String = [says("all"), stops("stop")].iter().map(event).collect();
    let cut = Provider::answering(format!("{STREAM_HEAD}{chunks}")).await;
    assert_eq!(call(&cut.client()).await.0.expect("an answer").text, "all");
    let never_ends = Provider::start(vec![vec![Do::Send(format!("{STREAM_HEAD}{chunks}").into()), Do::Hang]]).await;
    let impatient = Timeouts {
        between_tokens: Duration::from_millis(50),
        ..Timeouts::default()
    };
    assert_eq!(
        call(&never_ends.client_with(impatient))
            .await
            .0
            .expect("an answer")
            .text,
        "all"
    );
    let no_reason = Provider::answering(stream(&[says("all")])).await;
    assert_eq!(
        call(&no_reason.client()).await.0.expect("[DONE] is an end too").text,
        "all"
    );
}

#[tokio::test]
async fn a_connection_serves_one_call_after_another() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let events: String = [says("again"), stops("stop")].iter().map(event).collect::<String>() + "data: [DONE]\n\n";
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{events}\r\n0\r\n\r\n",
        events.len()
    );
    // One connection is accepted, ever: a second would wait in vain.
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.expect("a connection");
        while socket.read(&mut [0; 16_384]).await.is_ok_and(|read| read > 0) {
            let _ = socket.write_all(answer.as_bytes()).await;
        }
    });
    let timeouts = Timeouts {
        first_token: Duration::from_secs(5),
        ..Timeouts::default()
    };
    let client = OpenAi::new(OpenAiOptions {
        base_url: format!("http://{address}"),
        api_key: None,
        timeouts,
    })
    .expect("an address");
    for _ in 0..5 {
        assert_eq!(call(&client).await.0.expect("an answer").text, "again");
    }
}

#[tokio::test]
async fn the_models_of_a_provider_are_listed_in_its_order() {
    let list = |body: &str| {
        format!(
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let cases = [
        (
            list(r#"{"data": [{"id": "b"}, {"id": "a"}, {"name": "no id"}]}"#),
            vec!["b", "a"],
        ),
        (list("not json"), vec![]),
        ("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".into(), vec![]),
    ];
    for (answer, expected) in cases {
        let mut provider = Provider::answering(answer).await;
        assert_eq!(
            provider.client().models().await.expect("a list, if an empty one"),
            expected
        );
        assert!(
            provider
                .requests
                .recv()
                .await
                .expect("a request")
                .starts_with("GET /v1/models ")
        );
    }
    let down = Provider::answering("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n").await;
    assert!(down.client().models().await.is_err(), "trouble is not an empty list");
}
