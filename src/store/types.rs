//! What goes into the store and what comes out of it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::run::{Corrupt, Event, RunId, SessionId, Status, TenantId, Time, Usage};

pub type Hash = [u8; 32];

/// The hash before the first event of every run.
pub const GENESIS: Hash = [0; 32];

/// A fault: ours or the database's, never the client's.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Away, restarting, out of space, overloaded: the same call may succeed later.
    #[error("the database is not available: {0}")]
    Unavailable(String),
    /// The statement itself is wrong, or the schema is not the one this build was made for.
    #[error("the database refused a statement: {0}")]
    Refused(String),
    /// The log contradicts itself or this build.
    #[error("run {run_id}, version {version}: {reason}")]
    Corrupt {
        run_id: RunId,
        version: u64,
        reason: String,
    },
    /// A newer build recorded it: nothing is wrong, but only such a build can go on here.
    #[error(
        "run {run_id}, version {version}: event type {event:?} with schema {schema} is not known to this build; \
         a newer build recorded it and can go on"
    )]
    Newer {
        run_id: RunId,
        version: u64,
        event: String,
        schema: u16,
    },
}

impl Error {
    fn unreadable(event: &StoredEvent, reason: Corrupt) -> Self {
        let (run_id, version) = (event.run_id, event.version);
        match reason {
            Corrupt::UnknownEvent { name: event, schema } => Self::Newer {
                run_id,
                version,
                event,
                schema,
            },
            reason @ Corrupt::BadPayload { .. } => Self::Corrupt {
                run_id,
                version,
                reason: reason.to_string(),
            },
        }
    }
}

/// One event as it lies in the log.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredEvent {
    pub run_id: RunId,
    pub version: u64,
    pub tenant: TenantId,
    /// The event's name, such as `model.replied`.
    pub name: String,
    pub schema: u16,
    pub time: Time,
    /// The data, as its bytes were hashed. Payloads that went to `blobs` are already put back.
    pub payload: String,
    pub hash: Hash,
}

impl StoredEvent {
    pub fn decode(&self) -> Result<Event, Error> {
        #[cfg(debug_assertions)]
        if let Some(unknown) = older::forgotten(self) {
            return Err(unknown);
        }
        Event::from_stored(&self.name, self.schema, &self.payload).map_err(|reason| Error::unreadable(self, reason))
    }
}

/// In test builds a process can pretend to be an older one, from before some event types: the tests of rolling upgrades
/// start some of their processes so.
#[cfg(debug_assertions)]
mod older {
    use std::sync::LazyLock;

    use super::{Error, StoredEvent};

    /// The event types to forget, separated by commas.
    const FORGETS: &str = "STEADFAST_TEST_FORGETS";

    pub fn forgotten(event: &StoredEvent) -> Option<Error> {
        static NAMES: LazyLock<Vec<String>> = LazyLock::new(|| {
            let names = std::env::var(FORGETS).unwrap_or_default();
            names
                .split(',')
                .filter(|name| !name.is_empty())
                .map(str::to_owned)
                .collect()
        });
        NAMES.contains(&event.name).then(|| Error::Newer {
            run_id: event.run_id,
            version: event.version,
            event: event.name.clone(),
            schema: event.schema,
        })
    }
}

/// A place in the whole log. Only the tuple is ordered by commit: a bare sequence loses events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Position {
    /// Bumped when the log is restored into another cluster, whose transaction numbers start again.
    pub generation: i64,
    pub txid: i64,
    pub seq: i64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct LogEntry {
    pub position: Position,
    pub event: StoredEvent,
}

/// The head of a run's stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Head {
    pub run_id: RunId,
    pub tenant: TenantId,
    pub session_id: SessionId,
    pub session_seq: u64,
    pub agent: String,
    pub status: Status,
    pub version: u64,
    pub epoch: u64,
    pub hash: Hash,
    pub lease_owner: Option<String>,
    pub lease_until: Option<Time>,
    pub due_at: Option<Time>,
    pub usage: Usage,
    pub created_at: Time,
    pub updated_at: Time,
}

