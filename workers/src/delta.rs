//! The text of the step in progress, on its way to whoever watches.
//!
//! The first piece goes out at once, later ones are gathered for a moment. Every piece sent is numbered and its length
//! kept: the reply records them, so a stream can be resumed from any piece, live or from the log.

use std::{sync::Mutex, time::Duration};

use steadfast::{
    feed::{Frame, LiveFeed},
    run::RunId,
    wire,
};
use tokio::{sync::Notify, time::Instant};

/// Text is gathered for so long after a piece was sent.
const GATHER: Duration = Duration::from_millis(8);

/// Pieces sent again come in bursts that a watcher can hold, with a pause to read them.
const RESEND_BURST: usize = 16;
const RESEND_PAUSE: Duration = Duration::from_millis(1);

/// One model call's text.
pub struct Deltas<'a> {
    feed: &'a dyn LiveFeed,
    run_id: RunId,
    state: Mutex<State>,
    arrived: Notify,
}

#[derive(Default)]
struct State {
    /// The version the reply will have.
    version: u64,
    text: String,
    /// The lengths of the pieces sent.
    sent: Vec<u32>,
    sent_bytes: usize,
}

impl State {
    /// The piece not sent yet, as a frame.
    fn next_frame(&mut self, run_id: RunId) -> Option<Frame> {
        let piece = self.text.get(self.sent_bytes..).filter(|piece| !piece.is_empty())?;
        let sub = self.sent.len() as u32 + 1;
        let json = wire::delta(run_id, self.version, sub, piece).into();
        self.sent.push(piece.len() as u32);
        self.sent_bytes = self.text.len();
        Some(Frame::Delta {
            run_id,
            version: self.version,
            sub,
            json,
        })
    }
}

impl<'a> Deltas<'a> {
    pub fn new(feed: &'a dyn LiveFeed, run_id: RunId, version: u64) -> Self {
        Self {
            feed,
            run_id,
            state: Mutex::new(State {
                version,
                ..State::default()
            }),
            arrived: Notify::new(),
        }
    }

    /// More text has come.
    pub fn push(&self, text: &str) {
        self.lock().text.push_str(text);
        self.arrived.notify_one();
    }

    /// Sends pieces as text comes. Never ends: the caller drops it when the call is over.
    pub async fn run(&self) -> std::convert::Infallible {
        loop {
            self.arrived.notified().await;
            let pause = Instant::now() + GATHER;
            if self.flush().await {
                tokio::time::sleep_until(pause).await;
            }
        }
    }

    /// Sends what has not been sent.
    pub async fn flush(&self) -> bool {
        let frame = self.lock().next_frame(self.run_id);
        let Some(frame) = frame else { return false };
        self.feed.publish(vec![frame]).await;
        true
    }

    /// Sends every piece again, for a watcher that came late.
    pub async fn resend(&self) {
        let frames = {
            let state = self.lock();
            let mut start = 0;
            let mut frames = Vec::with_capacity(state.sent.len());
            for (at, length) in state.sent.iter().enumerate() {
                let end = start + *length as usize;
                let (sub, piece) = (at as u32 + 1, &state.text[start..end]);
                let json = wire::delta(self.run_id, state.version, sub, piece).into();
                frames.push(Frame::Delta {
                    run_id: self.run_id,
                    version: state.version,
                    sub,
                    json,
                });
                start = end;
            }
            frames
        };
        for burst in frames.chunks(RESEND_BURST) {
            self.feed.publish(burst.to_vec()).await;
            tokio::time::sleep(RESEND_PAUSE).await;
        }
    }

    /// Somebody else added to the run: the reply will have a later version, and its pieces with it.
    pub async fn move_to(&self, version: u64) {
        {
            let mut state = self.lock();
            if state.version == version {
                return;
            }
            state.version = version;
        }
        self.resend().await;
    }

    /// The lengths of all pieces sent.
    pub fn lengths(&self) -> Vec<u32> {
        self.lock().sent.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use steadfast::feed::{LocalFeed, Watched};

    use super::*;

    #[tokio::test]
    async fn pieces_sent_again_are_the_pieces_sent_and_their_lengths_cover_the_text() {
        let feed = LocalFeed::default();
        let run_id = RunId::default();
        let mut watcher = feed.subscribe(run_id).await;
        let deltas = Deltas::new(&feed, run_id, 4);
        for text in ["héll", "o ", "wörld"] {
            deltas.push(text);
            deltas.flush().await;
        }
        let mut first = Vec::new();
        for _ in 0..3 {
            first.push(watcher.next().await);
        }
        deltas.resend().await;
        for frame in &first {
            assert_eq!(watcher.next().await, *frame);
        }
        assert_eq!(deltas.lengths(), [5, 2, 6]);
        deltas.move_to(5).await;
        let Watched::Frame(Frame::Delta { version, sub, .. }) = watcher.next().await else {
            panic!("not a delta")
        };
        assert_eq!((version, sub), (5, 1));
        assert!(!deltas.flush().await, "nothing is left to send");
    }
}
