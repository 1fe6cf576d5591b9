//! What a client saw of a run, over any number of connections, and whether it may have seen that.
//!
//! The promise (I10): ids strictly increase; every event comes once, by its number, whole; deltas come numbered from 1
//! and, unless a `step.reset` takes them back, concatenate to the text of the `model.replied` that follows; and what is
//! left when everything taken back is struck out is what an undisturbed reader sees.

use crate::SseFrame;
use serde_json::Value;

pub const DELTA: &str = "agent.message.delta";
pub const RESET: &str = "step.reset";
const REPLIED: &str = "model.replied";
const TERMINAL: [&str; 3] = ["run.completed", "run.failed", "run.cancelled"];

/// `7` or `7.5`; the deltas of event 7 come before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cursor {
    pub version: u64,
    pub sub: Option<u64>,
}

impl Cursor {
    pub fn read(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse().map_err(|_| format!("{text:?} is no part of a cursor"));
        let (version, sub) = match text.split_once('.') {
            Some((version, sub)) => (version, Some(number(sub)?)),
            None => (text, None),
        };
        Ok(Self {
            version: number(version)?,
            sub,
        })
    }

    fn key(self) -> (u64, u64) {
        (self.version, self.sub.unwrap_or(u64::MAX))
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    pub id: String,
    pub name: String,
    /// As sent: events are hashed byte by byte.
    pub json: String,
}

impl Frame {
    /// Checks what is true of every frame alone.
    pub fn read(frame: SseFrame) -> Result<Self, String> {
        let SseFrame { id, event, data } = frame;
        let id = id.ok_or_else(|| format!("a frame without id: {event} {data}"))?;
        let value: Value = serde_json::from_str(&data).map_err(|error| format!("frame {id}: {error} in {data}"))?;
        let cursor = Cursor::read(&id)?;
        let (version, sub) = (value["version"].as_u64(), value["sub"].as_u64());
        if value["type"] != *event || version != Some(cursor.version) || sub != cursor.sub {
            return Err(format!("frame {id} {event} does not agree with its data: {data}"));
        }
        Ok(Self {
            id,
            name: event,
            json: data,
        })
    }

    pub fn cursor(&self) -> Cursor {
        Cursor::read(&self.id).expect("checked when it was read")
    }

    pub fn value(&self) -> Value {
        serde_json::from_str(&self.json).expect("checked when it was read")
    }

    /// The event's own data.
    pub fn data(&self) -> Value {
        self.value()["data"].take()
    }

    pub fn is_event(&self) -> bool {
        self.name != DELTA && self.name != RESET
    }

    pub fn is_terminal(&self) -> bool {
        TERMINAL.contains(&self.name.as_str())
    }
}

#[derive(Debug, Clone, Default)]
pub struct Transcript(pub Vec<Frame>);

impl Transcript {
    pub fn push(&mut self, frame: Frame) {
        self.0.push(frame);
    }

    /// Where to go on.
    pub fn cursor(&self) -> Option<&str> {
        self.0.last().map(|frame| frame.id.as_str())
    }

    pub fn ended(&self) -> bool {
        self.0.last().is_some_and(Frame::is_terminal)
    }

    pub fn events(&self) -> impl Iterator<Item = &Frame> {
        self.0.iter().filter(|frame| frame.is_event())
    }

    pub fn names(&self) -> Vec<&str> {
        self.events().map(|frame| frame.name.as_str()).collect()
    }

    pub fn count(&self, name: &str) -> usize {
        self.0.iter().filter(|frame| frame.name == name).count()
    }

    /// The one event of this name.
    #[track_caller]
    pub fn only(&self, name: &str) -> Value {
        let mut found = self.0.iter().filter(|frame| frame.name == name);
        let (first, second) = (found.next(), found.next());
        assert!(
            first.is_some() && second.is_none(),
            "not one {name} in {:?}",
            self.names()
        );
        first.expect("asserted").data()
    }

    /// The whole of a run that has ended, seen as promised.
    #[track_caller]
    pub fn assert_sound(&self) {
        if let Err(fault) = self.judge() {
            let seen: Vec<_> = self
                .0
                .iter()
                .map(|frame| format!("{} {}", frame.id, frame.name))
                .collect();
            panic!("{fault}; the client saw:\n{}", seen.join("\n"));
        }
    }

