//! The gateway: when the store is read, what is heard, when a silence is broken. Stands for
//! `gateway/src/stream/follow.rs`.

use super::{
    Action, Mutant, PAGE, State, Stream,
    client::Client,
    follower::{Follower, Heard},
};

impl Stream {
    /// What the gateway does for the client.
    pub(super) fn follow(&self, next: &mut State, action: Action) {
        let State {
            follower: Some(follower),
            wire,
            log,
            wanted,
            ..
        } = next
        else {
            return;
        };
        match action {
            Action::Subscribe => follower.subscribed = true,
            Action::ReadStore => {
                let events: Vec<_> = log
                    .iter()
                    .copied()
                    .zip(1..)
                    .skip(follower.version.into())
                    .take(PAGE)
                    .collect();
                let full = events.len() == PAGE;
                for (event, version) in events {
                    let _ = follower.event(version, event, self.mutants, wire);
                }
                follower.behind = full;
                if !full {
                    *wanted |= std::mem::take(&mut follower.resend) && !follower.ended;
                }
            }
            Action::Hear => {
                let frame = follower.unheard.remove(0);
                match follower.hear(frame, self.mutants, wire) {
                    Heard::Well => {}
                    Heard::EventsMissing => (follower.behind, follower.resend) = (true, true),
                    Heard::DeltasMissing => *wanted = true,
                }
            }
            Action::HearMissed => (follower.missed, follower.behind, follower.resend) = (false, true, true),
            Action::LookInSilence => follower.behind = true,
            Action::LoseFrame => drop(follower.unheard.remove(0)),
            Action::LoseMessage => follower.unheard.clear(),
            Action::CutFeed => {
                follower.unheard.clear();
                follower.missed = true;
            }
            _ => {}
        }
    }

    pub(super) fn connect(&self, client: &Client) -> Follower {
        let follower = Follower::after(client.version, client.sub);
        Follower {
            sub: if self.lacks(Mutant::CursorWithoutDeltas) {
                0
            } else {
                follower.sub
            },
            behind: !self.lacks(Mutant::TailResume),
            subscribed: !self.lacks(Mutant::SubscribeAfterReading),
            ..follower
        }
    }

    pub(super) fn actions_of_the_gateway(&self, state: &State, fault: bool, actions: &mut Vec<Action>) {
        let Some(follower) = &state.follower else {
            if !state.client.done {
                actions.push(Action::Connect);
            }
            return;
        };
        if fault {
            actions.push(Action::Drop);
        }
        // Pulled by the connection: nothing is done while there is something to be sent.
        if !state.wire.is_empty() {
            actions.push(Action::Receive);
        } else if !follower.ended {
            if follower.behind {
                actions.push(Action::ReadStore);
            } else if !follower.subscribed {
                actions.push(Action::Subscribe);
            }
            if follower.missed {
                actions.push(Action::HearMissed);
            } else if !follower.unheard.is_empty() {
                actions.push(Action::Hear);
            } else if !follower.behind
                && !self.lacks(Mutant::NoLookInSilence)
                && usize::from(follower.version) < state.log.len()
            {
                actions.push(Action::LookInSilence);
            }
        }
        if fault && !follower.unheard.is_empty() {
            actions.extend([Action::LoseFrame, Action::LoseMessage, Action::CutFeed]);
        }
    }
}
