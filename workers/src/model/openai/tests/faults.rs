//! Answers that do not come, or not whole.

use super::super::super::ErrorClass;
use super::*;

/// How a call fails against a server that answers this.
async fn failure(answer: impl Into<Vec<u8>>) -> ModelError {
    let mut provider = Provider::answering(answer).await;
    let error = call(&provider.client()).await.0.expect_err("no answer");
    assert!(provider.requests.recv().await.is_some());
    assert!(
        provider.requests.try_recv().is_err(),
        "it was asked once: whether to ask again is decided elsewhere"
    );
    error
}

fn answer(status: u16, headers: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status} Status\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test]
async fn each_status_has_its_class_and_keeps_what_the_provider_says() {
    let body = r#"{"error": {"message": "because", "type": "t", "code": null}}"#;
    for (status, class) in [
        (429, ErrorClass::RateLimited),
        (408, ErrorClass::Unavailable),
        (500, ErrorClass::Unavailable),
        (503, ErrorClass::Unavailable),
        (529, ErrorClass::Unavailable),
        (400, ErrorClass::Rejected),
        (401, ErrorClass::Rejected),
        (403, ErrorClass::Rejected),
        (404, ErrorClass::Rejected),
        (422, ErrorClass::Rejected),
        (302, ErrorClass::Rejected),
    ] {
        let error = failure(answer(
            status,
            "content-type: application/json\r\nretry-after: 7\r\n",
            body,
        ))
        .await;
        assert_eq!(
            (error.class, error.status, error.after_output),
            (class, Some(status), false),
            "{error}"
        );
        let patience = (class != ErrorClass::Rejected).then_some(Duration::from_secs(7));
        assert_eq!(error.retry_after, patience, "{status}");
        assert!(status == 302 || error.message.contains("because"), "{error}");
    }
}