    /// Why this is not the whole of a run seen as promised.
    pub fn judge(&self) -> Result<(), String> {
        let (mut last, mut events) = (Cursor::default(), 0);
        let (mut text, mut deltas) = (String::new(), 0);
        for frame in &self.0 {
            let at = format!("frame {} {}", frame.id, frame.name);
            let cursor = frame.cursor();
            if cursor.key() <= last.key() && last != Cursor::default() {
                return Err(format!("{at} came after {last:?}"));
            }
            last = cursor;
            if cursor.version != events + 1 {
                return Err(format!("{at} came when event {} was due", events + 1));
            }
            match (frame.name.as_str(), cursor.sub) {
                (DELTA, Some(sub)) if sub == deltas + 1 => {
                    deltas = sub;
                    text += frame.value()["delta"].as_str().ok_or(format!("{at} has no text"))?;
                }
                // Taken back: what follows is not a reply, so no delta of this event can come any more. Who reconnects
                // right after a reset is told again.
                (RESET, Some(sub)) if deltas == u64::MAX || sub > deltas => {
                    deltas = u64::MAX;
                    text.clear();
                }
                (DELTA | RESET, _) => return Err(format!("{at} came when delta {} was due", deltas.wrapping_add(1))),
                (REPLIED, None) if deltas == u64::MAX => return Err(format!("{at}: its deltas were taken back")),
                (REPLIED, None) => {
                    let whole = frame.data()["text"].as_str().unwrap_or_default().to_owned();
                    if whole != text {
                        return Err(format!("{at} says {whole:?}, its deltas said {text:?}"));
                    }
                }
                (_, None) if deltas > 0 && deltas != u64::MAX => {
                    return Err(format!("{at} came after deltas that nobody took back"));
                }
                (_, None) => {}
                (_, Some(_)) => return Err(format!("{at}: an event with the cursor of a delta")),
            }
            if frame.is_event() {
                (events, deltas) = (cursor.version, 0);
                text.clear();
            }
        }
        match self.events().position(Frame::is_terminal) {
            Some(at) if at + 1 == self.events().count() && self.ended() => Ok(()),
            Some(_) => Err("frames came after the terminal event".into()),
            None => Err("the terminal event never came".into()),
        }
    }

    /// What is left when everything taken back is struck out.
    pub fn settled(&self) -> Vec<&Frame> {
        let mut kept: Vec<&Frame> = vec![];
        for frame in &self.0 {
            if frame.name == RESET {
                while kept.pop_if(|before| before.name == DELTA).is_some() {}
            } else {
                kept.push(frame);
            }
        }
        kept
    }

    /// Both clients saw the same run.
    #[track_caller]
    pub fn assert_same(&self, other: &Self) {
        if let Err(fault) = self.same(other) {
            panic!("{fault}");
        }
    }

    /// Where two clients saw different things of one run.
    pub fn same(&self, other: &Self) -> Result<(), String> {
        let (ours, theirs) = (self.settled(), other.settled());
        let differs = ours.iter().zip(&theirs).position(|(one, two)| one != two);
        if differs.is_none() && ours.len() == theirs.len() {
            return Ok(());
        }
        let at = differs.unwrap_or(ours.len().min(theirs.len()));
        Err(format!(
            "two readers of one run saw different things, from {:?} and {:?} on",
            ours.get(at),
            theirs.get(at)
        ))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn transcript(frames: &[(&str, &str, &str)]) -> Transcript {
        let frame = |(id, name, text): &(&str, &str, &str)| {
            let cursor = Cursor::read(id).expect("a cursor");
            let mut value = json!({"type": name, "version": cursor.version, "data": {"text": text}, "delta": text});
            if let Some(sub) = cursor.sub {
                value["sub"] = sub.into();
            }
            let data = value.to_string();
            Frame::read(SseFrame {
                id: Some((*id).into()),
                event: (*name).into(),
                data,
            })
            .expect("a frame")
        };
        Transcript(frames.iter().map(frame).collect())
    }

    const SOUND: [(&str, &str, &str); 8] = [
        ("1", "run.requested", ""),
        ("2.1", DELTA, "wrong"),
        ("2.2", RESET, ""),
        ("2", "run.resumed", ""),
        ("3.1", DELTA, "so "),
        ("3.2", DELTA, "it is"),
        ("3", REPLIED, "so it is"),
        ("4", "run.completed", ""),
    ];

    #[test]
    fn a_sound_transcript_is_taken_and_every_single_loss_doubling_or_swap_is_found() {
        transcript(&SOUND).assert_sound();
        let faulty = |what: &str, frames: Vec<(&str, &str, &str)>| {
            assert!(transcript(&frames).judge().is_err(), "{what} was not found: {frames:?}");
        };
        for (at, frame) in SOUND.iter().enumerate() {
            let mut lost = SOUND.to_vec();
            lost.remove(at);
            // A reset alone takes back what this client never saw: allowed.
            if at != 1 {
                faulty("a loss", lost);
            }
            let mut doubled = SOUND.to_vec();
            doubled.insert(at, *frame);
            faulty("a doubling", doubled);
            if at > 0 {
                let mut swapped = SOUND.to_vec();
                swapped.swap(at - 1, at);
                faulty("a swap", swapped);
            }
        }
    }

    #[test]
    fn what_was_taken_back_is_struck_out() {
        let undisturbed: Vec<_> = SOUND.iter().filter(|(id, ..)| !id.starts_with("2.")).copied().collect();
        transcript(&SOUND).assert_same(&transcript(&undisturbed));
    }
}
