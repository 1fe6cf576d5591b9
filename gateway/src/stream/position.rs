//! Where a client stands in a run's stream, and which frames bring it on.
//!
//! The promise: event versions without a gap or a double; deltas `v.1, v.2 …` before the event `v` whose text they
//! are; and the deltas since the last event or reset always concatenate to the text, or are taken back by a
//! `step.reset`. A finished run read from any cursor gives the deltas that were sent live, because the event
//! `model.replied` records where they were cut.

use bytes::Bytes;
use serde::Deserialize;
use steadfast::{
    feed::Frame,
    run::{Event, RunId, event::ModelReplied},
    store::StoredEvent,
    wire::{self, Cursor},
};

/// The event that deltas belong to.
const REPLIED: &str = "model.replied";
/// The event right before the deltas of a reply.
const CALL_REQUESTED: &str = "model_call.requested";

/// Takes the frames that are due, in order.
pub trait Sink {
    fn frame(&mut self, id: Cursor, name: &str, json: &[u8]);
}

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Heard {
    /// It was sent, or had been.
    Well,
    /// Events before it are missing: read the store.
    EventsMissing,
    /// Deltas before it are missing: ask the worker.
    DeltasMissing,
}

#[derive(Debug, Clone)]
pub struct Position {
    run_id: RunId,
    /// The last event sent.
    version: u64,
    /// Deltas sent of the event after it.
    sub: u32,
    /// False if the client wants neither deltas nor resets: then they cost nothing.
    with_deltas: bool,
    ended: bool,
    /// Is a model being called? `None` until an event was seen that tells.
    calling: Option<bool>,
}

impl Position {
    pub fn after(run_id: RunId, cursor: Cursor, with_deltas: bool) -> Self {
        let (version, sub) = (cursor.events_seen(), cursor.sub.unwrap_or(0));
        Self {
            run_id,
            version,
            sub,
            with_deltas,
            ended: false,
            calling: None,
        }
    }

    /// The last event sent.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The terminal event was sent.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Deltas may have been sent before this client came.
    pub fn may_miss_deltas(&self) -> bool {
        self.with_deltas && !self.ended && self.calling != Some(false)
    }

    /// A frame from the feed.
    pub fn hear(&mut self, frame: &Frame, sink: &mut impl Sink) -> Heard {
        match frame {
            Frame::Event {
                version,
                name,
                deltas,
                json,
                ..
            } => {
                let reply = Reply {
                    deltas: Some(*deltas),
                    read: || envelope(json),
                };
                self.event(*version, name, json, reply, sink)
            }
            Frame::Delta { version, sub, json, .. } => self.delta(*version, *sub, json, sink),
        }
    }

    /// An event from the store.
    pub fn read(&mut self, stored: &StoredEvent, sink: &mut impl Sink) -> Heard {
        let reply = Reply {
            deltas: None,
            read: || serde_json::from_str(&stored.payload).ok(),
        };
        if stored.version != self.version + 1 {
            return if stored.version <= self.version {
                Heard::Well
            } else {
                Heard::EventsMissing
            };
        }
        self.event(
            stored.version,
            &stored.name,
            wire::event(stored).as_bytes(),
            reply,
            sink,
        )
    }

    fn delta(&mut self, version: u64, sub: u32, json: &[u8], sink: &mut impl Sink) -> Heard {
        if version <= self.version {
            return Heard::Well;
        }
        if version > self.version + 1 {
            return Heard::EventsMissing;
        }
        if !self.with_deltas || sub <= self.sub {
            return Heard::Well;
        }
        if sub > self.sub + 1 {
            return Heard::DeltasMissing;
        }
        self.sub = sub;
        sink.frame(
            Cursor {
                version,
                sub: Some(sub),
            },
            wire::DELTA,
            json,
        );
        Heard::Well
    }

    fn event<R>(&mut self, version: u64, name: &str, json: &[u8], reply: Reply<R>, sink: &mut impl Sink) -> Heard
    where
        R: FnOnce() -> Option<ModelReplied>,
    {
        if version <= self.version {
            return Heard::Well;
        }
        if version > self.version + 1 {
            return Heard::EventsMissing;
        }
        if self.with_deltas {
            if name == REPLIED {
                self.complete(version, reply, sink);
            } else if self.sub > 0 {
                self.take_back(version, sink);
            }
        }
        sink.frame(Cursor::after_event(version), name, json);
        self.version = version;
        self.sub = 0;
        self.ended = Event::is_terminal_name(name);
        self.calling = Some(name == CALL_REQUESTED);
        Heard::Well
    }

    /// Before a reply: the deltas of it that were not sent yet.
    fn complete<R>(&mut self, version: u64, reply: Reply<R>, sink: &mut impl Sink)
    where
        R: FnOnce() -> Option<ModelReplied>,
    {
        if reply.deltas == Some(self.sub) {
            return;
        }
        // An event that does not read is shown as it is; its deltas cannot be.
        let reply = (reply.read)();
        let parts = reply.as_ref().map(wire::deltas).unwrap_or_default();
        if (parts.len() as u64) < u64::from(self.sub) {
            // What was sent is not what was recorded.
            return self.take_back(version, sink);
        }
        for part in &parts[self.sub as usize..] {
            self.sub += 1;
            let json = wire::delta(self.run_id, version, self.sub, part);
            sink.frame(
                Cursor {
                    version,
                    sub: Some(self.sub),
                },
                wire::DELTA,
                json.as_bytes(),
            );
        }
    }

