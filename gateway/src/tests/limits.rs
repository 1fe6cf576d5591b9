//! Whatever a client sends, it is bounded, answered with the remedy, and creates nothing.

use std::time::Duration;

use steadfast::run::{RunId, TenantId};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    house::{Answer, House, serve_router},
    reading::Reading,
};
use crate::{GatewayLimits, Identity, routes};

/// Sends raw bytes and reads what comes back until the connection ends.
async fn raw(house: &House, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(house.address).await.expect("a connection");
    stream.write_all(bytes).await.expect("written");
    let mut answer = Vec::new();
    // A reset after the answer is fine: the rest of the request was not read.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_gigabyte_is_refused_before_it_is_sent() {
    let house = House::open().await;
    let head = "POST /v1/runs HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1073741824\r\nconnection: close\r\n\r\n";
    let answer = raw(&house, head.as_bytes()).await;
    assert!(
        answer.starts_with("HTTP/1.1 413") && answer.contains("gateway.body_bytes_max"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_body_that_only_turns_out_too_long_is_refused_too() {
    let limits = GatewayLimits {
        body_bytes_max: 1000,
        ..Default::default()
    };
    let house = House::with(Identity::Open, limits).await;
    let chunk = format!("{:x}\r\n{}\r\n", 2000, "x".repeat(2000));
    let head = "POST /v1/runs HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n";
    let answer = raw(&house, format!("{head}{chunk}").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[tokio::test]
async fn a_client_that_is_still_sending_hears_why_it_was_refused() {
    let house = House::open().await;
    let body = format!(r#"{{"input":"{}"}}"#, "x".repeat(16 * 1024 * 1024));
    house
        .call("POST", "/v1/runs", &body)
        .await
        .is_problem(413, "body_too_large");
    house
        .call("POST", "/v1/nothing", &body)
        .await
        .is_problem(404, "route_not_found");
    house
        .call("PUT", "/v1/runs", &body)
        .await
        .is_problem(405, "method_not_allowed");
}

#[tokio::test]
async fn a_panic_is_a_problem_that_does_not_tell_what_happened() {
    async fn broken() -> &'static str {
        let secret = "the secret";
        panic!("{secret}")
    }
    let house = House::open().await;
    let router = routes::finish(axum::Router::new().route("/broken", axum::routing::get(broken)));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/broken", listener.local_addr().expect("an address"));
    serve_router(router, listener, house.shutdown.clone());
    let answer = Answer::read(house.client.get(url).send().await.expect("an answer")).await;
    answer.is_problem(500, "internal");
    assert!(!answer.json.to_string().contains("secret"), "{answer:?}");
}

#[tokio::test]
async fn while_the_database_is_away_clients_are_told_to_come_back() {
    let house = House::open().await;
    house.accept(r#"{"input":"a"}"#).await;
    house.store.db.close().await;
    for (path, body) in [("/v1/runs", r#"{"input":"a"}"#), ("/v1/sessions", "{}")] {
        let answer = house.call("POST", path, body).await;
        answer.is_problem(503, "unavailable");
        assert_eq!(
            (answer.header("retry-after"), &answer.json["retryable"]),
            ("1", &serde_json::json!(true))
        );
    }
    let missing = steadfast::run::RunId::default();
    house
        .call("GET", &format!("/v1/runs/{missing}"), "")
        .await
        .is_problem(503, "unavailable");
}

#[tokio::test]
async fn a_head_that_dribbles_is_not_waited_for() {
    let limits = GatewayLimits {
        header_seconds_max: 1,
        ..Default::default()
    };
    let house = House::with(Identity::Open, limits).await;
    let answer = tokio::time::timeout(
        Duration::from_secs(20),
        raw(&house, b"GET /healthz HTTP/1.1\r\nhost: loc"),
    )
    .await;
    assert_eq!(answer.as_deref(), Ok(""), "the connection is closed");
}

#[tokio::test]
async fn hostile_bodies_are_bad_requests_and_create_nothing() {
    let house = House::open().await;
    let deep = format!("{{\"input\":\"a\",\"metadata\":{{\"a\":{}", "[".repeat(200_000));
    let bodies: [&[u8]; 10] = [
        b"",
        b"{",
        b"nonsense",
        b"[]",
        b"{\"input\":\"\xff\xfe\"}",
        b"{\"input\":\"\\ud800\"}",
        b"{\"input\":\"a\"} trailing",
        b"{\"input\":\"a\",\"input\":\"b\"}",
        b"{\"input\":1e999}",
        deep.as_bytes(),
    ];
    for body in bodies {
        let request = house.client.post(format!("{}/v1/runs", house.url)).body(body.to_vec());
        let answer = Answer::read(request.send().await.expect("an answer")).await;
        let code = answer.json["code"].as_str().unwrap_or_default().to_owned();
        answer.is_problem(400, &code);
    }
    let log = house.store.reader.log(Default::default(), 10).await.expect("the store");
    assert!(log.is_empty(), "nothing was created");
}

#[tokio::test]
async fn unknown_routes_and_methods_are_problems_too() {
    let house = House::open().await;
    house
        .call("GET", "/v1/nothing", "")
        .await
        .is_problem(404, "route_not_found");
    house.call("GET", "/", "").await.is_problem(404, "route_not_found");
    let wrong = house.call("DELETE", "/v1/runs", "").await;
    wrong.is_problem(405, "method_not_allowed");
    assert!(wrong.header("allow").contains("POST"), "{wrong:?}");
    house
        .call("POST", "/healthz", "")
        .await
        .is_problem(405, "method_not_allowed");
    house
        .call("GET", "/v1/runs/%ff", "")
        .await
        .is_problem(404, "run_not_found");
    house
        .call("GET", "/v1/runs?status=done", "")
        .await
        .is_problem(400, "invalid_request");
    house
        .call("GET", "/v1/runs?limit=0", "")
        .await
        .is_problem(400, "invalid_request");
    house
        .call("GET", "/v1/runs?after=x", "")
        .await
        .is_problem(400, "invalid_request");
}

#[tokio::test]
async fn pages_of_other_sites_are_refused_where_there_is_no_identity() {
    let house = House::open().await;
    let post = |headers| house.call_with("POST", "/v1/runs", headers, r#"{"input":"a"}"#);
    post(&[("Origin", "https://evil.example")])
        .await
        .is_problem(403, "foreign_site");
    post(&[("Host", "rebound.example")])
        .await
        .is_problem(403, "foreign_site");
}

#[tokio::test]
async fn a_tenant_over_its_rate_is_told_when_to_come_back() {
    let limits = GatewayLimits {
        requests_per_minute: 2,
        ..Default::default()
    };
    let house = House::with(Identity::Open, limits).await;
    let first = house.call("GET", "/v1/agents", "").await;
    assert_eq!(
        (first.status.as_u16(), first.header("ratelimit-policy")),
        (200, "\"requests\";q=2;w=60")
    );
    assert!(
        first.header("ratelimit").starts_with("\"requests\";r=1;t="),
        "{first:?}"
    );
    house.call("GET", "/v1/agents", "").await;
    let refused = house.call("GET", "/v1/agents", "").await;
    refused.is_problem(429, "rate_limited");
    assert_eq!(refused.json["retryable"], true);
    let seconds: u64 = refused.header("retry-after").parse().expect("seconds");
    assert!((1..=30).contains(&seconds), "{seconds}");
    assert_eq!(
        house.call("GET", "/healthz", "").await.status,
        200,
        "operators are not limited"
    );
}

#[tokio::test]
async fn streams_over_the_limit_are_refused_and_their_runs_not_created() {
    let limits = GatewayLimits {
        streams_per_tenant_max: 1,
        ..Default::default()
    };
    let house = House::with(Identity::Open, limits).await;
    let open = || house.send("POST", "/v1/runs", &[], r#"{"input":"a","stream":true}"#);
    let mut first = Reading::new(open().await);
    first.take(1).await;
    let refused = Answer::read(open().await).await;
    refused.is_problem(429, "too_many_streams");
    assert!(!refused.header("retry-after").is_empty());
    let log = house.store.reader.log(Default::default(), 10).await.expect("the store");
    assert_eq!(log.len(), 1, "only the first run was created");
}

#[tokio::test]
async fn a_connection_over_the_limit_is_told_to_come_back() {
    let limits = GatewayLimits {
        connections_max: 1,
        ..Default::default()
    };
    let house = House::with(Identity::Open, limits).await;
    let mut first = TcpStream::connect(house.address).await.expect("a connection");
    first
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .expect("written");
    let mut byte = [0];
    first.read_exact(&mut byte).await.expect("an answer");
    let mut second = TcpStream::connect(house.address).await.expect("a connection");
    let mut answer = String::new();
    second.read_to_string(&mut answer).await.expect("an answer");
    assert!(
        answer.starts_with("HTTP/1.1 503") && answer.contains("retry-after: 1"),
        "{answer}"
    );
    let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
    let problem: serde_json::Value = serde_json::from_str(body).expect("a whole problem");
    assert_eq!(problem["code"], "too_many_connections");
}

/// Posts until the answer is of this kind; the gateway looks at what waits now and then.
async fn posts_until(house: &House, reached: impl Fn(&Answer) -> bool) -> Answer {
    for _ in 0..400 {
        let answer = house.call("POST", "/v1/runs", r#"{"input":"hello"}"#).await;
        if reached(&answer) {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("the gateway never came to see what waits")
}

#[tokio::test]
async fn a_tenant_with_a_line_queues_up_unannounced_until_the_line_is_full() {
    let limits = GatewayLimits {
        held_runs_per_tenant_max: 6,
        line_runs_min: 2,
        ..Default::default()
    };
    let house = House::with(Identity::Open, limits).await;
    let first = [
        house.accept(r#"{"input":"a"}"#).await,
        house.accept(r#"{"input":"b"}"#).await,
    ];
    assert_eq!(house.store.reader.hold(&first).await.expect("held"), 2);
    let refused = posts_until(&house, |answer| answer.status != 202).await;
    refused.is_problem(429, "too_many_held_runs");
    let seconds = |name| refused.header(name).parse::<u64>().unwrap_or_default();
    assert!((1..=60).contains(&seconds("retry-after")), "{refused:?}");
    assert_eq!(refused.header("ratelimit-policy"), "\"held_runs\";q=6");
    assert!(
        refused.header("ratelimit").starts_with("\"held_runs\";r=0;t="),
        "{refused:?}"
    );
    assert_eq!(refused.json["retryable"], true);
    let detail = refused.json["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("gateway.held_runs_per_tenant_max"), "{detail}");
    let demand = house.store.reader.demand(RunId::default()).await.expect("answered");
    assert_eq!(demand.iter().map(|demand| demand.held).collect::<Vec<_>>(), [6]);

    // Before the body: one that would be refused for itself, and is sent slowly, is not waited for.
    let head =
        "POST /v1/runs HTTP/1.1\r\nhost: localhost\r\ncontent-length: 900000\r\nconnection: close\r\n\r\nnot json";
    let answer = raw(&house, head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 429"), "{answer}");

    let tenant = TenantId::default();
    let taken = house.store.reader.take_held(&tenant, 4, Duration::from_secs(60)).await;
    assert_eq!(taken.expect("taken").len(), 4);
    posts_until(&house, |answer| answer.status == 202).await;
}

#[tokio::test]
async fn where_runs_wait_too_long_for_a_worker_nobody_may_add_to_them_but_all_else_is_served() {
    let limits = GatewayLimits {
        waited_seconds_max: 1,
        ..Default::default()
    };
    let house = House::with(Identity::Open, limits).await;
    let run_id = house.accept(r#"{"input":"hello"}"#).await;
    let again = async |key: &str| {
        let headers = [("idempotency-key", key)];
        Answer::read(house.send("POST", "/v1/runs", &headers, r#"{"input":"keyed"}"#).await).await
    };
    assert_eq!(again("k1").await.status, 202);
    let refused = posts_until(&house, |answer| answer.status != 202).await;
    refused.is_problem(429, "overloaded");
    // What was accepted before is answered as it was, however much there is to do.
    let told = again("k1").await;
    assert_eq!(
        (told.status, told.header("idempotency-replayed")),
        (axum::http::StatusCode::ACCEPTED, "true"),
        "{told:?}"
    );
    again("k2").await.is_problem(429, "overloaded");
    assert!(!refused.header("retry-after").is_empty(), "{refused:?}");
    let path = format!("/v1/runs/{run_id}");
    assert_eq!(house.call("GET", &path, "").await.status, 200);
    assert_eq!(house.call("POST", &format!("{path}/cancel"), "{}").await.status, 200);
}
