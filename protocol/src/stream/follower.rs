//! A client's place in the stream, and what a frame does to it. Stands for `gateway/src/stream/position.rs`, line by
//! line.

use super::{Event, Mutant};

/// Frames a follower may leave unheard: `BACKLOG` in `src/feed/hub.rs`.
const BACKLOG: usize = 3;

/// What the feed carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Frame {
    Event { version: u8, event: Event },
    Delta { version: u8, sub: u8, attempt: u8 },
}

/// What the client is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sent {
    Event { version: u8, event: Event },
    Delta { version: u8, sub: u8, attempt: u8 },
    Reset { version: u8, sub: u8 },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Follower {
    pub version: u8,
    pub sub: u8,
    pub ended: bool,
    /// The store may hold events that were not sent.
    pub behind: bool,
    /// Once the store has been read, the worker is asked for deltas.
    pub resend: bool,
    pub subscribed: bool,
    /// Frames were dropped, and it is known.
    pub missed: bool,
    pub unheard: Vec<Frame>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    Well,
    EventsMissing,
    DeltasMissing,
}

impl Follower {
    pub fn after(version: u8, sub: u8) -> Self {
        Self {
            version,
            sub,
            ended: false,
            behind: true,
            resend: true,
            subscribed: true,
            missed: false,
            unheard: Vec::new(),
        }
    }

    /// The feed hands it a frame.
    pub fn push(&mut self, frame: Frame) {
        if !self.subscribed {
            return;
        }
        if self.unheard.len() == BACKLOG {
            self.unheard.remove(0);
            self.missed = true;
        }
        self.unheard.push(frame);
    }

    pub fn hear(&mut self, frame: Frame, mutants: &[Mutant], wire: &mut Vec<Sent>) -> Heard {
        match frame {
            Frame::Event { version, event } => self.event(version, event, mutants, wire),
            Frame::Delta { version, sub, attempt } => self.delta(version, sub, attempt, mutants, wire),
        }
    }

    fn delta(&mut self, version: u8, sub: u8, attempt: u8, mutants: &[Mutant], wire: &mut Vec<Sent>) -> Heard {
        if version <= self.version {
            return Heard::Well;
        }
        if version > self.version + 1 {
            return Heard::EventsMissing;
        }
        if sub <= self.sub {
            return Heard::Well;
        }
        if sub > self.sub + 1 && !mutants.contains(&Mutant::DeltaGapAccepted) {
            return Heard::DeltasMissing;
        }
        self.sub = sub;
        wire.push(Sent::Delta { version, sub, attempt });
        Heard::Well
    }

    pub fn event(&mut self, version: u8, event: Event, mutants: &[Mutant], wire: &mut Vec<Sent>) -> Heard {
        if version <= self.version {
            return Heard::Well;
        }
        if version > self.version + 1 && !mutants.contains(&Mutant::EventGapAccepted) {
            return Heard::EventsMissing;
        }
        match event {
            Event::Replied { attempt, pieces } => self.complete(version, attempt, pieces, mutants, wire),
            _ if self.sub > 0 => self.take_back(version, mutants, wire),
            _ => {}
        }
        wire.push(Sent::Event { version, event });
        self.version = version;
        self.sub = 0;
        self.ended = event == Event::Completed;
        Heard::Well
    }

    fn complete(&mut self, version: u8, attempt: u8, pieces: u8, mutants: &[Mutant], wire: &mut Vec<Sent>) {
        if pieces == self.sub || mutants.contains(&Mutant::ReplyNotCompleted) {
            return;
        }
        if pieces < self.sub {
            return self.take_back(version, mutants, wire);
        }
        for sub in self.sub + 1..=pieces {
            wire.push(Sent::Delta { version, sub, attempt });
        }
    }

    fn take_back(&mut self, version: u8, mutants: &[Mutant], wire: &mut Vec<Sent>) {
        if !mutants.contains(&Mutant::NoStepReset) {
            wire.push(Sent::Reset {
                version,
                sub: self.sub + 1,
            });
        }
    }
}
