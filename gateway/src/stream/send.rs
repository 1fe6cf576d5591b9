//! A stream is mostly silent, and lasts: what the HTTP library holds for the next request of a connection (buffers of
//! 16 KiB) is too much for it. So once a run's stream is all that is left to send on a connection, the connection is
//! taken from the library, and head and pieces are written here, in chunks (RFC 9112, section 7.1). When the stream has
//! ended, the library gets the connection back.
//!
//! Where that cannot be (HTTP/1.0, `HEAD`, an earlier answer not yet written), the response has its body as any other.

use std::{
    convert::Infallible,
    io,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    body::Body,
    http::{HeaderMap, header},
    response::Response,
};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::{FutureExt, Stream, StreamExt, stream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::follow::Follower;
use crate::clock;

const HEAD_BYTES: usize = 512;
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// The stream of a response that nobody has begun to send.
#[derive(Clone)]
struct Unsent(Arc<Mutex<Option<Box<Follower>>>>);

impl Unsent {
    fn take(&self) -> Option<Box<Follower>> {
        // Nothing can fail while it is locked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The response whose body is the stream.
pub fn response(headers: HeaderMap, follower: Follower) -> Response {
    let unsent = Unsent(Arc::new(Mutex::new(Some(Box::new(follower)))));
    let begun = unsent.clone();
    let body = stream::once(async move { stream::iter(begun.take()) })
        .flatten()
        .flat_map(pieces)
        .map(Ok::<_, Infallible>);
    let mut response = Response::new(Body::from_stream(body));
    *response.headers_mut() = headers;
    response.extensions_mut().insert(unsent);
    response
}

fn pieces(follower: Box<Follower>) -> impl Stream<Item = Bytes> + Send {
    stream::unfold(follower, |mut follower| async move {
        let piece = follower.next().await?;
        Some((piece, follower))
    })
}

/// A stream that was taken from its response, with the response's head as it is written.
pub struct Taken {
    head: Bytes,
    follower: Box<Follower>,
    /// The client has said nothing since its request.
    silent: bool,
}

impl Taken {
    /// `None`: the response is no stream.
    pub fn of(response: &Response) -> Option<Self> {
        let follower = response.extensions().get::<Unsent>()?.take()?;
        Some(Self {
            head: head(response),
            follower,
            silent: true,
        })
    }

    /// These bytes came after the request.
    pub fn after(self, surplus: &[u8]) -> Self {
        let silent = surplus.is_empty();
        Self { silent, ..self }
    }

    /// Sends it all, at the pace at which the client takes it. True: the connection can serve other requests.
    pub async fn send(self, connection: &mut TcpStream) -> io::Result<bool> {
        let (mut from_client, mut to_client) = connection.split();
        let mut pieces = Box::pin(pieces(self.follower));
        let mut head = self.head;
        // The head goes with the first piece, if there is one already.
        let mut next = pieces.next().now_or_never();
        let mut silent = self.silent;
        loop {
            let piece = match next.take() {
                Some(piece) => piece,
                None => {
                    to_client.write_all_buf(&mut head).await?;
                    loop {
                        let mut surplus = [0; 1];
                        tokio::select! {
                            biased;
                            piece = pieces.next() => break piece,
                            // Nobody speaks before the answer has ended, unless to hang up.
                            read = from_client.read(&mut surplus), if silent => match read? {
                                0 => return Ok(false),
                                _ => silent = false,
                            },
                        }
                    }
                }
            };
            let Some(piece) = piece else { break };
            let length = format!("{:x}\r\n", piece.len());
            let mut chunk = head
                .split_off(0)
                .chain(length.as_bytes())
                .chain(piece)
                .chain(&b"\r\n"[..]);
            to_client.write_all_buf(&mut chunk).await?;
        }
        to_client.write_all_buf(&mut head.chain(LAST_CHUNK)).await?;
        Ok(silent)
    }
}

fn head(response: &Response) -> Bytes {
    let mut head = BytesMut::with_capacity(HEAD_BYTES);
    let reason = response.status().canonical_reason().unwrap_or_default();
    head.put_slice(format!("HTTP/1.1 {} {reason}\r\n", response.status().as_str()).as_bytes());
    for (name, value) in response.headers() {
        head.put_slice(name.as_str().as_bytes());
        head.put_slice(b": ");
        head.put_slice(value.as_bytes());
        head.put_slice(b"\r\n");
    }
    let date = clock::now().format("%a, %d %b %Y %H:%M:%S GMT");
    head.put_slice(
        format!(
            "{}: chunked\r\n{}: {date}\r\n\r\n",
            header::TRANSFER_ENCODING,
            header::DATE
        )
        .as_bytes(),
    );
    head.freeze()
}