    /// The deltas sent belong to a reply that will not come.
    fn take_back(&mut self, version: u64, sink: &mut impl Sink) {
        let sub = self.sub.saturating_add(1);
        let json = wire::reset(self.run_id, version, sub);
        sink.frame(
            Cursor {
                version,
                sub: Some(sub),
            },
            wire::RESET,
            json.as_bytes(),
        );
    }
}

/// How to learn the deltas of an event, should they be needed.
struct Reply<R> {
    deltas: Option<u32>,
    read: R,
}

/// The reply inside an event as it is rendered.
fn envelope(json: &Bytes) -> Option<ModelReplied> {
    #[derive(Deserialize)]
    struct Envelope {
        data: ModelReplied,
    }
    serde_json::from_slice::<Envelope>(json)
        .ok()
        .map(|envelope| envelope.data)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Collects `id name`.
    #[derive(Default)]
    struct Sent(Vec<String>);

    impl Sink for Sent {
        fn frame(&mut self, id: Cursor, name: &str, _: &[u8]) {
            self.0.push(format!("{id} {name}"));
        }
    }

    fn event(version: u64, name: &str) -> Frame {
        let (run_id, json) = (RunId::default(), Bytes::from_static(b"{}"));
        Frame::Event {
            run_id,
            version,
            name: name.into(),
            deltas: 0,
            json,
        }
    }

    fn delta(version: u64, sub: u32) -> Frame {
        Frame::Delta {
            run_id: RunId::default(),
            version,
            sub,
            json: Bytes::from_static(b"{}"),
        }
    }

    fn replied(version: u64, lengths: &[u32]) -> Frame {
        let text = "x".repeat(lengths.iter().sum::<u32>() as usize);
        let json = format!(
            r#"{{"data":{{"step":1,"attempt":1,"text":"{text}","usage":{{"input_tokens":1,"output_tokens":1}},"model":"m","latency_ms":1,"deltas":{lengths:?}}}}}"#
        );
        let deltas = lengths.len() as u32;
        Frame::Event {
            run_id: RunId::default(),
            version,
            name: REPLIED.into(),
            deltas,
            json: json.into(),
        }
    }

    fn after(cursor: &str) -> Position {
        Position::after(RunId::default(), cursor.parse().expect("a cursor"), true)
    }

    fn check(cursor: &str, frames: &[Frame], expected: &[&str]) -> Heard {
        let (mut position, mut sent) = (after(cursor), Sent::default());
        let heard = frames.iter().map(|frame| position.hear(frame, &mut sent)).last();
        assert_eq!(sent.0, expected);
        heard.expect("at least one frame")
    }

    #[test]
    fn names_used_here_are_names_of_events() {
        assert!([REPLIED, CALL_REQUESTED].iter().all(|name| Event::NAMES.contains(name)));
    }

    #[test]
    fn events_come_in_order_and_once() {
        let frames = [
            event(1, "run.requested"),
            event(1, "run.requested"),
            event(2, "run.started"),
        ];
        assert_eq!(check("0", &frames, &["1 run.requested", "2 run.started"]), Heard::Well);
        assert_eq!(check("0", &[event(2, "run.started")], &[]), Heard::EventsMissing);
        assert_eq!(check("3", &[delta(5, 1)], &[]), Heard::EventsMissing);
    }

    #[test]
    fn deltas_come_in_order_and_once_and_a_hole_is_asked_for() {
        let frames = [delta(4, 1), delta(4, 1), delta(4, 2)];
        assert_eq!(
            check("3", &frames, &["4.1 agent.message.delta", "4.2 agent.message.delta"]),
            Heard::Well
        );
        assert_eq!(check("3", &[delta(4, 2)], &[]), Heard::DeltasMissing);
        assert_eq!(
            check("4.2", &[delta(4, 2), delta(4, 3)], &["4.3 agent.message.delta"]),
            Heard::Well
        );
        assert_eq!(check("4", &[delta(4, 1)], &[]), Heard::Well);
    }

    #[test]
    fn a_reply_brings_the_deltas_that_were_not_sent() {
        let whole = [
            "4.1 agent.message.delta",
            "4.2 agent.message.delta",
            "4.3 agent.message.delta",
            "4 model.replied",
        ];
        assert_eq!(check("3", &[replied(4, &[1, 2, 1])], &whole), Heard::Well);
        assert_eq!(check("4.2", &[replied(4, &[1, 2, 1])], &whole[2..]), Heard::Well);
        assert_eq!(check("3", &[delta(4, 1), replied(4, &[1, 2, 1])], &whole), Heard::Well);
    }

    #[test]
    fn deltas_of_a_reply_that_never_comes_are_taken_back() {
        let expected = ["4.1 agent.message.delta", "4.2 step.reset", "4 run.resumed"];
        assert_eq!(
            check("3", &[delta(4, 1), event(4, "run.resumed")], &expected),
            Heard::Well
        );
        assert_eq!(
            check(
                "4.7",
                &[event(4, "model_call.failed")],
                &["4.8 step.reset", "4 model_call.failed"]
            ),
            Heard::Well
        );
        assert_eq!(
            check("4.7", &[replied(4, &[1, 1])], &["4.8 step.reset", "4 model.replied"]),
            Heard::Well
        );
    }

    #[test]
    fn a_client_that_wants_no_deltas_gets_none_and_is_never_asked_to_wait_for_them() {
        let mut position = Position::after(RunId::default(), Cursor::after_event(3), false);
        let mut sent = Sent::default();
        for frame in [delta(4, 2), replied(4, &[1, 1]), event(5, "run.completed")] {
            assert_eq!(position.hear(&frame, &mut sent), Heard::Well);
        }
        assert_eq!(sent.0, ["4 model.replied", "5 run.completed"]);
        assert!(position.ended());
    }
}
