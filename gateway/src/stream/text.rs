//! Frames as server-sent events, and the filter a client may put on them.

use std::io::Write;

use axum::http::StatusCode;
use bytes::Bytes;
use steadfast::{
    run::Event,
    wire::{self, Cursor},
};

use super::position::Sink;
use crate::{body, problem::Problem};

const KEEP_ALIVE: &[u8] = b": keep-alive\n\n";

/// Which frames a client wants: a bit for each name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Types(u32);

impl Default for Types {
    fn default() -> Self {
        Self(u32::MAX)
    }
}

fn names() -> impl Iterator<Item = &'static str> {
    Event::NAMES.iter().copied().chain([wire::DELTA, wire::RESET])
}

fn bit(name: &str) -> Option<u32> {
    names().position(|known| known == name).map(|at| 1 << at)
}

impl Types {
    /// Reads a comma-separated list.
    pub fn read(list: &str) -> Result<Self, Problem> {
        let mut types = 0;
        for name in list.split(',').map(str::trim) {
            types |= bit(name).ok_or_else(|| unknown_type(name))?;
        }
        // Deltas without their resets mean nothing: whoever asks for the one gets both.
        if types & bit(wire::DELTA).unwrap_or(0) != 0 {
            types |= bit(wire::RESET).unwrap_or(0);
        }
        Ok(Self(types))
    }

    pub fn include(self, name: &str) -> bool {
        // A name this build does not know comes from a newer worker; only a filter hides it.
        self == Self::default() || bit(name).is_some_and(|bit| self.0 & bit != 0)
    }

    /// The terminal event always comes: it is how a client knows that a stream is over, not broken.
    fn show(self, name: &str) -> bool {
        self.include(name) || Event::is_terminal_name(name)
    }

    /// Deltas, resets, or both are wanted.
    pub fn include_deltas(self) -> bool {
        self.include(wire::RESET)
    }
}

fn unknown_type(name: &str) -> Problem {
    let name: String = name.chars().take(60).collect();
    let known: Vec<&str> = names().collect();
    let hint = body::closest(&name, &known)
        .map(|close| format!(", did you mean {close:?}?"))
        .unwrap_or_default();
    let detail = format!(
        "there is no event type {name:?}{hint}; the types are: {}",
        known.join(", ")
    );
    Problem::new(StatusCode::BAD_REQUEST, "unknown_event_type", detail.clone()).at("types", detail)
}

/// A piece of a stream's body under construction.
pub struct Chunk {
    types: Types,
    bytes: Vec<u8>,
    urgent: bool,
}

impl Chunk {
    pub fn new(types: Types) -> Self {
        Self {
            types,
            bytes: Vec::new(),
            urgent: false,
        }
    }

    /// It is to be sent without waiting for more.
    pub fn hurry(&mut self) {
        self.urgent = true;
    }

    /// It holds what a person reads, or was told to hurry.
    pub fn is_urgent(&self) -> bool {
        self.urgent
    }

    pub fn keep_alive(&mut self) {
        self.hurry();
        self.bytes.extend_from_slice(KEEP_ALIVE);
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub fn finish(self) -> Bytes {
        self.bytes.into()
    }
}

impl Sink for Chunk {
    fn frame(&mut self, id: Cursor, name: &str, json: &[u8]) {
        if !self.types.show(name) {
            return;
        }
        self.urgent |= matches!(name, wire::DELTA | wire::RESET) || Event::is_terminal_name(name);
        self.bytes.reserve(json.len() + name.len() + 48);
        // Writing to a vector cannot fail.
        let _ = write!(self.bytes, "id: {id}\nevent: {name}\ndata: ");
        self.bytes.extend_from_slice(json);
        self.bytes.extend_from_slice(b"\n\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_has_its_own_bit() {
        assert!(names().count() <= 31, "the filter has room for 31 names");
        for name in names() {
            let only = Types::read(name).expect("a known name");
            let shown: Vec<_> = names().filter(|other| only.include(other)).collect();
            if name == wire::DELTA {
                assert_eq!(shown, [wire::DELTA, wire::RESET]);
            } else {
                assert_eq!(shown, [name]);
            }
        }
    }

    #[test]
    fn an_unknown_type_is_refused_with_the_known_ones() {
        let problem = Types::read("model.replied,run.complete").expect_err("run.complete was read");
        let text = format!("{problem:?}");
        assert!(
            text.contains("run.completed") && text.contains("tool_call.requested"),
            "{text}"
        );
        assert!(Types::read("").is_err());
    }

    #[test]
    fn a_frame_has_its_id_its_name_and_one_line_of_data() {
        let mut chunk = Chunk::new(Types::read("model.replied").expect("a known name"));
        chunk.frame(
            Cursor {
                version: 4,
                sub: Some(1),
            },
            wire::DELTA,
            b"{}",
        );
        chunk.frame(Cursor::after_event(4), "model.replied", b"{\"a\":1}");
        chunk.frame(Cursor::after_event(5), "run.completed", b"{}");
        chunk.keep_alive();
        let text = String::from_utf8(chunk.finish().to_vec()).expect("text");
        assert_eq!(
            text,
            "id: 4\nevent: model.replied\ndata: {\"a\":1}\n\nid: 5\nevent: run.completed\ndata: {}\n\n: keep-alive\n\n"
        );
    }
}