#[tokio::test]
async fn an_error_of_any_shape_is_understood_and_cut_to_size() {
    for (body, part) in [
        (r#"{"error": "plain"}"#.to_string(), "plain"),
        (r#"{"message": "flat"}"#.to_string(), "flat"),
        (
            r#"{"detail": [{"loc": ["model"], "msg": "required"}]}"#.to_string(),
            "required",
        ),
        (
            "<html>\n <h1>Bad   Gateway</h1></html>".to_string(),
            "<html> <h1>Bad Gateway</h1></html>",
        ),
        ("\u{fffd}".repeat(10_000), "…"),
    ] {
        let error = failure(answer(502, "", &body)).await;
        assert!(
            error.message.contains(part) && error.message.chars().count() < 560,
            "{error}"
        );
    }
    assert_eq!(failure(answer(502, "", "")).await.message, "the provider answered 502");
}

#[tokio::test]
async fn the_key_is_never_repeated() {
    let body = format!(r#"{{"error": {{"message": "Incorrect API key provided: {KEY}. Bearer {KEY}"}}}}"#);
    let error = failure(answer(401, "", &body)).await;
    assert!(
        !format!("{error:?}").contains(KEY) && error.message.contains("[redacted]"),
        "{error:?}"
    );
    let masked = failure(answer(401, "", r#"{"error": {"message": "key sk-ab***yz is wrong"}}"#)).await;
    assert!(!masked.message.contains("sk-ab"), "{masked}");
    let inside = failure(format!(
        "{STREAM_HEAD}data: {{\"error\": {{\"message\": \"{KEY}\"}}}}\n\n"
    ))
    .await;
    assert!(!inside.message.contains(KEY), "{inside}");
}

#[tokio::test]
async fn an_error_inside_a_stream_has_the_class_its_words_say() {
    for (error, class) in [
        (
            json!({"message": "slow down", "type": "rate_limit_error"}),
            ErrorClass::RateLimited,
        ),
        (json!({"message": "x", "code": 429}), ErrorClass::RateLimited),
        (json!({"message": "x", "code": "503"}), ErrorClass::Unavailable),
        (
            json!({"message": "x", "type": "overloaded_error"}),
            ErrorClass::Unavailable,
        ),
        (
            json!({"message": "x", "type": "server_error", "code": null}),
            ErrorClass::Unavailable,
        ),
        (
            json!({"message": "x", "type": "invalid_request_error"}),
            ErrorClass::Rejected,
        ),
        (
            json!({"message": "x", "code": "context_length_exceeded"}),
            ErrorClass::Rejected,
        ),
        (json!("it broke"), ErrorClass::Unavailable),
        (json!({}), ErrorClass::Unavailable),
    ] {
        let as_chunk = stream(&[says("begun"), json!({"error": error})]);
        let as_event = format!("{STREAM_HEAD}{}event: error\ndata: {error}\n\n", event(&says("begun")));
        for answer in [as_chunk, as_event] {
            let failed = failure(answer).await;
            assert_eq!((failed.class, failed.after_output), (class, true), "{error}: {failed}");
        }
        let body = json!({"error": error}).to_string();
        assert_eq!(
            failure(answer(200, "content-type: application/json\r\n", &body))
                .await
                .class,
            class
        );
    }
}

#[tokio::test]
async fn a_stream_cut_short_is_a_broken_connection() {
    let begun: String = [says("half a"), says(" sen")].iter().map(event).collect();
    let chunked = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    for answer in [
        format!("{STREAM_HEAD}{begun}"),
        format!("{chunked}{:x}\r\n{begun}\r\n", begun.len()),
    ] {
        let error = failure(answer).await;
        assert_eq!(
            (error.class, error.after_output),
            (ErrorClass::Connection, true),
            "{error}"
        );
    }
    let silent = failure(STREAM_HEAD).await;
    assert_eq!(
        (silent.class, silent.after_output),
        (ErrorClass::Connection, false),
        "{silent}"
    );
    let nothing = failure("").await;
    assert_eq!(nothing.class, ErrorClass::Connection, "{nothing}");
    assert!(!nothing.message.contains("127.0.0.1"), "no address: {nothing}");
}

#[tokio::test]
async fn garbage_in_a_stream_is_malformed_and_stays_out_of_the_error() {
    let begun = event(&says("so far"));
    let garbage: [&[u8]; 3] = [
        b"data: {\"choices\": [{\n\n",
        b"data: PRIVATE WORDS\n\n",
        b"data: \xff\xfe\n\n",
    ];
    for bytes in garbage {
        let error = failure([STREAM_HEAD.as_bytes(), begun.as_bytes(), bytes].concat()).await;
        assert_eq!(
            (error.class, error.after_output),
            (ErrorClass::Malformed, true),
            "{error}"
        );
        assert!(!error.message.contains("PRIVATE"), "{error}");
    }
    let page = failure(answer(200, "content-type: text/html\r\n", "<html>Log in</html>")).await;
    assert!(
        page.class == ErrorClass::Rejected && page.message.contains("OPENAI_BASE_URL"),
        "{page}"
    );
}

#[tokio::test]
async fn each_timeout_ends_the_call_it_is_for() {
    let short = Duration::from_millis(60);
    let long = Timeouts {
        first_token: Duration::from_secs(20),
        ..Timeouts::default()
    };
    let head_then_silence = vec![Do::Send(STREAM_HEAD.into()), Do::Hang];
    // A sign of life that is no output does not count as a first token.
    let role_then_silence = vec![Do::Send(format!("{STREAM_HEAD}{}", event(&says(""))).into()), Do::Hang];
    let word_then_silence = vec![
        Do::Send(format!("{STREAM_HEAD}{}", event(&says("word"))).into()),
        Do::Hang,
    ];
    let cases = [
        (
            vec![Do::Hang],
            Timeouts {
                first_token: short,
                ..long
            },
            "did not begin to answer within 60ms",
            false,
        ),
        (
            head_then_silence,
            Timeouts {
                first_token: short,
                ..long
            },
            "did not begin to answer",
            false,
        ),
        (
            role_then_silence,
            Timeouts {
                first_token: short,
                ..long
            },
            "did not begin to answer",
            false,
        ),
        (
            word_then_silence.clone(),
            Timeouts {
                between_tokens: short,
                ..long
            },
            "fell silent for 60ms",
            true,
        ),
        (
            word_then_silence,
            Timeouts { total: short, ..long },
            "did not finish within 60ms",
            true,
        ),
        (
            vec![Do::Hang],
            Timeouts { total: short, ..long },
            "did not finish within 60ms",
            false,
        ),
    ];
    for (script, timeouts, part, after_output) in cases {
        let provider = Provider::start(vec![script]).await;
        let error = call(&provider.client_with(timeouts)).await.0.expect_err("it hangs");
        assert_eq!(
            (error.class, error.after_output),
            (ErrorClass::Timeout, after_output),
            "{error}"
        );
        assert!(error.message.contains(part), "{error}, not {part}");
    }
}

#[tokio::test]
async fn a_provider_that_is_not_there_is_a_failed_connection() {
    let free = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port")
        .local_addr()
        .expect("an address");
    let options = OpenAiOptions {
        base_url: format!("http://{free}/v1"),
        api_key: None,
        timeouts: Timeouts::default(),
    };
    let error = call(&OpenAi::new(options).expect("an address"))
        .await
        .0
        .expect_err("nobody is there");
    assert_eq!(error.class, ErrorClass::Connection);
    assert!(
        error.message.contains("cannot connect") && error.message.contains("refused"),
        "{error}"
    );
}
