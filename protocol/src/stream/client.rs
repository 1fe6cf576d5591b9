//! A client that believes what it is sent, and checks it.

use super::{Event, follower::Sent};

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Client {
    /// Its cursor.
    pub version: u8,
    pub sub: u8,
    /// The pieces since the last event or reset: which try's, which of its pieces.
    text: Vec<(u8, u8)>,
    pub done: bool,
    /// A promise was broken.
    pub betrayed: bool,
}

impl Client {
    pub fn receive(&mut self, sent: Sent) {
        let kept = match sent {
            Sent::Delta { version, sub, attempt } => {
                let next = (version, sub) == (self.version + 1, self.sub + 1);
                self.text.push((attempt, sub));
                self.sub = sub;
                next
            }
            Sent::Reset { version, sub } => {
                let next = version == self.version + 1 && sub > self.sub;
                self.text.clear();
                self.sub = sub;
                next
            }
            Sent::Event { version, event } => {
                let next = version == self.version + 1;
                let text = std::mem::take(&mut self.text);
                (self.version, self.sub) = (version, 0);
                self.done = event == Event::Completed;
                next && match event {
                    Event::Replied { attempt, pieces } => text.into_iter().eq((1..=pieces).map(|sub| (attempt, sub))),
                    // Deltas of a reply that did not come must have been taken back.
                    _ => text.is_empty(),
                }
            }
        };
        self.betrayed |= !kept;
    }
}
