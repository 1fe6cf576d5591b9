//! The feed on core NATS: fire and forget.
//!
//! A gateway holds one subscription to all frames and hands them to its watchers in process: no round trip when a
//! watcher comes or goes. Every gateway hears every frame, which is cheap while gateways are few.
//!
//! A message costs more than its bytes: to us, to the server and to every gateway. So whoever has frames queues them,
//! and one task sends whatever is queued as one message, of however many runs. It never waits for more to come.

use std::{fmt::Write, sync::Arc, time::Duration};

use async_nats::{Client, Event as ConnectionEvent, connection::State};
use async_trait::async_trait;
use bytes::{BufMut, Bytes, BytesMut};
use futures::StreamExt;
use tokio::sync::{OnceCell, mpsc};

use super::{Frame, Hub, LiveFeed, Signal, Subscription, local::SIGNALS};
use crate::run::RunId;

/// Frames that cannot be sent by then are lost; watchers fill the hole from the store.
const PUBLISH_MAX: Duration = Duration::from_millis(250);
/// Publications that wait for the sender; those that find no room are lost as well.
const QUEUED_MAX: usize = 4096;
/// A server that has not answered by then is away, and its return will be announced.
const ROUND_TRIP_MAX: Duration = Duration::from_secs(2);
/// Frames share a message up to this size; a larger frame has one of its own.
const MESSAGE_BYTES: usize = 64 << 10;

pub struct NatsFeed {
    client: Client,
    prefix: String,
    hub: Hub,
    listening: OnceCell<()>,
    outgoing: mpsc::Sender<Vec<Frame>>,
}

impl NatsFeed {
    /// `cut` receives a word each time the connection was lost and found again: frames may have been missed.
    pub fn new(client: Client, prefix: &str, cut: Arc<tokio::sync::Notify>) -> Self {
        let (outgoing, queued) = mpsc::channel(QUEUED_MAX);
        tokio::spawn(send(client.clone(), format!("{prefix}.feed"), queued));
        let feed = Self {
            client,
            prefix: prefix.into(),
            hub: Hub::default(),
            listening: OnceCell::new(),
            outgoing,
        };
        let (client, watchers, nobody) = (feed.client.clone(), feed.hub.clone(), feed.nobody());
        tokio::spawn(async move {
            loop {
                cut.notified().await;
                // Not before the new connection listens again: what came in between would be missed without a word.
                round_trip(&client, nobody.clone()).await;
                watchers.missed();
            }
        });
        feed
    }

    /// A subject without listeners.
    fn nobody(&self) -> String {
        format!("{}.nobody", self.prefix)
    }

    /// The callback to connect with, and the word it gives after each reconnect.
    pub fn connection_watch() -> (
        Arc<tokio::sync::Notify>,
        impl Fn(ConnectionEvent) -> std::future::Ready<()>,
    ) {
        let cut = Arc::new(tokio::sync::Notify::new());
        let word = cut.clone();
        let callback = move |event| {
            if matches!(event, ConnectionEvent::Connected | ConnectionEvent::SlowConsumer(_)) {
                word.notify_one();
            }
            std::future::ready(())
        };
        (cut, callback)
    }

    async fn listen(&self) {
        let hub = self.hub.clone();
        let Ok(mut frames) = self.client.subscribe(format!("{}.feed", self.prefix)).await else {
            return;
        };
        // From here on the server knows: what is published after this is heard.
        if self.client.connection_state() == State::Connected {
            round_trip(&self.client, self.nobody()).await;
        }
        tokio::spawn(async move {
            while let Some(message) = frames.next().await {
                decode(message.payload, |frame| hub.publish(frame));
            }
        });
    }
}

/// Back when the server has done all that this connection asked for before: it answers a request to nobody at once,
/// and in order. A flush would only say that the bytes have left.
async fn round_trip(client: &Client, nobody: String) {
    let _ = tokio::time::timeout(ROUND_TRIP_MAX, client.request(nobody, Bytes::new())).await;
}

/// While the server is away the client's buffer fills, and a publish would wait for its return: nobody here does.
async fn bounded(client: &Client, send: impl Future<Output = ()>) {
    if client.connection_state() == State::Connected {
        let _ = tokio::time::timeout(PUBLISH_MAX, send).await;
    }
}

/// Sends what is queued, until the feed is dropped.
async fn send(client: Client, subject: String, mut queued: mpsc::Receiver<Vec<Frame>>) {
    let mut together = Vec::new();
    while queued.recv_many(&mut together, QUEUED_MAX).await > 0 {
        // One commit wakes many runs: those that are awake by now get to add theirs.
        tokio::task::yield_now().await;
        while let Ok(more) = queued.try_recv() {
            together.push(more);
        }
        let messages = encode(together.drain(..).flatten());
        let publish = async {
            for message in messages {
                // One that is larger than the server takes is missed by its watchers alone: they find it in the store.
                let _ = client.publish(subject.clone(), message).await;
            }
        };
        bounded(&client, publish).await;
    }
}

#[async_trait]
impl LiveFeed for NatsFeed {
    async fn publish(&self, frames: Vec<Frame>) {
        let _ = self.outgoing.try_send(frames);
    }

    async fn subscribe(&self, run_id: RunId) -> Subscription {
        self.listening.get_or_init(|| self.listen()).await;
        self.hub.subscribe(run_id)
    }

