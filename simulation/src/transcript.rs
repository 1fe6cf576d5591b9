//! What one client saw of its run, frame by frame, whatever broke in between.

use std::mem;

use steadfast::{
    run::{Event, RunId},
    store::StoredEvent,
    wire::{self, Cursor},
};

/// A server-sent event.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    pub id: String,
    pub event: String,
    pub data: String,
}

#[derive(Debug, Default)]
pub struct Transcript {
    pub tenant: usize,
    pub key: String,
    /// Of every answer that named one.
    pub run_ids: Vec<RunId>,
    pub frames: Vec<Frame>,
    pub reconnects: u64,
    /// Answers no client should ever get.
    pub surprises: Vec<String>,
    pub done: bool,
}

impl Transcript {
    /// The end of the run was seen.
    pub fn is_over(&self) -> bool {
        self.frames
            .last()
            .is_some_and(|frame| Event::is_terminal_name(&frame.event))
    }

    /// Where a client that comes back says it is.
    pub fn cursor(&self) -> Option<&str> {
        self.frames.last().map(|frame| frame.id.as_str())
    }
}

/// Whole frames out of the pieces of one connection; what a cut leaves of a frame is forgotten with it.
#[derive(Default)]
pub struct Parser {
    rest: Vec<u8>,
}

impl Parser {
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Frame> {
        self.rest.extend_from_slice(bytes);
        let mut frames = Vec::new();
        while let Some(end) = self.rest.windows(2).position(|pair| pair == b"\n\n") {
            let tail = self.rest.split_off(end + 2);
            let block = mem::replace(&mut self.rest, tail);
            frames.extend(read(&String::from_utf8_lossy(&block)));
        }
        frames
    }
}

fn read(block: &str) -> Option<Frame> {
    let field = |name: &str| {
        let mut lines = block.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    };
    Some(Frame {
        id: field("id")?.into(),
        event: field("event")?.into(),
        data: field("data")?.into(),
    })
}

/// What is wrong with a transcript, if anything is.
pub fn exactness(frames: &[Frame], stored: &[StoredEvent]) -> Option<String> {
    let mut events = stored.iter();
    let mut last = Cursor::default();
    let mut text = String::new();
    for frame in frames {
        let Ok(cursor) = frame.id.parse::<Cursor>() else {
            return Some(format!("{:?} is no cursor", frame.id));
        };
        if cursor <= last {
            return Some(format!("{cursor} came after {last}"));
        }
        last = cursor;
        match frame.event.as_str() {
            wire::DELTA => {
                let data: serde_json::Value = serde_json::from_str(&frame.data).unwrap_or_default();
                text.push_str(data["delta"].as_str().unwrap_or_default());
            }
            wire::RESET => text.clear(),
            name => {
                let Some(event) = events.next() else {
                    return Some(format!("{cursor} {name} is not in the log"));
                };
                if frame.data != wire::event(event) || name != event.name {
                    return Some(format!("{cursor} {name} is not event {} {}", event.version, event.name));
                }
                let said = mem::take(&mut text);
                match event.decode() {
                    Ok(Event::ModelReplied(reply)) if reply.text != said => {
                        return Some(format!(
                            "the deltas before {cursor} say {said:?}, the reply {:?}",
                            reply.text
                        ));
                    }
                    Ok(Event::ModelReplied(_)) => {}
                    _ if !said.is_empty() => return Some(format!("deltas before {cursor} {name} were not taken back")),
                    _ => {}
                }
            }
        }
    }
    events
        .next()
        .map(|event| format!("event {} {} was never seen", event.version, event.name))
}
