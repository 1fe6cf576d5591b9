//! How a client comes by a run's stream: a worker that streams and may lose its run, a feed that may lose anything, a
//! gateway that joins history and live frames, and a client that drops and resumes at its cursor.
//!
//! Stands for `gateway/src/stream/{follow,position}.rs`, `src/feed/`, `workers/src/{delta,call,execute}.rs`.

mod client;
pub mod follower;
mod gateway;
mod worker;

use stateright::{Model, Property};

use crate::explore::Protocol;
use client::Client;
use follower::{Follower, Frame, Sent};

pub const I10: &str = "I10: events once and in order; deltas since the last reset are the text of the reply";
pub const PROGRESS: &str = "I10: the client is sent everything, to the end";

/// Events read from the store at once: `PAGE` in `follow.rs`.
const PAGE: usize = 2;

/// A guard taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mutant {
    NoStepReset,
    EventGapAccepted,
    DeltaGapAccepted,
    /// A reply does not bring the deltas that were missed.
    ReplyNotCompleted,
    /// A cursor inside a step counts as one before it.
    CursorWithoutDeltas,
    /// The store is never looked at in a silence.
    NoLookInSilence,
    /// Resumed at the tail of the feed, the store not read.
    TailResume,
    /// The store first, then the subscription.
    SubscribeAfterReading,
    /// A worker that reads the head and the events apart takes the next claim's version for its own text's.
    ClaimReadApart,
}

impl Mutant {
    /// What is missing, and what that breaks.
    pub const CAUGHT: &[(&[Self], &'static str)] = &[
        (&[Self::NoStepReset], I10),
        (&[Self::EventGapAccepted], I10),
        (&[Self::DeltaGapAccepted], I10),
        (&[Self::ReplyNotCompleted], I10),
        (&[Self::CursorWithoutDeltas], I10),
        (&[Self::ClaimReadApart], I10),
        (&[Self::NoLookInSilence], PROGRESS),
        (&[Self::TailResume, Self::NoLookInSilence], PROGRESS),
        (&[Self::SubscribeAfterReading, Self::NoLookInSilence], PROGRESS),
    ];

    /// What may be missing: another guard stands behind it.
    pub const SPARED: &[&[Self]] = &[&[Self::TailResume], &[Self::SubscribeAfterReading]];
}

#[derive(Debug, Clone)]
pub struct Stream {
    /// Tries of the one model call, each with another text.
    pub attempts: u8,
    /// Pieces of each text.
    pub pieces: u8,
    /// Inputs that come while the reply is being streamed.
    pub inputs: u8,
    pub faults: u8,
    pub mutants: &'static [Mutant],
}

/// An event, without what does not matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    CallRequested,
    Replied { attempt: u8, pieces: u8 },
    CallFailed,
    Resumed,
    Input,
    Completed,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    log: Vec<Event>,
    /// By attempt. All but the last are of workers that have lost the run, and may not know.
    live: Vec<Option<Live>>,
    inputs: u8,
    /// An input's frame that its gateway has not published yet.
    unpublished: Option<u8>,
    /// A watcher asked for the deltas so far.
    wanted: bool,
    follower: Option<Follower>,
    /// On its way to the client.
    wire: Vec<Sent>,
    client: Client,
    faults: u8,
}

/// A call whose text is being streamed. Stands for `workers/src/delta.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Live {
    /// The reply's, as the worker expects.
    version: u8,
    sent: u8,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Action {
    Piece(u8),
    Reply(u8),
    Fail(u8),
    /// The lease ended; another worker claims. The first may live on.
    TakeOver,
    Stop(u8),
    Input,
    PublishInput,
    /// The worker looks at the run again.
    Look(u8),
    Resend(u8),
    Connect,
    Subscribe,
    ReadStore,
    Hear,
    HearMissed,
    LookInSilence,
    Receive,
    Drop,
    LoseFrame,
    /// All that is unheard, without a word: frames travel several to a message.
    LoseMessage,
    /// The same, and it is announced.
    CutFeed,
}

impl Stream {
    fn lacks(&self, guard: Mutant) -> bool {
        self.mutants.contains(&guard)
    }
}

impl Model for Stream {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut state = State {
            log: vec![Event::CallRequested],
            live: Vec::new(),
            inputs: self.inputs,
            unpublished: None,
            wanted: false,
            follower: None,
            wire: Vec::new(),
            client: Client::default(),
            faults: self.faults,
        };
        state.begin();
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let fault = state.faults > 0;
        for (attempt, live) in (0..).zip(&state.live) {
            let Some(live) = live else { continue };
            if live.sent < self.pieces {
                actions.push(Action::Piece(attempt));
            }
            if live.sent > 0 {
                actions.push(Action::Reply(attempt));
            }
            if state.wanted && live.sent > 0 {
                actions.push(Action::Resend(attempt));
            }
            actions.push(Action::Look(attempt));
            if !state.holds(attempt) {
                actions.push(Action::Stop(attempt));
            } else if fault && state.live.len() < self.attempts.into() {
                actions.extend([Action::Fail(attempt), Action::TakeOver]);
            }
        }
        let open = state.log.last() != Some(&Event::Completed);
        if open && state.inputs > 0 {
            actions.push(Action::Input);
        }
        if state.unpublished.is_some() {
            actions.push(Action::PublishInput);
        }
        self.actions_of_the_gateway(state, fault, actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        if costs(action) {
            next.faults -= 1;
        }
        match action {
            Action::Piece(at)
            | Action::Reply(at)
            | Action::Fail(at)
            | Action::Stop(at)
            | Action::Look(at)
            | Action::Resend(at) => {
                let live = state.live[usize::from(at)]?;
                self.work(&mut next, action, at, live);
            }
            Action::TakeOver => {
                next.append(&[Event::Resumed, Event::CallRequested]);
                next.begin();
            }
            Action::Input => {
                next.inputs -= 1;
                next.unpublished = Some(next.next_version());
                next.log.push(Event::Input);
            }
            Action::PublishInput => {
                let version = next.unpublished.take()?;
                next.publish(Frame::Event {
                    version,
                    event: Event::Input,
                });
            }
            Action::Connect => next.follower = Some(self.connect(&state.client)),
            Action::Receive => {
                let sent = next.wire.remove(0);
                next.client.receive(sent);
                if next.client.done {
                    next.follower = None;
                }
            }
            Action::Drop => {
                next.follower = None;
                next.wire.clear();
            }
            _ => self.follow(&mut next, action),
        }
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always(I10, |_, state: &State| !state.client.betrayed)]
    }
}

impl Protocol for Stream {
    const NAME: &str = "stream";
    const PROGRESS: &str = PROGRESS;

    fn is_fault(action: &Action) -> bool {
        costs(*action) || *action == Action::Input
    }

    fn bounds(&self) -> String {
        let Self {
            attempts,
            pieces,
            inputs,
            faults,
            ..
        } = self;
        format!("tries of the call: {attempts}, pieces of each: {pieces}, inputs: {inputs}, faults: {faults}")
    }

    fn is_settled(&self, state: &State) -> bool {
        state.client.done && state.log.last() == Some(&Event::Completed)
    }
}

fn costs(action: Action) -> bool {
    use Action::*;
    matches!(action, Fail(_) | TakeOver | Drop | LoseFrame | LoseMessage | CutFeed)
}
