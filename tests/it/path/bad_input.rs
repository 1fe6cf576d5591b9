//! Requests that cannot be taken: each is refused by name, none is a fault of the server, and nothing comes of any.

use reqwest::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{Api, Stack, in_both_modes};

in_both_modes!(
    a_task_that_cannot_be_taken_is_refused_by_the_name_of_its_fault,
    places_that_are_not_there_and_cursors_that_do_not_fit_are_refused,
    requests_that_are_no_requests_are_refused,
);

/// Body of `POST /v1/runs`, status, code, pointer.
fn bodies() -> Vec<(Vec<u8>, u16, &'static str, Option<&'static str>)> {
    let mut table: Vec<(Vec<u8>, u16, &str, Option<&str>)> = vec![];
    let mut add = |body: &[u8], status, code, pointer| table.push((body.to_vec(), status, code, pointer));
    for malformed in [
        "",
        " ",
        "{",
        "{\"input\":\"x\"} {}",
        "{'input':'x'}",
        "{\"input\":\"\\ud800\"}",
        "nul",
    ] {
        add(malformed.as_bytes(), 400, "malformed_json", None);
    }
    add(
        format!("{{\"input\":\"x\",\"metadata\":{}", "{\"a\":".repeat(20_000)).as_bytes(),
        400,
        "malformed_json",
        None,
    );
    add(b"{\"input\":\"\xff\xfe\"}", 400, "invalid_utf8", None);
    for whole in ["[1, 2]", "[]", "\"x\"", "7", "null"] {
        add(whole.as_bytes(), 400, "invalid_request", None);
    }
    let mut refuse = |body: Value, status, code, pointer| add(body.to_string().as_bytes(), status, code, Some(pointer));
    refuse(json!({"inputs": "x"}), 400, "invalid_request", "/inputs");
    refuse(json!({"input": "x", "agnet": "a"}), 400, "invalid_request", "/agnet");
    refuse(json!({"input": 7}), 400, "invalid_request", "/input");
    refuse(json!({"input": {"role": "user"}}), 400, "invalid_request", "/input");
    refuse(json!({"input": ["x"]}), 400, "invalid_request", "/input/0");
    refuse(
        json!({"input": [{"role": "robot", "content": "x"}]}),
        400,
        "invalid_request",
        "/input/0/role",
    );
    refuse(
        json!({"input": [{"role": "user", "content": "x", "colour": 1}]}),
        400,
        "invalid_request",
        "/input/0/colour",
    );
    refuse(
        json!({"input": "x", "stream": "yes"}),
        400,
        "invalid_request",
        "/stream",
    );
    refuse(
        json!({"input": "x", "session_id": "ses_1"}),
        400,
        "invalid_request",
        "/session_id",
    );
    refuse(json!({"input": "x", "tools": {}}), 400, "invalid_request", "/tools");
    refuse(
        json!({"input": "x", "tools": [{"name": "a", "parameters": []}]}),
        400,
        "invalid_request",
        "/tools/0/parameters",
    );
    refuse(
        json!({"input": "x", "metadata": []}),
        400,
        "invalid_request",
        "/metadata",
    );
    refuse(
        json!({"input": "x", "limits": {"steps": 1}}),
        400,
        "invalid_request",
        "/limits/steps",
    );
    refuse(
        json!({"input": "x", "limits": {"steps_max": -1}}),
        400,
        "invalid_request",
        "/limits/steps_max",
    );
    refuse(json!({"input": ""}), 422, "invalid_request", "/input");
    refuse(json!({"input": " \n\t"}), 422, "invalid_request", "/input");
    refuse(json!({"input": []}), 422, "invalid_request", "/input");
    refuse(json!({"input": "a\u{0}b"}), 422, "invalid_request", "/input");
    refuse(json!({"input": "x".repeat(600_000)}), 422, "input_too_large", "/input");
    refuse(
        json!({"input": vec![json!({"role": "user", "content": "x"}); 300]}),
        422,
        "invalid_request",
        "/input",
    );
    refuse(
        json!({"input": [{"role": "assistant", "content": "x"}]}),
        422,
        "invalid_request",
        "/input",
    );
    refuse(
        json!({"input": [{"role": "user"}]}),
        422,
        "invalid_request",
        "/input/0/content",
    );
    refuse(
        json!({"input": [{"role": "tool", "tool_call_id": "c", "content": "x"}, {"role": "user", "content": "x"}]}),
        422,
        "invalid_request",
        "/input/0/tool_call_id",
    );
    refuse(json!({"input": "x", "agent": "nobody"}), 422, "unknown_agent", "/agent");
    refuse(json!({"input": "x", "agent": ""}), 422, "unknown_agent", "/agent");
    refuse(
        json!({"input": "x", "tools": [{}]}),
        422,
        "invalid_request",
        "/tools/0/name",
    );
    refuse(
        json!({"input": "x", "tools": [{"name": "a b"}]}),
        422,
        "invalid_request",
        "/tools/0/name",
    );
    refuse(
        json!({"input": "x", "tools": [{"name": "x".repeat(65)}]}),
        422,
        "invalid_request",
        "/tools/0/name",
    );
    refuse(
        json!({"input": "x", "tools": [{"name": "a"}, {"name": "a"}]}),
        422,
        "invalid_request",
        "/tools/1/name",
    );
    refuse(
        json!({"input": "x", "tools": [{"name": "calculator"}]}),
        422,
        "invalid_request",
        "/tools/0/name",
    );
    refuse(
        json!({"input": "x", "tools": [{"type": "web", "name": "a"}]}),
        422,
        "invalid_request",
        "/tools/0/type",
    );
    refuse(
        json!({"input": "x", "tools": vec![json!({"name": "a"}); 200]}),
        422,
        "invalid_request",
        "/tools",
    );
    refuse(
        json!({"input": "x", "metadata": {"a": "x".repeat(20_000)}}),
        422,
        "invalid_request",
        "/metadata",
    );
    refuse(
        json!({"input": "x", "limits": {"steps_max": 1000}}),
        422,
        "invalid_request",
        "/limits/steps_max",
    );
    refuse(
        json!({"input": "x", "limits": {"run_seconds_max": 0}}),
        422,
        "invalid_request",
        "/limits/run_seconds_max",
    );
    let unknown = format!("ses_{}", "a".repeat(32));
    refuse(
        json!({"input": "x", "session_id": unknown}),
        404,
        "session_not_found",
        "/session_id",
    );
    add(&vec![b' '; 2 << 20], 413, "body_too_large", None);
    table
}

