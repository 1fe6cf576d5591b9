//! What goes over a connection, byte for byte, when one of its answers is a stream.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::house::{House, reply};
use crate::{identity::Identity, limits::GatewayLimits};

const PATIENCE: Duration = Duration::from_secs(10);

/// A connection, and what was read of it and not looked at.
struct Wire {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Wire {
    async fn to(house: &House) -> Self {
        Self {
            stream: TcpStream::connect(house.address).await.expect("a connection"),
            unread: Vec::new(),
        }
    }

    async fn ask(&mut self, method: &str, path: &str, version: &str) {
        self.ask_with(method, path, version, "").await;
    }

    async fn ask_with(&mut self, method: &str, path: &str, version: &str, headers: &str) {
        let request = format!("{method} {path} {version}\r\nhost: localhost\r\n{headers}\r\n");
        self.stream.write_all(request.as_bytes()).await.expect("written");
    }

    async fn more(&mut self) -> bool {
        let read = timeout(PATIENCE, self.stream.read_buf(&mut self.unread)).await;
        read.expect("something comes in time").expect("readable") > 0
    }

    /// What comes up to and with this text.
    async fn until(&mut self, end: &str) -> String {
        loop {
            let found = self
                .unread
                .windows(end.len())
                .position(|window| window == end.as_bytes());
            if let Some(at) = found {
                let rest = self.unread.split_off(at + end.len());
                return String::from_utf8(std::mem::replace(&mut self.unread, rest)).expect("text");
            }
            assert!(self.more().await, "the connection ended before {end:?}");
        }
    }

    /// The rest, until the server hangs up.
    async fn rest(&mut self) -> String {
        while self.more().await {}
        String::from_utf8(std::mem::take(&mut self.unread)).expect("text")
    }

