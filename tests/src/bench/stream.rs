//! A thrifty reader of event streams: thousands of them share the machine with what they measure.
//!
//! It knows lines, not the format: [`crate::SseClient`] is the strict one. A line of the chunked encoding looks like no
//! line of an event, so it needs no decoder.

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

use crate::Result;

const BUFFER_BYTES: usize = 2048;
/// Of an answer that is no stream.
const ANSWER_BYTES_MAX: usize = 2000;

pub struct EventStream {
    socket: BufReader<TcpStream>,
    line: Vec<u8>,
}

impl EventStream {
    pub async fn get(address: &str, path: &str) -> Result<Self> {
        let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n");
        Self::open(address, request, "").await
    }

    /// Posts a task and reads its stream.
    pub async fn post(address: &str, task: &Value) -> Result<Self> {
        let body = task.to_string();
        let length = body.len();
        let request = format!(
            "POST /v1/runs HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n"
        );
        Self::open(address, request, &body).await
    }

    async fn open(address: &str, request: String, body: &str) -> Result<Self> {
        let mut socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        let request = format!("{request}accept: text/event-stream\r\nconnection: close\r\n\r\n{body}");
        socket.write_all(request.as_bytes()).await?;
        let mut stream = Self {
            socket: BufReader::with_capacity(BUFFER_BYTES, socket),
            line: vec![],
        };
        let status = stream.line().await?.unwrap_or_default().to_owned();
        if !status.contains(" 200 ") {
            return Err(format!("not a stream: {status} {}", stream.rest().await).into());
        }
        Ok(stream)
    }

    async fn rest(&mut self) -> String {
        let mut rest = String::new();
        while let Ok(Some(line)) = self.line().await {
            rest += line;
            rest.push(' ');
            if rest.len() > ANSWER_BYTES_MAX {
                break;
            }
        }
        rest
    }

    /// The next line; None at the end. Dropping the future loses what it has read of a line, so it must not be raced.
    pub async fn line(&mut self) -> Result<Option<&str>> {
        self.line.clear();
        if self.socket.read_until(b'\n', &mut self.line).await? == 0 {
            return Ok(None);
        }
        while self.line.pop_if(|byte| matches!(byte, b'\n' | b'\r')).is_some() {}
        Ok(Some(std::str::from_utf8(&self.line)?))
    }

    /// Reads on until an event of this name. False: the stream ended before.
    pub async fn until(&mut self, event: &str) -> Result<bool> {
        while let Some(line) = self.line().await? {
            if line.strip_prefix("event: ") == Some(event) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The rest of the stream. Answers the name of its last event.
    pub async fn end(&mut self) -> Result<String> {
        let mut last = String::new();
        while let Some(line) = self.line().await? {
            if let Some(name) = line.strip_prefix("event: ") {
                name.clone_into(&mut last);
            }
        }
        Ok(last)
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn answered(answer: &'static str) -> Result<EventStream> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let serving = async {
            let (mut socket, _) = listener.accept().await?;
            let mut request = BufReader::new(&mut socket);
            let mut line = String::new();
            while request.read_line(&mut line).await? > 2 {
                line.clear();
            }
            socket.write_all(answer.as_bytes()).await
        };
        let (stream, served) = tokio::join!(EventStream::get(&address, "/"), serving);
        served?;
        stream
    }

    #[tokio::test]
    async fn events_are_found_between_the_lines_of_the_encoding() {
        let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1a\r\nid: 1\nevent: a\ndata: {}\n\n\r\n\
                      10\r\nevent: b\ndata: x\n\n\r\n0\r\n\r\n";
        let mut stream = answered(answer).await.unwrap();
        assert!(stream.until("a").await.unwrap());
        assert_eq!(stream.end().await.unwrap(), "b");
        assert!(!stream.until("a").await.unwrap());
    }

    #[tokio::test]
    async fn an_answer_that_is_no_stream_is_told() {
        let refused = answered("HTTP/1.1 429 Too Many Requests\r\n\r\n{\"code\":\"streams\"}").await;
        let why = refused.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(why.contains("429") && why.contains("streams"), "{why}");
    }
}