async fn refused(request: reqwest::RequestBuilder, status: u16, code: &str, what: &str) -> Value {
    let answer = Api::send(request)
        .await
        .unwrap_or_else(|error| panic!("{what}: {error:?}"));
    assert_eq!(answer.status, status, "{what}: {}", answer.text);
    let problem = answer.problem(status);
    assert_eq!(problem["code"], code, "{what}: {problem}");
    assert!(
        problem["detail"].as_str().is_some_and(|detail| detail.len() > 15),
        "{what}: {problem}"
    );
    problem
}

/// Nothing came of it: the marker run is still the newest that this session's list knows.
async fn runs_of_all(api: &Api) -> usize {
    let marker = api.task(json!({"input": "[[say:marker]]"})).await;
    loop {
        let runs = api.listed_runs().await;
        if runs.contains(&marker) {
            return runs.len();
        }
    }
}

async fn a_task_that_cannot_be_taken_is_refused_by_the_name_of_its_fault(stack: &Stack) {
    let api = stack.api();
    let known: std::collections::BTreeSet<String> = api.listed_runs().await.into_iter().collect();
    let table = bodies();
    assert!(table.len() >= 40, "the table has shrunk to {}", table.len());
    for (body, status, code, pointer) in table {
        let what: String = String::from_utf8_lossy(&body).chars().take(80).collect();
        for stream in ["application/json", "text/event-stream"] {
            let request = api
                .request(Method::POST, "/v1/runs")
                .header("accept", stream)
                .body(body.clone());
            let problem = refused(request.header("content-type", "application/json"), status, code, &what).await;
            if let Some(pointer) = pointer {
                assert_eq!(problem["errors"][0]["pointer"], pointer, "{what}: {problem}");
            }
        }
    }
    // Other tests are at work on the same stack: what is new may be theirs, but never holds a body of ours.
    runs_of_all(&api).await;
    for run in api.listed_runs().await.into_iter().filter(|run| !known.contains(run)) {
        let first = api.events(&run).await.remove(0);
        let input = serde_json::from_str::<Value>(&first).expect("an event")["data"]["input"][0]["content"].to_string();
        assert!(
            input != "\"x\"" && input != "\"\"",
            "a refused task became {run}: {first}"
        );
    }
}

