//! One client following one run.
//!
//! The follower is pulled by the connection: it does nothing while the client does not read. What it hears it sends in
//! as few pieces as possible; what it misses it reads from the store; and when it hears nothing it looks at the store
//! now and then, so that no lost frame, not even a lost end, leaves a client hanging.

use std::{pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::FutureExt;
use steadfast::{
    feed::{Frame, LiveFeed, Signal, Subscription, Watched},
    metrics,
    run::RunId,
    store::{self, Reader},
    wire::Cursor,
};
use tokio::time::{Instant, Sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{
    position::{Heard, Position},
    slots::Slot,
    text::{Chunk, Types},
};

/// A comment this often keeps proxies from cutting a quiet stream.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(15);
/// After so much silence the store is looked at, then every [`LOOK_EVERY`].
const LOOK_AFTER: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// While the store is away, it is asked this often, and the stream ended after [`STORE_PATIENCE`].
const STORE_PAUSE: Duration = Duration::from_secs(1);
const STORE_PATIENCE: Duration = Duration::from_secs(30);
/// The worker is asked for the same deltas no more often than this.
const RESEND_PAUSE: Duration = Duration::from_secs(1);
/// A feed that does not take a signal by then is away; the store will do.
const SIGNAL_MAX: Duration = Duration::from_millis(200);
/// Events read from the store at once.
const PAGE: u32 = 64;
/// A piece of the body is sent once it is this long.
const CHUNK_BYTES: usize = 16 * 1024;
/// What a person does not wait for is sent so much later at the most: together with what comes next, in one write.
const GATHER: Duration = Duration::from_millis(5);

/// What a follower needs of the gateway.
#[derive(Clone)]
pub struct Sources {
    pub reader: Reader,
    pub feed: Arc<dyn LiveFeed>,
    /// Cancelled when the process ends: streams end cleanly, and clients come back elsewhere.
    pub draining: CancellationToken,
    pub age_max: Option<Duration>,
}

pub struct Follower {
    sources: Sources,
    run_id: RunId,
    types: Types,
    subscription: Subscription,
    position: Position,
    /// Events that were just written, to be sent before anything else.
    written: Vec<Frame>,
    /// The store may hold events that were not sent.
    behind: bool,
    /// Once the store has been read, deltas may still be missing.
    resend: bool,
    store_away_since: Option<Instant>,
    not_before: Instant,
    asked: Option<(u64, Instant)>,
    opened: Instant,
    last_sent: Instant,
    last_heard: Instant,
    last_look: Instant,
    looked_in_this_silence: bool,
    alarm: Pin<Box<Sleep>>,
    _slot: Slot,
}

impl Follower {
    /// Follows from a cursor: the store first.
    pub fn from_cursor(
        sources: Sources,
        run_id: RunId,
        cursor: Cursor,
        types: Types,
        subscription: Subscription,
        slot: Slot,
    ) -> Self {
        let now = Instant::now();
        let first_alarm = sources.age_max.map_or(LOOK_AFTER, |age| age.min(LOOK_AFTER));
        Self {
            sources,
            run_id,
            types,
            subscription,
            position: Position::after(run_id, cursor, types.include_deltas()),
            written: Vec::new(),
            behind: true,
            resend: true,
            store_away_since: None,
            not_before: now,
            asked: None,
            opened: now,
            last_sent: now,
            last_heard: now,
            last_look: now,
            looked_in_this_silence: false,
            alarm: Box::pin(tokio::time::sleep_until(now + first_alarm)),
            _slot: slot,
        }
    }

    /// Follows a run from its first events, which this process has just written: the store need not be asked.
    /// The subscription must be older than the events.
    pub fn from_start(
        sources: Sources,
        run_id: RunId,
        written: Vec<Frame>,
        subscription: Subscription,
        slot: Slot,
    ) -> Self {
        let cursor = Cursor::default();
        let follower = Self::from_cursor(sources, run_id, cursor, Types::default(), subscription, slot);
        Self {
            written,
            behind: false,
            resend: false,
            ..follower
        }
    }

    /// The next piece; `None` ends the stream.
    ///
    /// To be awaited to its end: what it has read would be lost otherwise.
    pub async fn next(&mut self) -> Option<Bytes> {
        let mut chunk = Chunk::new(self.types);
        for frame in std::mem::take(&mut self.written) {
            // In order by construction; were they not, the store would be asked.
            self.behind |= self.position.hear(&frame, &mut chunk) != Heard::Well;
            chunk.hurry();
        }
        while chunk.is_empty() && !self.position.ended() {
            if self.behind && Instant::now() >= self.not_before {
                self.read_store(&mut chunk).await?;
                continue;
            }
            tokio::select! {
                biased;
                () = self.sources.draining.cancelled() => return None,
                watched = self.subscription.next() => self.hear(watched, &mut chunk).await,
                () = &mut self.alarm => self.wake(&mut chunk)?,
            }
        }
        let gathered = Instant::now() + GATHER;
        while !self.behind && !self.position.ended() && chunk.len() < CHUNK_BYTES {
            let watched = match self.subscription.next().now_or_never() {
                Some(watched) => watched,
                None if chunk.is_urgent() => break,
                None => match timeout_at(gathered, self.subscription.next()).await {
                    Ok(watched) => watched,
                    Err(_) => break,
                },
            };
            self.hear(watched, &mut chunk).await;
        }
        if chunk.is_empty() {
            return None;
        }
        self.last_sent = Instant::now();
        Some(chunk.finish())
    }

    /// The terminal event was among what was given: nothing comes after it.
    pub fn ended(&self) -> bool {
        self.position.ended()
    }

    async fn hear(&mut self, watched: Watched, chunk: &mut Chunk) {
        self.last_heard = Instant::now();
        self.looked_in_this_silence = false;
        let heard = match &watched {
            Watched::Frame(frame) => self.position.hear(frame, chunk),
            Watched::Missed => Heard::EventsMissing,
        };
        match heard {
            Heard::Well => {}
            Heard::EventsMissing => {
                metrics::http().sse_refills.inc();
                self.behind = true;
                self.resend = true;
            }
            Heard::DeltasMissing => self.ask_for_deltas().await,
        }
    }

    /// One page of what the store has and the client does not.
    async fn read_store(&mut self, chunk: &mut Chunk) -> Option<()> {
        self.last_look = Instant::now();
        let page = match self
            .sources
            .reader
            .events(self.run_id, self.position.version(), PAGE)
            .await
        {
            Ok(page) => page,
            Err(store::Error::Unavailable(reason)) => {
                let since = *self.store_away_since.get_or_insert(self.last_look);
                tracing::debug!(run.id = %self.run_id, reason, "a stream waits for the database");
                self.not_before = self.last_look + STORE_PAUSE;
                self.alarm.as_mut().reset(self.not_before);
                return (self.last_look - since < STORE_PATIENCE).then_some(());
            }
            Err(error) => {
                tracing::error!(run.id = %self.run_id, error = %error, "a stream was ended: the log does not read");
                return None;
            }
        };
        self.store_away_since = None;
        chunk.hurry();
        for event in &page {
            if self.position.read(event, chunk) != Heard::Well {
                tracing::error!(run.id = %self.run_id, version = event.version, "a stream was ended: the log has a hole");
                return None;
            }
        }
        if page.len() < PAGE as usize {
            self.behind = false;
            if std::mem::take(&mut self.resend) && self.position.may_miss_deltas() {
                self.ask_for_deltas().await;
            }
        }
        Some(())
    }

    async fn ask_for_deltas(&mut self) {
        let (version, now) = (self.position.version(), Instant::now());
        if self
            .asked
            .is_some_and(|(asked, at)| asked == version && now - at < RESEND_PAUSE)
        {
            return;
        }
        self.asked = Some((version, now));
        let signal = self.sources.feed.signal(self.run_id, Signal::Resend);
        let _ = tokio::time::timeout(SIGNAL_MAX, signal).await;
    }

    /// It is time for a comment, a look at the store, or the end.
    fn wake(&mut self, chunk: &mut Chunk) -> Option<()> {
        let now = Instant::now();
        let end = self.sources.age_max.map(|age| self.opened + age);
        if end.is_some_and(|end| now >= end) {
            return None;
        }
        if now >= self.last_sent + KEEP_ALIVE_EVERY {
            chunk.keep_alive();
            self.last_sent = now;
        }
        if now >= self.next_look() {
            self.behind = true;
            self.last_look = now;
            self.looked_in_this_silence = true;
        }
        let next = self.next_look().min(self.last_sent + KEEP_ALIVE_EVERY);
        self.alarm.as_mut().reset(end.map_or(next, |end| next.min(end)));
        Some(())
    }

    fn next_look(&self) -> Instant {
        // The first look of a silence comes early: a lost end is the likeliest cause.
        if self.looked_in_this_silence {
            self.last_look + LOOK_EVERY
        } else {
            self.last_heard + LOOK_AFTER
        }
    }
}
