//! A stream is mostly silent, and lasts: what the HTTP library holds for the next request of a connection (buffers of
//! 16 KiB) is too much for it. So once a run's stream is all that is left to send on a connection, the connection is
//! taken from the library, and head and pieces are written here, in chunks (RFC 9112, section 7.1). When the stream has
//! ended, the library gets the connection back.
//!
//! Where that cannot be (HTTP/1.0, `HEAD`, a body that nobody reads), the response has its body as any other.

use std::{
    convert::Infallible,
    io,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
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
    net::{TcpStream, tcp::ReadHalf},
    time::timeout,
};

use super::follow::Follower;
use crate::clock;

const HEAD_BYTES: usize = 512;
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";
const PIECE_END: &[u8] = b"\r\n";
const LAST_PIECE_END: &[u8] = b"\r\n0\r\n\r\n";
/// How much of what a client sent too early is thrown away, and for how long.
const DISCARDED_BYTES_MAX: u64 = 1024 * 1024;
const DISCARD_MAX: Duration = Duration::from_secs(2);

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
        .map(|piece| Ok::<_, Infallible>(piece.bytes));
    let mut response = Response::new(Body::from_stream(body));
    *response.headers_mut() = headers;
    response.extensions_mut().insert(unsent);
    response
}

struct Piece {
    bytes: Bytes,
    last: bool,
}

fn pieces(follower: Box<Follower>) -> impl Stream<Item = Piece> + Send {
    stream::unfold(follower, |mut follower| async move {
        let bytes = follower.next().await?;
        let last = follower.ended();
        Some((Piece { bytes, last }, follower))
    })
}

/// A stream that was taken from its response, with the response's head as it is written.
pub struct Taken {
    head: Bytes,
    follower: Box<Follower>,
    closes: bool,
    /// The client has said nothing since its request.
    silent: bool,
}

impl Taken {
    /// `None`: the response is no stream. The connection closes after it if the client `closes`.
    pub fn of(response: &Response, closes: bool) -> Option<Self> {
        let follower = response.extensions().get::<Unsent>()?.take()?;
        Some(Self {
            head: head(response, closes),
            follower,
            closes,
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
        let (from_client, mut to_client) = connection.split();
        let mut client = Client {
            from_client,
            silent: self.silent,
        };
        let mut pieces = Box::pin(pieces(self.follower));
        let mut head = self.head;
        // The head goes with the first piece, if there is one already.
        let mut next = pieces.next().now_or_never();
        loop {
            let piece = match next.take() {
                Some(piece) => piece,
                None => {
                    client.unless_gone(to_client.write_all_buf(&mut head)).await??;
                    client.unless_gone(pieces.next()).await?
                }
            };
            let Some(Piece { bytes, last }) = piece else {
                client
                    .unless_gone(to_client.write_all_buf(&mut head.split_off(0).chain(LAST_CHUNK)))
                    .await??;
                break;
            };
            let length = format!("{:x}\r\n", bytes.len());
            let mut chunk = head
                .split_off(0)
                .chain(length.as_bytes())
                .chain(bytes)
                // The end goes with the last piece: one write, and one waking of the client, for both.
                .chain(if last { LAST_PIECE_END } else { PIECE_END });
            client.unless_gone(to_client.write_all_buf(&mut chunk)).await??;
            if last {
                break;
            }
        }
        // Its place among the streams is free from here on.
        drop(pieces);
        if !client.silent {
            // Closed with bytes unread, the connection would be reset, and the end of the stream might not arrive.
            to_client.shutdown().await?;
            let _ = timeout(DISCARD_MAX, client.discard()).await;
        }
        Ok(client.silent && !self.closes)
    }
}

/// The client's side of a connection on which it has nothing to say before the stream has ended.
struct Client<'a> {
    from_client: ReadHalf<'a>,
    silent: bool,
}

impl Client<'_> {
    /// Awaits it, unless the client hangs up meanwhile.
    async fn unless_gone<T>(&mut self, awaited: impl Future<Output = T>) -> io::Result<T> {
        let mut awaited = pin!(awaited);
        loop {
            let mut surplus = [0; 1];
            tokio::select! {
                biased;
                outcome = &mut awaited => return Ok(outcome),
                read = self.from_client.read(&mut surplus), if self.silent => match read? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    _ => self.silent = false,
                },
            }
        }
    }

    async fn discard(&mut self) -> io::Result<u64> {
        let mut rest = (&mut self.from_client).take(DISCARDED_BYTES_MAX);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    }
}

fn head(response: &Response, closes: bool) -> Bytes {
    let mut head = BytesMut::with_capacity(HEAD_BYTES);
    let reason = response.status().canonical_reason().unwrap_or_default();
    head.put_slice(format!("HTTP/1.1 {} {reason}\r\n", response.status().as_str()).as_bytes());
    for (name, value) in response.headers() {
        head.put_slice(name.as_str().as_bytes());
        head.put_slice(b": ");
        head.put_slice(value.as_bytes());
        head.put_slice(b"\r\n");
    }
    if closes {
        head.put_slice(b"connection: close\r\n");
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
