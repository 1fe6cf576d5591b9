//! A worker that streams a reply, and may have lost the run without knowing. Stands for
//! `workers/src/{call,delta,execute}.rs`.

use super::{Action, Event, Live, Mutant, State, Stream, follower::Frame};

impl State {
    pub(super) fn next_version(&self) -> u8 {
        self.log.len() as u8 + 1
    }

    pub(super) fn publish(&mut self, frame: Frame) {
        if let Some(follower) = &mut self.follower {
            follower.push(frame);
        }
    }

    pub(super) fn append(&mut self, events: &[Event]) {
        for event in events {
            let version = self.next_version();
            self.log.push(*event);
            self.publish(Frame::Event { version, event: *event });
        }
    }

    pub(super) fn begin(&mut self) {
        let version = self.next_version();
        self.live.push(Some(Live { version, sent: 0 }));
    }

    pub(super) fn resend(&mut self, attempt: u8, live: Live) {
        for sub in 1..=live.sent {
            self.publish(Frame::Delta {
                version: live.version,
                sub,
                attempt,
            });
        }
    }

    pub(super) fn holds(&self, attempt: u8) -> bool {
        usize::from(attempt) + 1 == self.live.len()
    }
}

impl Stream {
    /// What a worker does. `live` is its call, under way.
    pub(super) fn work(&self, next: &mut State, action: Action, attempt: u8, live: Live) {
        let slot = usize::from(attempt);
        match action {
            Action::Piece(_) => {
                let sub = live.sent + 1;
                next.live[slot] = Some(Live { sent: sub, ..live });
                next.publish(Frame::Delta {
                    version: live.version,
                    sub,
                    attempt,
                });
            }
            Action::Reply(_) => {
                next.live[slot] = None;
                // Fenced, if another has claimed the run; after a conflict with an input, decided and sent again.
                if next.holds(attempt) {
                    next.append(&[
                        Event::Replied {
                            attempt,
                            pieces: live.sent,
                        },
                        Event::Completed,
                    ]);
                }
            }
            Action::Fail(_) => {
                next.live[slot] = None;
                next.append(&[Event::CallFailed, Event::CallRequested]);
                next.begin();
            }
            Action::Look(_) if !next.holds(attempt) && !self.lacks(Mutant::ClaimReadApart) => {
                next.live[slot] = None;
            }
            Action::Look(_) => {
                let version = next.next_version();
                if version != live.version {
                    let live = Live { version, ..live };
                    next.live[slot] = Some(live);
                    next.resend(attempt, live);
                }
            }
            Action::Resend(_) => {
                next.wanted = false;
                next.resend(attempt, live);
            }
            _ => next.live[slot] = None,
        }
    }
}
