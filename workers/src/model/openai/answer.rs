//! An answer as bytes, and the events in it.

use futures::{Stream, StreamExt};
use reqwest::{Response, header::CONTENT_TYPE};

use super::super::{ErrorClass, ModelError};
use super::{
    fault,
    sse::{NotText, Parser},
};

/// What is read of one answer at the most, framing included.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

pub enum Kind {
    Stream,
    /// A server that does not stream although it was asked to.
    Whole,
    Page,
}

pub fn kind(answer: &Response) -> Kind {
    let header = answer
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    match header.split(';').next().unwrap_or_default().trim() {
        "application/json" => Kind::Whole,
        "text/html" => Kind::Page,
        _ => Kind::Stream,
    }
}

/// The data of each event, an error event included: its data is an error object.
pub fn events(answer: Response) -> impl Stream<Item = Result<String, ModelError>> + Send {
    let bytes = Box::pin(bounded(answer, ANSWER_BYTES_MAX));
    futures::stream::try_unfold((bytes, Parser::default()), |(mut bytes, mut parser)| async move {
        loop {
            let malformed = |_: NotText| ModelError::new(ErrorClass::Malformed, "the model's answer is not UTF-8");
            match parser.next().map_err(malformed)? {
                Some(event) if event.name == "error" && !event.data.contains("\"error\"") => {
                    let data = format!("{{\"error\":{}}}", event.data);
                    return Ok(Some((data, (bytes, parser))));
                }
                Some(event) => return Ok(Some((event.data, (bytes, parser)))),
                None => match bytes.next().await {
                    Some(piece) => parser.push(&piece?),
                    None => return Ok(None),
                },
            }
        }
    })
}

/// An answer that came in one piece, as if it were the only event of a stream that then ends well.
pub fn whole(answer: Response) -> impl Stream<Item = Result<String, ModelError>> + Send {
    let body = async move {
        let mut bytes = Vec::new();
        let mut chunks = std::pin::pin!(bounded(answer, ANSWER_BYTES_MAX));
        while let Some(chunk) = chunks.next().await {
            bytes.extend_from_slice(&chunk?);
        }
        String::from_utf8(bytes).map_err(|_| ModelError::new(ErrorClass::Malformed, "the model's answer is not UTF-8"))
    };
    futures::stream::once(body).chain(futures::stream::once(async { Ok("[DONE]".into()) }))
}

fn bounded(answer: Response, bytes_max: usize) -> impl Stream<Item = Result<bytes::Bytes, ModelError>> + Send {
    let mut read = 0;
    answer.bytes_stream().map(move |chunk| {
        let chunk = chunk.map_err(|e| fault::of_connection(&e))?;
        read += chunk.len();
        if read > bytes_max {
            return Err(ModelError::new(
                ErrorClass::Malformed,
                format!("the provider's answer has more than {bytes_max} bytes"),
            ));
        }
        Ok(chunk)
    })
}

/// As much of a body as can be had.
pub async fn read(answer: Response, bytes_max: usize) -> Vec<u8> {
    let mut body = Vec::new();
    let mut chunks = std::pin::pin!(answer.bytes_stream());
    while let Some(Ok(chunk)) = chunks.next().await {
        body.extend_from_slice(&chunk[..chunk.len().min(bytes_max - body.len())]);
        if body.len() >= bytes_max {
            break;
        }
    }
    body
}