    async fn signal(&self, run_id: RunId, signal: Signal) {
        let word = match signal {
            Signal::Changed => "changed",
            Signal::Resend => "resend",
        };
        let subject = format!("{}.signal.{}", self.prefix, run_id.0.simple());
        bounded(&self.client, async {
            let _ = self.client.publish(subject, Bytes::from_static(word.as_bytes())).await;
        })
        .await;
    }

    async fn signals(&self) -> mpsc::Receiver<(RunId, Signal)> {
        let (sender, receiver) = mpsc::channel(SIGNALS);
        let client = self.client.clone();
        let subject = format!("{}.signal.*", self.prefix);
        tokio::spawn(async move {
            let Ok(mut signals) = client.subscribe(subject).await else {
                return;
            };
            while let Some(message) = signals.next().await {
                let signal = match &*message.payload {
                    b"changed" => Signal::Changed,
                    b"resend" => Signal::Resend,
                    _ => continue,
                };
                let Some(run_id) = run_of(&message.subject) else {
                    continue;
                };
                if sender.try_send((run_id, signal)).is_err() && sender.is_closed() {
                    return;
                }
            }
        });
        receiver
    }
}

fn run_of(subject: &str) -> Option<RunId> {
    let (_, digits) = subject.rsplit_once('.')?;
    uuid::Uuid::try_parse(digits).ok().map(RunId)
}

/// Frames as few messages. In each, for every frame: `E run version deltas name length\n` or
/// `D run version sub length\n`, then so many bytes of JSON, as clients get it.
fn encode(frames: impl Iterator<Item = Frame>) -> Vec<Bytes> {
    let mut messages = Vec::with_capacity(1);
    let (mut bytes, mut head) = (BytesMut::new(), String::new());
    for frame in frames {
        let run = frame.run_id().0.simple();
        head.clear();
        let json = match &frame {
            Frame::Event {
                version,
                name,
                deltas,
                json,
                ..
            } => {
                let _ = writeln!(head, "E {run} {version} {deltas} {name} {}", json.len());
                json
            }
            Frame::Delta { version, sub, json, .. } => {
                let _ = writeln!(head, "D {run} {version} {sub} {}", json.len());
                json
            }
        };
        if !bytes.is_empty() && bytes.len() + head.len() + json.len() > MESSAGE_BYTES {
            messages.push(bytes.split().freeze());
        }
        bytes.reserve(head.len() + json.len());
        bytes.put_slice(head.as_bytes());
        bytes.put_slice(json);
    }
    if !bytes.is_empty() {
        messages.push(bytes.freeze());
    }
    messages
}

/// Every frame of a message that can be read; what comes after one that cannot is dropped, and missed by its version.
fn decode(mut message: Bytes, mut each: impl FnMut(Frame)) {
    while let Some(frame) = decode_one(&mut message) {
        each(frame);
    }
}

fn decode_one(message: &mut Bytes) -> Option<Frame> {
    let end = message.iter().position(|byte| *byte == b'\n')?;
    let head = message.split_to(end);
    let mut words = std::str::from_utf8(&head).ok()?.split(' ');
    let (kind, run_id) = (words.next()?, RunId(uuid::Uuid::try_parse(words.next()?).ok()?));
    let (version, second) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let name = if kind == "E" { words.next()? } else { "" };
    let length: usize = words.next()?.parse().ok()?;
    if !matches!(kind, "E" | "D") || message.len() <= length {
        return None;
    }
    let json = message.split_to(length + 1).slice(1..);
    Some(match kind {
        "E" => Frame::Event {
            run_id,
            version,
            deltas: second,
            name: name.into(),
            json,
        },
        _ => Frame::Delta {
            run_id,
            version,
            sub: second,
            json,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_many_runs_survive_the_wire_together_and_in_order() {
        let run_id = RunId(uuid::Uuid::from_u128(7));
        let json = Bytes::from_static(b"{\"a\":\"\\n\"}\n");
        let event = |version: u64| Frame::Event {
            run_id: RunId(uuid::Uuid::from_u128(version.into())),
            version,
            name: "model.replied".into(),
            deltas: 2,
            json: json.clone(),
        };
        let delta = Frame::Delta {
            run_id,
            version: 4,
            sub: 1,
            json: Bytes::from(vec![b'x'; MESSAGE_BYTES]),
        };
        let frames = [event(3), delta, event(5), event(6)];
        let messages = encode(frames.iter().cloned());
        assert_eq!(messages.len(), 3, "what is too large for one message takes another");
        let mut read = Vec::new();
        for message in messages {
            decode(message, |frame| read.push(frame));
        }
        assert_eq!(read, frames);
    }

    #[test]
    fn a_message_that_cannot_be_read_gives_nothing_and_harms_nobody() {
        let run = uuid::Uuid::from_u128(7).simple();
        for message in [
            String::new(),
            "\n".into(),
            format!("X {run} 1 2 3\nabc"),
            format!("E {run} 1\n"),
            "D 7 1 1 3\nabc".into(),
            format!("E {run} 1 0 name 9\nshort"),
            format!("D {run} 1 1 -1\n"),
            format!("D {run} 1 1 99999999999999999999\n"),
        ] {
            decode(Bytes::from(message.clone()), |frame| {
                panic!("{message:?} gave {frame:?}")
            });
        }
    }
}
