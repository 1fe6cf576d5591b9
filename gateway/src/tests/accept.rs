//! Runs and sessions are accepted once, or refused with nothing created.

use std::time::Duration;

use serde_json::json;
use steadfast::{queue::CommandQueue, run::SessionId};

use super::{
    house::{House, reply},
    reading::Reading,
};

#[tokio::test]
async fn an_accepted_run_is_committed_and_a_worker_is_told() {
    let house = House::open().await;
    let body = r#"{"input":"hello","metadata":{"ticket":7}}"#;
    let answer = house
        .call_with("POST", "/v1/runs", &[("x-request-id", "mine-1")], body)
        .await;
    assert_eq!(answer.status, 202);
    let id = answer.json["id"].as_str().expect("an id").to_owned();
    assert_eq!(answer.header("location"), format!("/v1/runs/{id}"));
    assert_eq!(answer.header("x-request-id"), "mine-1");
    assert_eq!(answer.json["object"], "run");
    assert_eq!(answer.json["status"], "queued");
    assert_eq!(answer.json["agent"], "assistant");
    assert_eq!(answer.json["metadata"], json!({"ticket": 7}));

    let got = house.call("GET", &format!("/v1/runs/{id}"), "").await;
    assert_eq!(got.json, answer.json, "the answer is what a read gives");
    let commands = house.queue.pull(8).await.expect("the queue");
    assert_eq!(
        commands
            .iter()
            .map(|delivery| delivery.command.run_id.to_string())
            .collect::<Vec<_>>(),
        [id.as_str()]
    );

    let events = house.call("GET", &format!("/v1/runs/{id}/events"), "").await;
    assert_eq!(events.json["data"][0]["type"], "run.requested");
    assert_eq!(
        (&events.json["first_id"], &events.json["has_more"]),
        (&json!("1"), &json!(false))
    );
}