async fn places_that_are_not_there_and_cursors_that_do_not_fit_are_refused(stack: &Stack) {
    let api = stack.api();
    let run = api.task(json!({"input": "[[say:here]]"})).await;
    api.ended(&run).await;
    let last = api.events(&run).await.len();
    let (nobody, no_session) = (format!("run_{}", "0".repeat(32)), format!("ses_{}", "0".repeat(32)));
    let mut table: Vec<(Method, String, u16, &str)> = vec![];
    let mut get = |path: String, status, code| table.push((Method::GET, path, status, code));
    for id in [
        nobody.as_str(),
        "run_1",
        "x",
        "run_ABCDEF00000000000000000000000000",
        "%00",
        "%ff",
        &no_session,
    ] {
        for rest in ["", "/wait", "/events", "/events/stream"] {
            get(format!("/v1/runs/{id}{rest}"), 404, "run_not_found");
        }
    }
    get(format!("/v1/sessions/{no_session}"), 404, "session_not_found");
    get(format!("/v1/sessions/{no_session}/messages"), 404, "session_not_found");
    for cursor in [
        "x",
        "-1",
        "1.",
        ".1",
        "1.2.3",
        "+1",
        "99999999999999999999",
        "0.1",
        "%201",
    ] {
        get(
            format!("/v1/runs/{run}/events/stream?after={cursor}"),
            400,
            "bad_cursor",
        );
        get(format!("/v1/runs/{run}/events?after={cursor}"), 400, "bad_cursor");
    }
    for beyond in [format!("{}", last + 1), format!("{}.1", last + 2), "9000".into()] {
        get(
            format!("/v1/runs/{run}/events/stream?after={beyond}"),
            400,
            "cursor_out_of_range",
        );
        get(
            format!("/v1/runs/{run}/events?after={beyond}"),
            400,
            "cursor_out_of_range",
        );
    }
    get(
        format!("/v1/runs/{run}/events?types=run.complete"),
        400,
        "unknown_event_type",
    );
    get(
        format!("/v1/runs/{run}/events/stream?types="),
        400,
        "unknown_event_type",
    );
    for query in ["limit=0", "limit=1001", "limit=x", "limit=1&limit=2", "colour=red"] {
        get(format!("/v1/runs/{run}/events?{query}"), 400, "invalid_request");
    }
    for query in [
        "limit=0",
        "limit=101",
        "status=done",
        "session_id=1",
        "after=x",
        "before=run_1",
        "nothing=1",
    ] {
        get(format!("/v1/runs?{query}"), 400, "invalid_request");
    }
    get(format!("/v1/runs/{run}/wait?timeout_s=61"), 400, "invalid_request");
    get(format!("/v1/runs/{run}/wait?timeout_s=-1"), 400, "invalid_request");
    get("/v1/usage?days=x".into(), 400, "invalid_request");
    get("/v1/nothing".into(), 404, "route_not_found");
    get("/".into(), 404, "route_not_found");
    get("/v1/runs/".into(), 404, "route_not_found");
    let mut post = |path: String, status, code| table.push((Method::POST, path, status, code));
    post(format!("/v1/runs/{nobody}/cancel"), 404, "run_not_found");
    post("/v1/agents".into(), 405, "method_not_allowed");
    for (method, path, status, code) in table {
        refused(api.request(method, &path), status, code, &path).await;
    }
    refused(
        api.request(Method::DELETE, &format!("/v1/runs/{run}")),
        405,
        "method_not_allowed",
        "DELETE",
    )
    .await;
    let header = api
        .request(Method::GET, &format!("/v1/runs/{run}/events/stream"))
        .header("last-event-id", "nonsense");
    refused(header, 400, "bad_cursor", "Last-Event-ID").await;
    let outputs = api.request(Method::POST, &format!("/v1/runs/{nobody}/tool_outputs"));
    let outputs = outputs.json(&json!({"outputs": [{"tool_call_id": "c", "output": "x"}]}));
    refused(outputs, 404, "run_not_found", "tool_outputs").await;
    let cancel = api
        .request(Method::POST, &format!("/v1/runs/{run}/cancel"))
        .json(&json!({"why": "x"}));
    refused(cancel, 400, "invalid_request", "cancel").await;
}

async fn requests_that_are_no_requests_are_refused(stack: &Stack) {
    let api = stack.api();
    for key in [&b""[..], b"a b", &[b'k'; 256], b"\xc3\xa9"] {
        let request = api
            .request(Method::POST, "/v1/runs")
            .header("idempotency-key", key)
            .json(&json!({"input": "x"}));
        refused(request, 400, "bad_idempotency_key", "Idempotency-Key").await;
    }
    let zipped = api
        .request(Method::POST, "/v1/runs")
        .header("content-encoding", "gzip")
        .body("x");
    refused(zipped, 415, "unsupported_encoding", "gzip").await;

    let raw = async |bytes: &[u8]| {
        let address = api.url("").trim_start_matches("http://").to_owned();
        let mut socket = TcpStream::connect(&address).await.expect("a connection");
        socket.write_all(bytes).await.expect("the request is sent");
        let mut answer = vec![];
        let read = tokio::time::timeout(std::time::Duration::from_secs(20), socket.read_to_end(&mut answer)).await;
        read.expect("the server closes the connection").ok();
        String::from_utf8_lossy(&answer).into_owned()
    };
    let head = "POST /v1/runs HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n";
    let huge = raw(format!("{head}content-length: 1073741824\r\n\r\n{{\"input\":").as_bytes()).await;
    assert!(
        huge.starts_with("HTTP/1.1 413") && huge.contains("body_too_large"),
        "{huge}"
    );
    for broken in [
        "GARBAGE\r\n\r\n".to_owned(),
        "POST /v1/runs HTTP/9.9\r\n\r\n".to_owned(),
        format!("{head}content-length: many\r\n\r\nx"),
        format!("{head}content-length: 3\r\ncontent-length: 4\r\n\r\nxxxx"),
        format!("{head}transfer-encoding: chunked\r\n\r\nnot a chunk\r\n\r\n"),
        format!("{head}x: {}\r\n\r\n", "y".repeat(200_000)),
    ] {
        let answer = raw(broken.as_bytes()).await;
        let shown: String = broken.chars().take(120).collect();
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
            "{shown}: {answer}"
        );
    }
    assert_eq!(api.get("/healthz").await.status, 200, "the server lives");
}
