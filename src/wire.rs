//! The one rendering of events for clients: JSON and SSE, live and replayed, come through here.
//!
//! A cursor is `version` or `version.sub`: the sub-th delta of the event being produced. `7.5` lies before `7`,
//! because the deltas of event 7 come before event 7 itself.

use std::{
    fmt::{self, Write},
    str::FromStr,
};

use serde_json::value::RawValue;

use crate::{
    run::{Event, RunId, agent::hex, event::ModelReplied},
    store::StoredEvent,
};

/// The name of a delta frame.
pub const DELTA: &str = "agent.message.delta";
/// The name of the frame that takes back the deltas since the last event: the step starts over.
pub const RESET: &str = "step.reset";
/// What stands around a payload, generously: an event is written without growing what it is written to.
const ENVELOPE_BYTES: usize = 288;

/// An event as clients see it: `{"type","run_id","version","schema","time","hash","data"}`.
pub fn event(stored: &StoredEvent) -> String {
    // Names, ids, times and hashes hold nothing that JSON escapes; the payload is JSON already.
    let mut json = String::with_capacity(ENVELOPE_BYTES + stored.payload.len());
    let _ = write!(
        json,
        r#"{{"type":"{}","run_id":"{}","version":{},"schema":{},"time":"{}","hash":"{}","data":{}}}"#,
        stored.name,
        stored.run_id,
        stored.version,
        stored.schema,
        stored.time.to_rfc3339_opts(chrono::SecondsFormat::Micros, true),
        hex(&stored.hash),
        stored.payload
    );
    json
}

/// The same as a raw JSON value, to be put into lists.
pub fn event_value(stored: &StoredEvent) -> Option<Box<RawValue>> {
    RawValue::from_string(event(stored)).ok()
}

pub fn delta(run_id: RunId, version: u64, sub: u32, text: &str) -> String {
    let text = serde_json::Value::from(text);
    format!(r#"{{"type":"{DELTA}","run_id":"{run_id}","version":{version},"sub":{sub},"delta":{text}}}"#)
}

pub fn reset(run_id: RunId, version: u64, sub: u32) -> String {
    format!(r#"{{"type":"{RESET}","run_id":"{run_id}","version":{version},"sub":{sub}}}"#)
}

/// The deltas a reply was streamed in, rebuilt from the lengths it recorded. A record that does not fit its text
/// (it cannot, unless the log was edited) counts as one delta: the whole text.
pub fn deltas(reply: &ModelReplied) -> Vec<&str> {
    let mut parts = Vec::with_capacity(reply.deltas.len());
    let mut rest = reply.text.as_str();
    for length in &reply.deltas {
        match rest.split_at_checked(*length as usize) {
            Some((part, after)) => {
                parts.push(part);
                rest = after;
            }
            None => return vec![reply.text.as_str()],
        }
    }
    if rest.is_empty() {
        return parts;
    }
    if parts.is_empty() {
        vec![reply.text.as_str()]
    } else {
        parts.into_iter().chain([rest]).collect()
    }
}

/// How many deltas precede this event in the stream.
pub fn delta_count(event: &Event) -> u32 {
    match event {
        Event::ModelReplied(reply) => deltas(reply).len() as u32,
        _ => 0,
    }
}

/// A place in one run's stream: everything up to and including it has been seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cursor {
    pub version: u64,
    /// `Some(n)`: n deltas of event `version` have been seen, the event itself has not.
    pub sub: Option<u32>,
}

impl Cursor {
    pub fn after_event(version: u64) -> Self {
        Self { version, sub: None }
    }

    /// The last event seen whole.
    pub fn events_seen(self) -> u64 {
        if self.sub.is_some() {
            self.version.saturating_sub(1)
        } else {
            self.version
        }
    }

    fn key(self) -> (u64, u64) {
        (self.version, self.sub.map_or(u64::MAX, u64::from))
    }
}

impl PartialOrd for Cursor {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Cursor {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.sub {
            None => write!(f, "{}", self.version),
            Some(sub) => write!(f, "{}.{sub}", self.version),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a cursor; a cursor is a version such as 7, or a version and a delta such as 7.5")]
pub struct BadCursor(String);

impl FromStr for Cursor {
    type Err = BadCursor;

    fn from_str(text: &str) -> Result<Self, BadCursor> {
        let bad = || BadCursor(text.chars().take(40).collect());
        let number = |digits: &str| {
            let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            if plain {
                digits.parse::<u64>().map_err(|_| bad())
            } else {
                Err(bad())
            }
        };
        let cursor = match text.split_once('.') {
            None => Self::after_event(number(text)?),
            Some((version, sub)) => Self {
                version: number(version)?,
                sub: Some(u32::try_from(number(sub)?).map_err(|_| bad())?),
            },
        };
        // Versions are bigint in the log, and there is no event 0 to have deltas.
        let fits = cursor.version < i64::MAX as u64 && !(cursor.version == 0 && cursor.sub.is_some());
        if fits { Ok(cursor) } else { Err(bad()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn whatever_a_client_says_is_a_cursor_that_says_the_same_or_is_refused(
            text in prop_oneof![".{0,40}", "[0-9]{0,21}[.]?[0-9]{0,12}"],
        ) {
            match text.parse::<Cursor>() {
                Ok(cursor) => {
                    prop_assert_eq!(cursor.to_string().parse(), Ok(cursor));
                    prop_assert!(cursor.events_seen() <= cursor.version);
                }
                Err(refused) => prop_assert!(refused.to_string().len() < 400, "{}", refused),
            }
        }

        #[test]
        fn whatever_lengths_were_recorded_the_deltas_are_the_text(
            text in ".{0,40}", lengths in prop::collection::vec(prop_oneof![0..5u32, any::<u32>()], 0..20),
        ) {
            let reply = reply(&text, &lengths);
            prop_assert_eq!(deltas(&reply).concat(), text);
        }
    }

    fn reply(text: &str, lengths: &[u32]) -> ModelReplied {
        ModelReplied {
            step: 1,
            attempt: 1,
            text: text.into(),
            tool_calls: vec![],
            usage: Default::default(),
            model: "m".into(),
            provider_id: None,
            finish_reason: None,
            latency_ms: 1,
            first_token_ms: None,
            deltas: lengths.to_vec(),
        }
    }

    #[test]
    fn a_cursor_inside_a_step_lies_before_the_event_and_after_the_one_before() {
        let [six, seven_one, seven_five, seven] =
            ["6", "7.1", "7.5", "7"].map(|text| text.parse::<Cursor>().expect(text));
        assert!(six < seven_one && seven_one < seven_five && seven_five < seven);
        assert_eq!((seven_five.events_seen(), seven.events_seen()), (6, 7));
        for bad in [
            "",
            "-1",
            "+1",
            "x",
            "7.",
            ".5",
            "7.5.1",
            " 7",
            "99999999999999999999",
            "0.3",
            "9223372036854775807",
        ] {
            assert!(bad.parse::<Cursor>().is_err(), "{bad:?} was read as a cursor");
        }
    }

    #[test]
    fn deltas_are_rebuilt_from_the_lengths_and_always_concatenate_to_the_text() {
        assert_eq!(deltas(&reply("héllo", &[3, 3])), ["hé", "llo"]);
        assert_eq!(
            deltas(&reply("héllo", &[2, 4])),
            ["héllo"],
            "a cut inside a character is not followed"
        );
        for lengths in [&[][..], &[1], &[1, 2], &[99], &[2, 2, 2]] {
            assert_eq!(deltas(&reply("abcdef", lengths)).concat(), "abcdef");
        }
        assert!(deltas(&reply("", &[])).is_empty());
    }
}
