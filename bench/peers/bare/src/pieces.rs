//! The text of one reply on its way to the client, sent as Steadfast's worker sends it (`workers/src/delta.rs`).

use std::{
    convert::Infallible,
    mem,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use crate::Client;

pub struct Pieces<'a> {
    client: &'a Client,
    /// Text is gathered for so long after a piece was sent; none: each piece goes out as it comes.
    gather: Option<Duration>,
    unsent: Mutex<String>,
    arrived: Notify,
}

impl<'a> Pieces<'a> {
    pub fn new(client: &'a Client, gather: Option<Duration>) -> Self {
        Self {
            client,
            gather,
            unsent: Mutex::default(),
            arrived: Notify::new(),
        }
    }

    /// More text has come.
    pub fn push(&self, text: &str) {
        if self.gather.is_none() {
            return self.client.tell("text", text);
        }
        self.lock().push_str(text);
        self.arrived.notify_one();
    }

    /// Sends the first piece at once and later ones gathered. Never ends: the caller drops it when the reply is whole.
    pub async fn run(&self) -> Infallible {
        loop {
            self.arrived.notified().await;
            let pause = Instant::now() + self.gather.unwrap_or_default();
            if self.flush() {
                tokio::time::sleep_until(pause).await;
            }
        }
    }

    /// Sends what has not been sent.
    pub fn flush(&self) -> bool {
        let text = mem::take(&mut *self.lock());
        if text.is_empty() {
            return false;
        }
        self.client.tell("text", &text);
        true
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, String> {
        self.unsent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;
    use uuid::Uuid;

    use super::*;

    fn frame(text: &str) -> String {
        format!("event: text\ndata: \"{text}\"\n\n")
    }

    async fn sent(gather: Option<Duration>) -> Vec<String> {
        let (sender, mut frames) = mpsc::unbounded_channel();
        let client = Client {
            run_id: Uuid::nil(),
            frames: sender,
        };
        let pieces = Pieces::new(&client, gather);
        let reply = async {
            for text in ["one ", "two ", "three "] {
                pieces.push(text);
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            () = reply => {}
            never = pieces.run() => match never {},
        }
        pieces.flush();
        std::iter::from_fn(|| frames.try_recv().ok())
            .map(|frame| String::from_utf8_lossy(&frame.text).into_owned())
            .collect()
    }

    #[tokio::test]
    async fn the_first_piece_goes_out_at_once_and_later_ones_are_gathered() {
        let second = Duration::from_secs(1);
        assert_eq!(sent(Some(second)).await, [frame("one "), frame("two three ")]);
    }

    #[tokio::test]
    async fn without_gathering_each_piece_goes_out_as_it_comes() {
        let whole = ["one ", "two ", "three "].map(frame);
        assert_eq!(sent(None).await, whole);
    }
}
