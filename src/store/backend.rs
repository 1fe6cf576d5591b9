//! The port every store adapter implements. Rooms hold an [`Appender`](super::Appender) or a
//! [`Reader`](super::Reader), never this.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use uuid::Uuid;

use super::{
    ApiKey, Demand, Due, Error, Hash, Head, Idempotency, LogEntry, Outcome, Position, Prepared, Session, Snapshot,
    StoredEvent,
};
use crate::run::{RunId, SessionId, TenantId, Time};

#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// How many batches may be written at the same time.
    fn lanes(&self) -> usize;

    /// Whether [`Backend::write`] blocks its thread, which then has to be its own.
    fn blocks(&self) -> bool;

    /// Writes a batch in one commit; no two appends of it are for the same run, the same existing session or the same
    /// key. One verdict for each append, in order; a conflict of one touches no other.
    /// An error means the outcome of all is unknown.
    async fn write(&self, batch: &[Arc<Prepared>]) -> Result<Vec<Outcome>, Error>;

    /// Is this append in the log? Asked after an error left it open, so a commit whose answer was lost counts once.
    async fn was_appended(&self, append: &Prepared) -> Result<Option<Outcome>, Error>;

    async fn head(&self, run_id: RunId) -> Result<Option<Head>, Error>;

    /// The head and the first events of a run, in one statement: what a worker asks before it claims.
    async fn head_and_events(&self, run_id: RunId, limit: u32) -> Result<Option<(Head, Vec<StoredEvent>)>, Error>;

    /// A run's events with a version above `after`, oldest first.
    async fn events(&self, run_id: RunId, after: u64, limit: u32) -> Result<Vec<StoredEvent>, Error>;

    /// The whole log after a position, in commit order, up to the oldest transaction still open.
    async fn log(&self, after: Position, limit: u32) -> Result<Vec<LogEntry>, Error>;

    /// The position of the last event [`Backend::log`] would give now.
    async fn log_end(&self) -> Result<Position, Error>;

    /// The ended runs of a session before a run, newest first.
    async fn turns(&self, session_id: SessionId, before: u64, limit: u32) -> Result<Vec<RunId>, Error>;

    /// Is a run of the session with a lower number still open?
    async fn open_before(&self, session_id: SessionId, before: u64) -> Result<bool, Error>;

    /// What was asked and what was answered in these runs: their `run.requested` and `run.completed` events.
    async fn exchanges(&self, runs: &[RunId]) -> Result<Vec<StoredEvent>, Error>;

    /// Extends the leases of these runs, where the epoch still holds. Answers the runs that were renewed.
    async fn renew(&self, owner: &str, runs: &[(RunId, u64)], ttl: Duration) -> Result<Vec<RunId>, Error>;

    /// Takes up to `limit` overdue runs that nothing holds back and puts each off by a growing pause; those whose worker
    /// has died by [`held_pause`].
    async fn take_due(&self, limit: u32, first_pause: Duration) -> Result<Vec<Due>, Error>;

    /// Makes due at once every queued run and every overdue one that was dispatched in vain, and ends the leases of
    /// `dead_owner`: after the queue was wiped, or when the only process there is has started again. The former count as
    /// dispatched once at least: nobody knows what became of their commands.
    async fn make_due(&self, dead_owner: Option<&str>) -> Result<u64, Error>;

    /// Puts runs nobody has claimed into their tenants' lines: they are not due until they are taken from there.
    /// Answers how many were.
    async fn hold(&self, runs: &[RunId]) -> Result<u64, Error>;

    /// Takes the first runs of a tenant's line. One that is not claimed is due after `claim_within`, or when it would have
    /// been without the line.
    async fn take_held(&self, tenant: &TenantId, limit: u32, claim_within: Duration) -> Result<Vec<Due>, Error>;

    /// Tenants with a line, in the order of their names, after this one.
    async fn held_tenants(&self, after: Option<&TenantId>, limit: u32) -> Result<Vec<TenantId>, Error>;

    /// Every tenant with runs at the workers or waiting for them. [`Demand::older`] counts runs older than `than`.
    async fn demand(&self, than: RunId) -> Result<Vec<Demand>, Error>;

    async fn put_snapshot(&self, run_id: RunId, snapshot: &Snapshot, state_version: u32) -> Result<(), Error>;
    async fn snapshot(&self, run_id: RunId, state_version: u32) -> Result<Option<Snapshot>, Error>;

    async fn put_blob(&self, sha256: &Hash, bytes: &[u8]) -> Result<(), Error>;
    async fn blob(&self, sha256: &Hash) -> Result<Option<Vec<u8>>, Error>;

    async fn create_session(&self, session: &Session, key: Option<&Idempotency>) -> Result<Outcome, Error>;
    async fn session(&self, tenant: &TenantId, id: SessionId) -> Result<Option<Session>, Error>;
    async fn idempotency(&self, tenant: &TenantId, key: &str) -> Result<Option<Idempotency>, Error>;

    async fn put_api_key(&self, key: &ApiKey, hash: &Hash) -> Result<(), Error>;
    async fn api_key(&self, hash: &Hash) -> Result<Option<ApiKey>, Error>;
    async fn api_keys(&self) -> Result<Vec<ApiKey>, Error>;
    async fn revoke_api_key(&self, id: Uuid, now: Time) -> Result<bool, Error>;
}

/// The first pause of a run whose lease has ended. Its command waits behind no backlog that would make a second one
/// idle, and the worker it went to may be dying too.
pub fn held_pause(first_pause: Duration) -> Duration {
    first_pause / 5
}
