//! The same post again: one run, one answer.

use std::collections::BTreeSet;

use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use steadfast_tests::{SseClient, fresh_prefix};

use crate::support::{Api, Stack, in_both_modes, read};

in_both_modes!(
    a_post_sent_again_answers_the_same_run,
    twenty_posts_at_once_make_one_run,
    a_streamed_post_sent_again_streams_the_same_run,
    other_posts_take_keys_too,
);

async fn a_post_sent_again_answers_the_same_run(stack: &Stack) {
    let (api, key) = (stack.api(), fresh_prefix());
    let body = json!({"input": "[[say:once]]", "metadata": {"n": 1}});
    let first = api.post_with_key("/v1/runs", &key, &body).await;
    let run = first.expect(202);
    assert_eq!(first.header("idempotency-replayed"), None);
    api.ended(run["id"].as_str().expect("an id")).await;
    // Another gateway knows the key too.
    let again = stack
        .apis()
        .pop()
        .expect("a gateway")
        .post_with_key("/v1/runs", &key, &body)
        .await;
    assert_eq!(
        (again.expect(202), again.header("idempotency-replayed")),
        (run, Some("true"))
    );
    assert_eq!(again.header("location"), first.header("location"));
    for other in [
        json!({"input": "[[say:twice]]"}),
        json!({"input": "[[say:once]]", "metadata": {"n": 2}}),
    ] {
        let refused = api.post_with_key("/v1/runs", &key, &other).await.problem(422);
        assert_eq!(refused["code"], "idempotency_key_reused");
    }
    let elsewhere = api.post_with_key("/v1/sessions", &key, &json!({})).await.problem(422);
    assert_eq!(elsewhere["code"], "idempotency_key_reused");
}

async fn twenty_posts_at_once_make_one_run(stack: &Stack) {
    let (apis, key) = (stack.apis(), fresh_prefix());
    let text = format!("[[say:only]] {key}");
    let body = json!({ "input": text });
    let posts = (0..20).map(|n| apis[n % apis.len()].post_with_key("/v1/runs", &key, &body));
    let answers = join_all(posts).await;
    let runs: BTreeSet<String> = answers
        .iter()
        .map(|answer| answer.expect(202)["id"].to_string())
        .collect();
    let replayed = answers
        .iter()
        .filter(|answer| answer.header("idempotency-replayed") == Some("true"))
        .count();
    assert_eq!((runs.len(), replayed), (1, 19));
    let run: String = serde_json::from_str(runs.first().expect("one")).expect("a text");
    apis[0].ended(&run).await;
    assert_eq!(stack.model().stats().calls_for(&text), 1, "the model was asked once");
}

async fn a_streamed_post_sent_again_streams_the_same_run(stack: &Stack) {
    let (api, key) = (stack.api(), fresh_prefix());
    let body = json!({"input": "[[tool:clock {}]] [[tokens:30]]", "stream": true});
    let open = async |api: &Api| {
        let request = api
            .request(Method::POST, "/v1/runs")
            .header("idempotency-key", &key)
            .json(&body);
        SseClient::open(request, &[]).await.expect("a stream")
    };
    let first = open(&api).await;
    // The second comes while the first is running, the third after the end.
    let second = open(&stack.apis().pop().expect("a gateway")).await;
    assert_eq!(second.headers().get("location"), first.headers().get("location"));
    assert_eq!(
        second
            .headers()
            .get("idempotency-replayed")
            .map(|value| value.as_bytes()),
        Some(b"true".as_slice())
    );
    let (first, second) = tokio::join!(read(first), read(second));
    let third = read(open(&api).await).await;
    for seen in [&first, &second, &third] {
        seen.assert_sound();
        seen.assert_same(&first);
    }
}

async fn other_posts_take_keys_too(stack: &Stack) {
    let (api, key) = (stack.api(), fresh_prefix());
    let make = async || api.post_with_key("/v1/sessions", &key, &json!({})).await;
    let (one, two) = (make().await, make().await);
    assert_eq!(
        (one.expect(201), two.header("idempotency-replayed")),
        (two.expect(201), Some("true"))
    );

    let run = api
        .task(json!({"input": "[[tool:ask {}]] [[then]] [[say:so be it]]", "tools": [{"name": "ask"}]}))
        .await;
    let calls = api.waits_for(&run, 1).await;
    let path = format!("/v1/runs/{run}/tool_outputs");
    let body = json!({"outputs": [{"tool_call_id": calls[0], "output": "yes"}]});
    let key = fresh_prefix();
    let first: Value = api.post_with_key(&path, &key, &body).await.expect(200);
    api.ended(&run).await;
    let again = api.post_with_key(&path, &key, &body).await;
    assert_eq!(
        (again.expect(200), again.header("idempotency-replayed")),
        (first, Some("true"))
    );
    let other = json!({"outputs": [{"tool_call_id": calls[0], "output": "no"}]});
    assert_eq!(
        api.post_with_key(&path, &key, &other).await.problem(422)["code"],
        "idempotency_key_reused"
    );

    let longest = "k".repeat(255);
    let key = format!("{}{}", fresh_prefix(), longest)
        .chars()
        .take(255)
        .collect::<String>();
    api.post_with_key("/v1/runs", &key, &json!({"input": "[[say:x]]"}))
        .await
        .expect(202);
}
