//! A client's end of an event stream.

use reqwest::{Response, StatusCode};
use serde_json::Value;
use steadfast::run::Event;

/// One frame of a stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Sse {
    pub id: String,
    pub event: String,
    pub data: Value,
}

/// A stream being read.
pub struct Reading {
    response: Response,
    buffer: Vec<u8>,
    /// No frame ends before this place in the buffer.
    searched: usize,
}

impl Reading {
    pub fn new(response: Response) -> Self {
        assert_eq!(response.status(), StatusCode::OK);
        let header = |name: &str| response.headers()[name].to_str().expect("text").to_owned();
        assert_eq!(header("content-type"), "text/event-stream; charset=utf-8");
        assert_eq!(header("cache-control"), "no-cache, no-transform");
        assert_eq!(header("x-accel-buffering"), "no");
        Self {
            response,
            buffer: Vec::new(),
            searched: 0,
        }
    }

    /// The next frame; `None` at the end.
    pub async fn next(&mut self) -> Option<Sse> {
        loop {
            let found = self.buffer[self.searched..].windows(2).position(|pair| pair == b"\n\n");
            if let Some(end) = found.map(|end| self.searched + end) {
                let frame: Vec<u8> = self.buffer.drain(..end + 2).collect();
                self.searched = 0;
                let text = String::from_utf8(frame).expect("text");
                if text.starts_with(':') {
                    continue;
                }
                let mut lines = text.lines();
                let mut field = |name: &str| {
                    let line = lines.next().unwrap_or_default();
                    line.strip_prefix(name)
                        .unwrap_or_else(|| panic!("{name:?} is missing in {text:?}"))
                        .to_owned()
                };
                let (id, event, data) = (field("id: "), field("event: "), field("data: "));
                let data: Value = serde_json::from_str(&data).expect("JSON");
                assert_eq!(data["type"], event.as_str());
                return Some(Sse { id, event, data });
            }
            self.searched = self.buffer.len().saturating_sub(1);
            let chunk = self
                .response
                .chunk()
                .await
                .expect("the stream is cut cleanly or not at all");
            match chunk {
                Some(chunk) => self.buffer.extend_from_slice(&chunk),
                None => {
                    assert!(self.buffer.is_empty(), "the stream ends inside a frame");
                    return None;
                }
            }
        }
    }

    pub async fn take(&mut self, count: usize) -> Vec<Sse> {
        let mut frames = Vec::new();
        while frames.len() < count {
            frames.push(self.next().await.expect("another frame"));
        }
        frames
    }

    pub async fn rest(mut self) -> Vec<Sse> {
        let mut frames = Vec::new();
        while let Some(frame) = self.next().await {
            frames.push(frame);
        }
        frames
    }
}

pub fn ids(frames: &[Sse]) -> Vec<&str> {
    frames.iter().map(|frame| frame.id.as_str()).collect()
}

pub fn is_terminal(frame: &Sse) -> bool {
    Event::is_terminal_name(&frame.event)
}
