//! A strict reader of server-sent events. A browser forgives what is malformed; a test must not, so everything the
//! format does not allow is an error here, and so is a stream that ends inside a frame.

use std::collections::VecDeque;

use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use reqwest::header::HeaderMap;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SseFrame {
    /// As sent in this frame; a reader that reconnects keeps the last one itself.
    pub id: Option<String>,
    /// `message` when the frame names none.
    pub event: String,
    pub data: String,
}

#[derive(Debug, thiserror::Error)]
pub enum SseError {
    #[error("answered {status}, not an event stream: {body}")]
    Refused {
        status: u16,
        retry_after: Option<u64>,
        body: String,
    },
    #[error("the connection broke: {0}")]
    Transport(#[from] reqwest::Error),
    #[error("not valid server-sent events: {0}")]
    Malformed(String),
    #[error("the stream ended inside a frame")]
    Truncated,
}

/// One open stream.
pub struct SseClient {
    bytes: BoxStream<'static, Result<Bytes, reqwest::Error>>,
    parser: Parser,
    /// Read and not yet handed out: whole frames, and last the fault that ended the stream.
    ready: VecDeque<Result<SseFrame, SseError>>,
    ended: bool,
    headers: HeaderMap,
}

impl SseClient {
    pub async fn get(url: &str, headers: &[(&str, &str)]) -> Result<Self, SseError> {
        Self::open(crate::http().get(url), headers).await
    }

    pub async fn post(url: &str, body: &serde_json::Value) -> Result<Self, SseError> {
        Self::open(crate::http().post(url).json(body), &[]).await
    }

    /// Any request: for a body with headers, or a shared client when there are thousands of streams.
    pub async fn open(request: reqwest::RequestBuilder, headers: &[(&str, &str)]) -> Result<Self, SseError> {
        let request = headers
            .iter()
            .fold(request.header("accept", "text/event-stream"), |r, (k, v)| {
                r.header(*k, *v)
            });
        let answer = request.send().await?;
        let header = |name: &str| answer.headers().get(name).and_then(|v| v.to_str().ok());
        let is_stream = header("content-type").is_some_and(|t| t.starts_with("text/event-stream"));
        if !is_stream || !answer.status().is_success() {
            let retry_after = header("retry-after").and_then(|v| v.parse().ok());
            let status = answer.status().as_u16();
            return Err(SseError::Refused {
                status,
                retry_after,
                body: answer.text().await.unwrap_or_default(),
            });
        }
        Ok(Self {
            headers: answer.headers().clone(),
            bytes: answer.bytes_stream().boxed(),
            parser: Parser::default(),
            ready: VecDeque::new(),
            ended: false,
        })
    }

    /// The next frame; None after an orderly end. After an error there is nothing more.
    ///
    /// Dropping the future loses nothing, so it may stand in a `select!` or a timeout.
    pub async fn next(&mut self) -> Option<Result<SseFrame, SseError>> {
        while self.ready.is_empty() && !self.ended {
            let fed = match self.bytes.next().await {
                Some(Ok(bytes)) => self.parser.feed(&bytes, &mut self.ready),
                Some(Err(e)) => Err(e.into()),
                None if self.parser.is_between_frames() => {
                    self.ended = true;
                    Ok(())
                }
                None => Err(SseError::Truncated),
            };
            if let Err(e) = fed {
                self.ended = true;
                self.ready.push_back(Err(e));
            }
        }
        self.ready.pop_front()
    }

    /// All frames to the orderly end of the stream.
    pub async fn collect(mut self) -> Result<Vec<SseFrame>, SseError> {
        let mut frames = Vec::new();
        while let Some(frame) = self.next().await {
            frames.push(frame?);
        }
        Ok(frames)
    }

    /// Comment lines so far: heartbeats.
    pub fn comments(&self) -> usize {
        self.parser.comments
    }

    /// The reconnection time the server asked for, in milliseconds.
    pub fn retry_ms(&self) -> Option<u64> {
        self.parser.retry_ms
    }

    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }
}

#[derive(Default)]
struct Parser {
    /// Bytes of a line that has not ended.
    rest: Vec<u8>,
    id: Option<String>,
    event: Option<String>,
    data: Vec<String>,
    comments: usize,
    retry_ms: Option<u64>,
}