/// Facts to add to one run, and what they make of its head. All of it happens, or none.
#[derive(Debug, Clone)]
pub struct Append {
    pub run_id: RunId,
    pub tenant: TenantId,
    pub expected_version: u64,
    /// The claim this writer holds; a newer one makes the append lose.
    pub expected_epoch: u64,
    /// The head's hash at the expected version.
    pub prev_hash: Hash,
    pub time: Time,
    pub events: Vec<Event>,
    /// The run's status and usage after the events.
    pub status: Status,
    pub usage: Usage,
    pub lease: Lease,
    /// Set on the first append of a run.
    pub accept: Option<Accept>,
    pub idempotency: Option<Idempotency>,
    /// How long to keep trying while the database is away.
    pub patience: Duration,
}

/// What becomes of the lease, and of the time by which something must have happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Lease {
    /// Unchanged.
    Keep,
    /// Take the run: only if nobody holds it and no earlier run of its session is open. The epoch grows by one.
    Claim { owner: String, ttl: Duration },
    /// Let go. The redriver looks at the run again after `due_in`; `None` means only another append wakes it.
    Release { due_in: Option<Duration> },
}

#[derive(Debug, Clone, PartialEq)]
pub struct Accept {
    pub session_id: SessionId,
    /// The session begins with this run.
    pub new_session: bool,
    pub agent: String,
    /// How long a worker may take to claim the run before it is dispatched again.
    pub claim_within: Duration,
    /// It joins its tenant's line at once: nobody is told of it before a worker has a place for the tenant.
    pub held: bool,
}

/// The key a client gave its request, stored in the same commit as what the request caused.
#[derive(Debug, Clone, PartialEq)]
pub struct Idempotency {
    pub key: String,
    /// SHA-256 of the method, the path and the body.
    pub fingerprint: Hash,
    pub answer: StoredAnswer,
}

/// What was answered, to be answered again.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredAnswer {
    pub status: u16,
    pub body: String,
}

/// What became of an append.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    Appended(Appended),
    /// The head was not where it was expected, someone holds the lease, or the session is busy. Read and decide again.
    Conflict,
    /// The idempotency key has been used before.
    KeyUsed {
        fingerprint: Hash,
        answer: StoredAnswer,
    },
    /// The session does not exist for this tenant.
    NoSuchSession,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Appended {
    pub epoch: u64,
    pub events: Vec<StoredEvent>,
    /// When the run ended: the next run of its session, which may start now.
    pub next_in_session: Option<RunId>,
}

impl Appended {
    /// The head after the append.
    pub fn head(&self) -> (u64, Hash) {
        self.events
            .last()
            .map_or((0, GENESIS), |event| (event.version, event.hash))
    }
}

/// A run for a worker to look at: it was overdue and is marked as dispatched once more, or was first in its line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    pub run_id: RunId,
    pub tenant: TenantId,
    pub version: u64,
    pub dispatch: u64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Session {
    pub session_id: SessionId,
    pub tenant: TenantId,
    /// How many runs it has had.
    pub runs: u64,
    pub metadata: String,
    pub created_at: Time,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ApiKey {
    pub id: Uuid,
    pub tenant: TenantId,
    pub name: String,
    /// Space-separated.
    pub scopes: String,
    pub created_at: Time,
    pub expires_at: Option<Time>,
    pub revoked_at: Option<Time>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    pub version: u64,
    pub hash: Hash,
    pub state: String,
}

/// What one tenant asks of the workers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Demand {
    pub tenant: TenantId,
    /// Runs a worker has claimed and holds.
    pub running: u64,
    /// Runs in the tenant's line.
    pub held: u64,
    /// Runs that wait for the worker they were announced to.
    pub runnable: u64,
    /// Of both kinds, those that are older than the run that was asked about.
    pub older: u64,
    /// How long the first of them has waited. A run that was dispatched again and again in vain is no measure: it is
    /// not for want of a place that it waits.
    pub waited: Duration,
    /// How long the first of those that are not in the line has been without a worker, for whatever reason: dispatched in
    /// vain and left behind by a dead worker included.
    pub oldest: Duration,
}

impl Demand {
    pub fn waiting(&self) -> u64 {
        self.held + self.runnable
    }
}