    /// A body in chunks, put together.
    async fn chunks(&mut self) -> String {
        let mut body = String::new();
        loop {
            let line = self.until("\r\n").await;
            let length = usize::from_str_radix(line.trim_end(), 16).expect("a length");
            let chunk = loop {
                if self.unread.len() >= length + 2 {
                    let rest = self.unread.split_off(length + 2);
                    break std::mem::replace(&mut self.unread, rest);
                }
                assert!(self.more().await, "the connection ended in a chunk");
            };
            let chunk = String::from_utf8(chunk).expect("text");
            body += chunk.strip_suffix("\r\n").expect("a chunk ends so");
            if length == 0 {
                return body;
            }
        }
    }
}

/// A run that has ended, and the path of its stream.
async fn ended(house: &House) -> String {
    let run_id = house.accept(r#"{"input":"a"}"#).await;
    house.claim(run_id).await;
    house.act(run_id, reply(&["Hello"])).await;
    format!("/v1/runs/{run_id}/events/stream")
}

#[tokio::test]
async fn streams_and_other_answers_take_turns_on_one_connection() {
    let house = House::open().await;
    let path = ended(&house).await;
    let mut wire = Wire::to(&house).await;
    let mut bodies = Vec::new();
    for _ in 0..3 {
        wire.ask("GET", "/healthz", "HTTP/1.1").await;
        assert!(wire.until("\r\n\r\n").await.starts_with("HTTP/1.1 200 OK\r\n"));
        wire.until("}").await;
        wire.ask("GET", &path, "HTTP/1.1").await;
        let head = wire.until("\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        for line in [
            "content-type: text/event-stream; charset=utf-8\r\n",
            "cache-control: no-cache, no-transform\r\n",
            "transfer-encoding: chunked\r\n",
            "x-request-id: req_",
            "date: ",
        ] {
            assert_eq!(head.matches(line).count(), 1, "{line} in {head}");
        }
        let date = head
            .lines()
            .find_map(|line| line.strip_prefix("date: "))
            .expect("a date");
        assert!(chrono::DateTime::parse_from_rfc2822(date).is_ok(), "{date}");
        bodies.push(wire.chunks().await);
    }
    assert!(bodies[0].contains("event: run.completed\n"), "{}", bodies[0]);
    assert!(bodies.iter().all(|body| *body == bodies[0]));
}

#[tokio::test]
async fn who_asks_for_the_head_alone_or_speaks_an_older_version_is_served_as_it_expects() {
    let house = House::open().await;
    let path = ended(&house).await;
    let mut wire = Wire::to(&house).await;
    wire.ask("HEAD", &path, "HTTP/1.1").await;
    wire.until("\r\n\r\n").await;
    wire.ask("GET", "/healthz", "HTTP/1.1").await;
    let next = wire.until("\r\n\r\n").await;
    assert!(next.starts_with("HTTP/1.1 200 OK\r\n"), "no body came before {next}");

    let mut wire = Wire::to(&house).await;
    wire.ask("GET", &path, "HTTP/1.0").await;
    let answer = wire.rest().await;
    assert!(
        answer.starts_with("HTTP/1.0 200 OK\r\n") && !answer.contains("transfer-encoding"),
        "{answer}"
    );
    assert!(answer.ends_with("\n\n"), "the body is the stream alone: {answer}");
}

#[tokio::test]
async fn a_request_sent_before_the_stream_has_ended_is_not_half_answered() {
    let house = House::open().await;
    let path = ended(&house).await;
    let mut wire = Wire::to(&house).await;
    // An answer that may still be on its way when the stream is asked for, and a request after it.
    for path in ["/metrics", &path, "/healthz"] {
        wire.ask("GET", path, "HTTP/1.1").await;
    }
    wire.until("steadfast_").await;
    wire.until("\r\n\r\n").await;
    let stream = wire.chunks().await;
    assert!(stream.contains("event: run.completed\n"), "{stream}");
    let rest = wire.rest().await;
    assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 200 OK\r\n"), "{rest}");
}

#[tokio::test]
async fn a_body_that_comes_late_is_no_next_request() {
    let house = House::open().await;
    let path = ended(&house).await;
    let mut wire = Wire::to(&house).await;
    let body = "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let length = format!("content-length: {}\r\n", body.len());
    wire.ask_with("GET", &path, "HTTP/1.1", &length).await;
    wire.until("\r\n\r\n").await;
    assert!(wire.chunks().await.contains("event: run.completed\n"));
    // The server may have hung up already.
    let _ = wire.stream.write_all(body.as_bytes()).await;
    while wire.stream.read_buf(&mut wire.unread).await.is_ok_and(|read| read > 0) {}
    assert_eq!(
        String::from_utf8_lossy(&wire.unread),
        "",
        "the body was taken for a request"
    );
}

#[tokio::test]
async fn a_client_that_wants_the_connection_closed_gets_that_at_the_end_of_the_stream() {
    let house = House::open().await;
    let path = ended(&house).await;
    let mut wire = Wire::to(&house).await;
    wire.ask_with("GET", &path, "HTTP/1.1", "connection: Close, te\r\n")
        .await;
    let head = wire.until("\r\n\r\n").await;
    assert!(head.contains("connection: close\r\n"), "{head}");
    assert!(wire.chunks().await.contains("event: run.completed\n"));
    // Sooner than a connection is closed on which no request comes.
    let rest = timeout(Duration::from_secs(5), wire.rest()).await;
    assert_eq!(rest.expect("the server hangs up"), "");
}

#[tokio::test]
async fn a_client_that_hangs_up_gives_its_place_back_though_nothing_happens() {
    let limits = GatewayLimits {
        streams_max: 1,
        ..GatewayLimits::default()
    };
    let house = House::with(Identity::Open, limits).await;
    let run_id = house.accept(r#"{"input":"a"}"#).await;
    let path = format!("/v1/runs/{run_id}/events/stream");
    let mut wire = Wire::to(&house).await;
    wire.ask("GET", &path, "HTTP/1.1").await;
    wire.until("event: run.requested\n").await;
    house.call("GET", &path, "").await.is_problem(429, "too_many_streams");
    drop(wire);
    let free = async {
        while house.send("GET", &path, &[], "").await.status() != 200 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, free).await.expect("the place is free again");
}
