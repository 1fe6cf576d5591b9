//! Requests that cannot be taken: each is refused by name, none is a fault of the server, and nothing comes of any.

use reqwest::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{Api, Layout, Stack, in_both_modes};

in_both_modes!(requests_that_are_no_requests_are_refused);

#[tokio::test]
async fn a_task_that_cannot_be_taken_is_refused_by_the_name_of_its_fault_and_leaves_nothing_embedded() {
    refuses(Layout::embedded().start().await).await;
}

#[tokio::test]
async fn a_task_that_cannot_be_taken_is_refused_by_the_name_of_its_fault_and_leaves_nothing_distributed() {
    refuses(Layout::distributed().start().await).await;
}

/// What comes back for a body of `POST /v1/runs`: status, code, pointer (`-` where no field is at fault), body.
const REFUSED: &str = r#"
400 malformed_json    -                      {
400 malformed_json    -                      {"input":"x"} {}
400 malformed_json    -                      {'input':'x'}
400 malformed_json    -                      {"input":"\ud800"}
400 malformed_json    -                      nul
400 invalid_request   -                      [1, 2]
400 invalid_request   -                      "x"
400 invalid_request   -                      7
400 invalid_request   -                      null
400 invalid_request   /inputs                {"inputs":"x"}
400 invalid_request   /agnet                 {"input":"x","agnet":"a"}
400 invalid_request   /input                 {"input":7}
400 invalid_request   /input                 {"input":{"role":"user"}}
400 invalid_request   /input/0               {"input":["x"]}
400 invalid_request   /input/0/role          {"input":[{"role":"robot","content":"x"}]}
400 invalid_request   /input/0/colour        {"input":[{"role":"user","content":"x","colour":1}]}
400 invalid_request   /stream                {"input":"x","stream":"yes"}
400 invalid_request   /session_id            {"input":"x","session_id":"ses_1"}
400 invalid_request   /tools                 {"input":"x","tools":{}}
400 invalid_request   /tools/0/parameters    {"input":"x","tools":[{"name":"a","parameters":[]}]}
400 invalid_request   /metadata              {"input":"x","metadata":[]}
400 invalid_request   /limits/steps          {"input":"x","limits":{"steps":1}}
400 invalid_request   /limits/steps_max      {"input":"x","limits":{"steps_max":-1}}
404 session_not_found /session_id            {"input":"x","session_id":"ses_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}
422 invalid_request   /input                 {"input":""}
422 invalid_request   /input                 {"input":" \n\t"}
422 invalid_request   /input                 {"input":[]}
422 invalid_request   /input                 {"input":"a\u0000b"}
422 invalid_request   /input                 {"input":[{"role":"assistant","content":"x"}]}
422 invalid_request   /input/0/content       {"input":[{"role":"user"}]}
422 invalid_request   /input/0/tool_call_id  {"input":[{"role":"tool","tool_call_id":"c","content":"x"},{"role":"user","content":"x"}]}
422 unknown_agent     /agent                 {"input":"x","agent":"nobody"}
422 unknown_agent     /agent                 {"input":"x","agent":""}
422 invalid_request   /tools/0/name          {"input":"x","tools":[{}]}
422 invalid_request   /tools/0/name          {"input":"x","tools":[{"name":"a b"}]}
422 invalid_request   /tools/1/name          {"input":"x","tools":[{"name":"a"},{"name":"a"}]}
422 invalid_request   /tools/0/name          {"input":"x","tools":[{"name":"calculator"}]}
422 invalid_request   /tools/0/type          {"input":"x","tools":[{"type":"web","name":"a"}]}
422 invalid_request   /limits/steps_max      {"input":"x","limits":{"steps_max":1000}}
422 invalid_request   /limits/run_seconds_max {"input":"x","limits":{"run_seconds_max":0}}
"#;

struct Refused {
    body: Vec<u8>,
    status: u16,
    code: &'static str,
    pointer: Option<&'static str>,
}

fn bodies() -> Vec<Refused> {
    let line = |line: &'static str| {
        let mut words = line.split_whitespace();
        let (status, code, pointer) = (words.next()?.parse().ok()?, words.next()?, words.next()?);
        let body = line.split_once(pointer)?.1.trim().as_bytes().to_vec();
        Some(Refused {
            body,
            status,
            code,
            pointer: Some(pointer).filter(|pointer| *pointer != "-"),
        })
    };
    let lines = REFUSED.trim().lines();
    let mut table: Vec<Refused> = lines
        .map(|text| line(text).unwrap_or_else(|| panic!("{text} does not read")))
        .collect();
    let mut add = |body: Vec<u8>, status, code, pointer| {
        table.push(Refused {
            body,
            status,
            code,
            pointer,
        })
    };
    add(b"".into(), 400, "malformed_json", None);
    add(b" ".into(), 400, "malformed_json", None);
    add(b"{\"input\":\"\xff\xfe\"}".into(), 400, "invalid_utf8", None);
    let deep = format!("{{\"input\":\"x\",\"metadata\":{}", "{\"a\":".repeat(20_000));
    add(deep.into(), 400, "nested_too_deeply", None);
    add(vec![b' '; 2 << 20], 413, "body_too_large", None);
    let mut large = |body: Value, code, pointer| add(body.to_string().into(), 422, code, Some(pointer));
    large(json!({"input": "x".repeat(600_000)}), "input_too_large", "/input");
    large(
        json!({"input": vec![json!({"role": "user", "content": "x"}); 300]}),
        "invalid_request",
        "/input",
    );
    large(
        json!({"input": "x", "tools": [{"name": "x".repeat(65)}]}),
        "invalid_request",
        "/tools/0/name",
    );
    large(
        json!({"input": "x", "tools": vec![json!({"name": "a"}); 200]}),
        "invalid_request",
        "/tools",
    );
    large(
        json!({"input": "x", "metadata": {"a": "x".repeat(20_000)}}),
        "invalid_request",
        "/metadata",
    );
    table
}

pub async fn refused(request: reqwest::RequestBuilder, status: u16, code: &str, what: &str) -> Value {
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

/// On a stack of its own, so that whatever is there afterwards came of a refused task.
async fn refuses(stack: Stack) {
    let api = stack.api();
    let table = bodies();
    assert!(table.len() >= 40, "the table has shrunk to {}", table.len());
    for Refused {
        body,
        status,
        code,
        pointer,
    } in table
    {
        let what: String = String::from_utf8_lossy(&body).chars().take(80).collect();
        for stream in ["application/json", "text/event-stream"] {
            let request = api
                .request(Method::POST, "/v1/runs")
                .header("accept", stream)
                // Had one of them taken the key, the next body would be told so.
                .header("idempotency-key", "of-all-of-them")
                .body(body.clone());
            let problem = refused(request.header("content-type", "application/json"), status, code, &what).await;
            if let Some(pointer) = pointer {
                assert_eq!(problem["errors"][0]["pointer"], pointer, "{what}: {problem}");
            }
        }
    }
    let report = stack.check_settled().await;
    assert_eq!((&report["runs"], &report["events"]), (&json!(0), &json!(0)), "{report}");
    let sessions = api.get("/v1/sessions").await.expect(200);
    assert_eq!(sessions["data"], json!([]));
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
