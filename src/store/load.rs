//! A run, folded from its events; long ones from their last snapshot on.

use super::{Appended, Error, GENESIS, Hash, Head, Reader, Snapshot, StoredEvent};
use crate::{
    crash::{self, Point},
    run::{Event, Run, RunId, state::STATE_VERSION},
};

/// A snapshot is kept each time a run has grown by this many events: it bounds the cost of loading.
pub const SNAPSHOT_EVERY: u64 = 256;
/// Whose snapshots are read: builds that fold alike. One that knows more events may have folded some this one does not
/// know, and would be believed.
const SNAPSHOT_VERSION: u32 = STATE_VERSION * 10_000 + Event::VOCABULARY;
const PAGE: u32 = 1000;
/// Read together with the head: all there is of most runs.
const FIRST_PAGE: u32 = 64;

/// A run and what a writer must know to add to it.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub head: Head,
    pub run: Run,
    /// The hash of the last event folded.
    pub hash: Hash,
}

impl Loaded {
    /// Moves on over an append of our own.
    pub fn advance(&mut self, events: &[Event], appended: &Appended) {
        for event in events {
            self.run = std::mem::take(&mut self.run).evolve(event);
        }
        // Letting go of a lease needs no fact, and moves nothing.
        if !appended.events.is_empty() {
            (self.head.version, self.hash) = appended.head();
        }
        self.head.epoch = appended.epoch;
        self.head.hash = self.hash;
        self.head.status = self.run.status();
    }
}

impl Reader {
    /// The run as the log tells it now.
    pub async fn load(&self, run_id: RunId) -> Result<Option<Loaded>, Error> {
        let Some((head, events)) = self.backend().head_and_events(run_id, FIRST_PAGE).await? else {
            return Ok(None);
        };
        let (run, hash) = (Run::default(), GENESIS);
        let mut loaded = Loaded { head, run, hash };
        if loaded.head.version >= SNAPSHOT_EVERY
            && let Some(snapshot) = self.backend().snapshot(run_id, SNAPSHOT_VERSION).await?
            // A snapshot that does not read is as good as none: the log is the truth.
            && let Ok(state) = serde_json::from_str::<Run>(&snapshot.state)
            && state.version == snapshot.version
            // Nor is one of a log that was since restored to an earlier day.
            && snapshot.version <= loaded.head.version
        {
            (loaded.run, loaded.hash) = (state, snapshot.hash);
        } else {
            fold(&mut loaded, &events)?;
        }
        if loaded.run.version < loaded.head.version || events.len() == FIRST_PAGE as usize {
            self.catch_up(&mut loaded).await?;
        }
        loaded.head.hash = loaded.hash;
        Ok(Some(loaded))
    }

    /// Folds what was added since; refreshes the head.
    pub async fn refresh(&self, loaded: &mut Loaded) -> Result<(), Error> {
        if let Some(head) = self.head(loaded.head.run_id).await? {
            loaded.head = head;
        }
        self.catch_up(loaded).await
    }

    /// Keeps a snapshot if the run has grown enough since the last one. Losing it costs time, never truth.
    pub async fn keep_snapshot(&self, loaded: &Loaded, grown_from: u64) -> Result<(), Error> {
        if loaded.run.version / SNAPSHOT_EVERY == grown_from / SNAPSHOT_EVERY {
            return Ok(());
        }
        let Ok(state) = serde_json::to_string(&loaded.run) else {
            return Ok(());
        };
        let snapshot = Snapshot {
            version: loaded.run.version,
            hash: loaded.hash,
            state,
        };
        crash::at(Point::SnapshotBefore);
        self.backend()
            .put_snapshot(loaded.head.run_id, &snapshot, SNAPSHOT_VERSION)
            .await?;
        crash::at(Point::SnapshotAfter);
        Ok(())
    }

    async fn catch_up(&self, loaded: &mut Loaded) -> Result<(), Error> {
        loop {
            let page = self.events(loaded.head.run_id, loaded.run.version, PAGE).await?;
            fold(loaded, &page)?;
            if page.len() < PAGE as usize {
                // The events may be newer than the head that was read before them, never older.
                if loaded.run.version < loaded.head.version {
                    return Err(hole(loaded, loaded.head.version));
                }
                loaded.head.version = loaded.head.version.max(loaded.run.version);
                // Nor may an older head hide a claim that is among the events: its worker would go on as if it held the run.
                loaded.head.epoch = loaded.head.epoch.max(loaded.run.epoch);
                loaded.head.hash = loaded.hash;
                return Ok(());
            }
        }
    }
}

fn fold(loaded: &mut Loaded, events: &[StoredEvent]) -> Result<(), Error> {
    for stored in events {
        if stored.version != loaded.run.version + 1 {
            return Err(hole(loaded, stored.version));
        }
        // One that does not read leaves the run as it was.
        let event = stored.decode()?;
        loaded.run = std::mem::take(&mut loaded.run).evolve(&event);
        loaded.hash = stored.hash;
    }
    Ok(())
}

fn hole(loaded: &Loaded, found: u64) -> Error {
    Error::Corrupt {
        run_id: loaded.head.run_id,
        version: found,
        reason: format!("expected version {}; the log has a hole", loaded.run.version + 1),
    }
}
