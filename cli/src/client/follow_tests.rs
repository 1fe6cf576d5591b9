//! The following against a server of this file's own, which drops where it is told to.

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::config::ClientSettings;

const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n";

fn frame(cursor: &str, kind: &str) -> String {
    format!("id: {cursor}\nevent: {kind}\ndata: {{\"type\":\"{kind}\"}}\n\n")
}

/// Answers each connection with the next text, then closes it. Gives back the heads of the requests.
async fn server(answers: Vec<String>) -> (Client, tokio::task::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let client = client(url);
    let serving = tokio::spawn(async move {
        let mut heads = Vec::new();
        for answer in answers {
            let (mut socket, _) = listener.accept().await.expect("a connection");
            heads.push(head(&mut socket).await);
            socket.write_all(answer.as_bytes()).await.expect("a reader");
        }
        heads
    });
    (client, serving)
}

fn client(url: String) -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::new(ClientSettings { url, api_key: None }).unwrap_or_else(|failure| panic!("{failure}"))
}

async fn head(socket: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    while !bytes.windows(4).any(|window| window == b"\r\n\r\n") {
        let mut chunk = [0; 4096];
        let read = socket.read(&mut chunk).await.expect("a request");
        assert_ne!(read, 0, "the request broke off");
        bytes.extend_from_slice(&chunk[..read]);
    }
    String::from_utf8_lossy(&bytes).to_lowercase()
}

async fn watch(client: &Client, start: Start<'_>) -> (Result<End, Failure>, Vec<String>, usize) {
    let (mut seen, mut drops) = (Vec::new(), 0);
    let end = follow(client, start, |update| {
        match update {
            Update::Frame(frame) => seen.push(format!("{} {}", frame.cursor, frame.kind)),
            Update::Dropped(_) => drops += 1,
        }
        Ok(())
    });
    (end.await, seen, drops)
}

fn task(body: &Value) -> Start<'_> {
    Start::Task {
        body,
        idempotency_key: "key-1".into(),
    }
}

#[tokio::test]
async fn a_dropped_stream_goes_on_after_the_last_frame_seen() {
    let location = "location: /v1/runs/run_7\r\n";
    let first = format!(
        "{HEAD}{location}\r\n{}{}",
        frame("1", "run.requested"),
        frame("3.2", "agent.message.delta")
    );
    // The second connection breaks off inside a frame: half a frame is no frame.
    let second = format!(
        "{HEAD}\r\n: keep-alive\n\n{}id: 5\nevent: tool",
        frame("4", "model.replied")
    );
    let third = format!("{HEAD}\r\n{}", frame("5", "run.completed"));
    let (client, serving) = server(vec![first, second, third]).await;
    let (end, seen, drops) = watch(&client, task(&json!({"input": "x"}))).await;
    assert_eq!(end.ok(), Some(End::Terminal));
    assert_eq!(
        seen,
        [
            "1 run.requested",
            "3.2 agent.message.delta",
            "4 model.replied",
            "5 run.completed"
        ]
    );
    assert_eq!(drops, 2);
    let heads = serving.await.expect("the server");
    assert!(heads[0].starts_with("post /v1/runs ") && heads[0].contains("idempotency-key: key-1"));
    assert!(heads[1].starts_with("get /v1/runs/run_7/events/stream ") && heads[1].contains("last-event-id: 3.2"));
    assert!(heads[2].contains("last-event-id: 4"));
}

#[tokio::test]
async fn a_task_whose_answer_was_lost_is_posted_again_under_the_same_key() {
    let busy = "HTTP/1.1 503 Service Unavailable\r\nretry-after: 0\r\ncontent-length: 0\r\n\r\n".to_owned();
    let served = format!("{HEAD}\r\n{}", frame("1", "run.failed"));
    let (client, serving) = server(vec![busy, served]).await;
    let (end, ..) = watch(&client, task(&json!({}))).await;
    assert_eq!(end.ok(), Some(End::Terminal));
    let heads = serving.await.expect("the server");
    assert!(
        heads
            .iter()
            .all(|head| head.starts_with("post") && head.contains("idempotency-key: key-1")),
        "{heads:?}"
    );
}

#[tokio::test]
async fn a_refusal_is_final_and_told_in_the_servers_words() {
    let problem = r#"{"detail":"there is no agent \"x\""}"#;
    let length = problem.len();
    let (client, _serving) = server(vec![format!(
        "HTTP/1.1 422 Unprocessable Entity\r\ncontent-length: {length}\r\n\r\n{problem}"
    )])
    .await;
    let (end, ..) = watch(&client, task(&json!({}))).await;
    assert_eq!(
        end.err().map(|failure| failure.to_string()).as_deref(),
        Some("there is no agent \"x\" (422)")
    );
}

#[tokio::test]
async fn the_tail_of_a_finished_run_has_nothing_left() {
    let (client, _serving) = server(vec!["HTTP/1.1 204 No Content\r\n\r\n".to_owned()]).await;
    let (end, seen, _) = watch(
        &client,
        Start::Run {
            id: "run_7",
            after: Some("9".into()),
        },
    )
    .await;
    assert_eq!((end.ok(), seen.len()), (Some(End::NothingLeft), 0));
}

#[tokio::test]
async fn an_address_where_nobody_answers_is_told_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    drop(listener);
    let client = client(url);
    let (end, ..) = watch(&client, task(&json!({}))).await;
    let said = end.err().map(|failure| failure.to_string()).unwrap_or_default();
    assert!(
        said.contains("no Steadfast answers") && said.contains("steadfast dev"),
        "{said}"
    );
}