impl Parser {
    fn feed(&mut self, bytes: &[u8], out: &mut VecDeque<Result<SseFrame, SseError>>) -> Result<(), SseError> {
        self.rest.extend_from_slice(bytes);
        while let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
            let mut line: Vec<u8> = self.rest.drain(..=end).collect();
            line.pop();
            line.pop_if(|b| *b == b'\r');
            // Whole lines only: a character cut in two by the network is joined again by now.
            let line = String::from_utf8(line).map_err(|e| malformed("bytes that are not UTF-8", e))?;
            self.line(&line, out)?;
        }
        Ok(())
    }

    fn line(&mut self, line: &str, out: &mut VecDeque<Result<SseFrame, SseError>>) -> Result<(), SseError> {
        if line.is_empty() {
            out.extend(self.frame()?.map(Ok));
            return Ok(());
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" => self.comments += 1,
            "data" => self.data.push(value.to_owned()),
            "event" => once(&mut self.event, field, value)?,
            "id" if value.contains('\0') => return Err(malformed("an id with a NUL", value)),
            "id" => once(&mut self.id, field, value)?,
            "retry" => self.retry_ms = Some(value.parse().map_err(|e| malformed("retry", e))?),
            _ => return Err(malformed("unknown field", line)),
        }
        Ok(())
    }

    /// None for an empty line after comments alone: that is no frame.
    fn frame(&mut self) -> Result<Option<SseFrame>, SseError> {
        if !self.has_fields() {
            return Ok(None);
        }
        if self.data.is_empty() {
            return Err(SseError::Malformed(
                "a frame without data, which a browser would drop".into(),
            ));
        }
        let event = self.event.take().unwrap_or_else(|| "message".into());
        let data = std::mem::take(&mut self.data).join("\n");
        Ok(Some(SseFrame {
            id: self.id.take(),
            event,
            data,
        }))
    }

    fn has_fields(&self) -> bool {
        self.id.is_some() || self.event.is_some() || !self.data.is_empty()
    }

    fn is_between_frames(&self) -> bool {
        self.rest.is_empty() && !self.has_fields()
    }
}

fn once(slot: &mut Option<String>, field: &str, value: &str) -> Result<(), SseError> {
    match slot.replace(value.to_owned()) {
        None => Ok(()),
        Some(first) => Err(malformed(
            &format!("two fields `{field}` in a frame"),
            format!("{first} and {value}"),
        )),
    }
}

fn malformed(what: &str, detail: impl std::fmt::Display) -> SseError {
    SseError::Malformed(format!("{what}: {detail}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pieces: &[&[u8]]) -> Result<(Vec<SseFrame>, Parser), SseError> {
        let (mut parser, mut out) = (Parser::default(), VecDeque::new());
        for piece in pieces {
            parser.feed(piece, &mut out)?;
        }
        Ok((out.into_iter().collect::<Result<_, _>>()?, parser))
    }

    #[test]
    fn frames_survive_any_cut_of_the_bytes() {
        let text =
            ": hello\nid: 7\nevent: delta\ndata: grün\ndata: two\n\n:beat\n\nretry: 50\ndata:x\r\n\r\n".as_bytes();
        let (whole, parser) = parse(&[text]).unwrap();
        assert_eq!(
            whole[0],
            SseFrame {
                id: Some("7".into()),
                event: "delta".into(),
                data: "grün\ntwo".into()
            }
        );
        assert_eq!(
            whole[1],
            SseFrame {
                id: None,
                event: "message".into(),
                data: "x".into()
            }
        );
        assert_eq!((whole.len(), parser.comments, parser.retry_ms), (2, 2, Some(50)));
        for cut in 0..text.len() {
            assert_eq!(parse(&[&text[..cut], &text[cut..]]).unwrap().0, whole);
        }
    }

    #[test]
    fn what_the_format_does_not_allow_is_an_error() {
        for bad in [
            "hello\n",
            "id: 1\nid: 2\n",
            "event: x\n\n",
            "retry: soon\n",
            "{\"error\":1}\n",
        ] {
            assert!(matches!(parse(&[bad.as_bytes()]), Err(SseError::Malformed(_))), "{bad}");
        }
        assert!(matches!(parse(&[b"data: \xff\n"]), Err(SseError::Malformed(_))));
        assert!(!parse(&[b"data: half"]).unwrap().1.is_between_frames());
    }
}