#[tokio::test]
async fn a_run_that_ended_shows_its_output() {
    let house = House::open().await;
    let run_id = house.accept(r#"{"input":"hello"}"#).await;
    house.claim(run_id).await;
    house.act(run_id, reply(&["Hi ", "there"])).await;
    let got = house
        .call("GET", &format!("/v1/runs/{run_id}/wait?timeout_s=5"), "")
        .await;
    assert_eq!(
        (&got.json["status"], &got.json["output"]),
        (&json!("completed"), &json!("Hi there"))
    );
    assert!(got.json["ended_at"].as_str() > got.json["created_at"].as_str());
}

#[tokio::test]
async fn a_long_poll_answers_at_the_end_or_when_its_time_is_over() {
    let house = House::open().await;
    let run_id = house.accept(r#"{"input":"hello"}"#).await;
    let path = format!("/v1/runs/{run_id}/wait");
    let early = house.call("GET", &format!("{path}?timeout_s=0"), "").await;
    assert_eq!((early.status.as_u16(), &early.json["status"]), (200, &json!("queued")));
    house.claim(run_id).await;
    let waiting = async { house.call("GET", &format!("{path}?timeout_s=25"), "").await };
    let ending = async { house.act(run_id, reply(&["done"])).await };
    let (answer, ()) = tokio::join!(waiting, ending);
    assert_eq!(answer.json["status"], "completed");
    house
        .call("GET", &format!("{path}?timeout_s=61"), "")
        .await
        .is_problem(400, "invalid_request");
}

#[tokio::test]
async fn the_same_key_and_body_are_one_run_and_another_body_is_refused() {
    let house = House::open().await;
    let post = |key: &'static str, body: &'static str| {
        let house = &house;
        async move {
            house
                .call_with("POST", "/v1/runs", &[("Idempotency-Key", key)], body)
                .await
        }
    };
    let (a, b) = tokio::join!(post("k", r#"{"input":"a"}"#), post("k", r#"{"input":"a"}"#));
    assert_eq!((a.status.as_u16(), b.status.as_u16()), (202, 202));
    assert_eq!(a.json, b.json);
    let replayed = [&a, &b].map(|answer| answer.header("idempotency-replayed") == "true");
    assert_eq!(
        replayed.iter().filter(|replayed| **replayed).count(),
        1,
        "one happened, one was replayed"
    );
    assert_eq!(a.header("location"), b.header("location"));
    post("k", r#"{"input":"b"}"#)
        .await
        .is_problem(422, "idempotency_key_reused");
    assert_ne!(post("other", r#"{"input":"a"}"#).await.json["id"], a.json["id"]);
    post("white space", r#"{"input":"a"}"#)
        .await
        .is_problem(400, "bad_idempotency_key");
}

#[tokio::test]
async fn a_streaming_request_sent_again_streams_the_same_run_from_its_start() {
    let house = House::open().await;
    let post = || {
        house.send(
            "POST",
            "/v1/runs",
            &[("Idempotency-Key", "s")],
            r#"{"input":"a","stream":true}"#,
        )
    };
    let first = post().await;
    let location = first.headers()["location"].to_str().expect("text").to_owned();
    let run_id = location
        .strip_prefix("/v1/runs/")
        .and_then(|id| id.parse().ok())
        .expect("an id");
    let mut first = Reading::new(first);
    assert_eq!(first.take(1).await[0].event, "run.requested");
    house.claim(run_id).await;
    house.act(run_id, reply(&["x"])).await;
    let second = post().await;
    assert_eq!(second.headers()["idempotency-replayed"], "true");
    assert_eq!(second.headers()["location"], location.as_str());
    let second = Reading::new(second).rest().await;
    assert_eq!(second[0].event, "run.requested");
    assert_eq!(first.rest().await[..], second[1..]);
}

#[tokio::test]
async fn sessions_are_created_once_and_runs_join_them() {
    let house = House::open().await;
    let headers = [("Idempotency-Key", "one")];
    let created = house
        .call_with("POST", "/v1/sessions", &headers, r#"{"metadata":{"a":1}}"#)
        .await;
    assert_eq!(created.status, 201, "{created:?}");
    let again = house
        .call_with("POST", "/v1/sessions", &headers, r#"{"metadata":{"a":1}}"#)
        .await;
    assert_eq!(
        (again.header("idempotency-replayed"), &again.json),
        ("true", &created.json)
    );
    let other = house.call_with("POST", "/v1/sessions", &headers, "").await;
    other.is_problem(422, "idempotency_key_reused");

    let id = created.json["id"].as_str().expect("an id");
    assert_eq!(created.header("location"), format!("/v1/sessions/{id}"));
    let body = json!({"input": "a", "session_id": id}).to_string();
    let run = house.call("POST", "/v1/runs", &body).await;
    assert_eq!(
        (run.status.as_u16(), run.json["session_id"].as_str()),
        (202, Some(id)),
        "{run:?}"
    );
    let session = house.call("GET", &format!("/v1/sessions/{id}"), "").await;
    assert_eq!(
        (&session.json["runs"], &session.json["metadata"]),
        (&json!(1), &json!({"a": 1}))
    );
    let messages = house.call("GET", &format!("/v1/sessions/{id}/messages"), "").await;
    assert_eq!(messages.json["object"], "list");

    let missing = json!({"input": "a", "session_id": SessionId::default()}).to_string();
    let refused = house.call("POST", "/v1/runs", &missing).await;
    refused.is_problem(404, "session_not_found");
    assert_eq!(refused.json["errors"][0]["pointer"], "/session_id");
}

#[tokio::test]
async fn readiness_is_progress_and_metrics_are_told() {
    let house = House::open().await;
    assert_eq!(house.call("GET", "/healthz", "").await.status, 200);
    // The first probe follows the start at once; readiness comes with it.
    let ready = async {
        while house.call("GET", "/readyz", "").await.status != 200 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), ready)
        .await
        .expect("the gateway becomes ready");
    house.health.trouble("gateway", "the database is away");
    let troubled = house.call("GET", "/readyz", "").await;
    assert_eq!(
        (troubled.status.as_u16(), &troubled.json["ready"]),
        (503, &json!(false))
    );
    house.accept(r#"{"input":"a"}"#).await;
    let metrics = house.call("GET", "/metrics", "").await;
    let text = metrics.json.as_str().expect("text");
    assert!(
        text.contains(r#"steadfast_http_requests_total{method="POST",route="/v1/runs",status="202"}"#),
        "{text}"
    );
    let agents = house.call("GET", "/v1/agents", "").await;
    assert_eq!(agents.json["data"][0]["name"], "assistant");
    for path in ["/v1/runs?limit=3&status=queued", "/v1/sessions", "/v1/usage?days=7"] {
        assert_eq!(house.call("GET", path, "").await.json["object"], "list", "{path}");
    }
}
