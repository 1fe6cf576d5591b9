//! The handle that may read, and keep the small tables beside the log; it cannot add an event.

use std::{sync::Arc, time::Duration};

use super::{Backend, Due, Error};
use crate::run::RunId;

/// Reads of the log. Dereferences to the whole port except [`Backend::write`], which only the
/// [`Appender`](super::Appender) calls.
#[derive(Clone)]
pub struct Reader(Arc<dyn Backend>);

impl Reader {
    pub(super) fn new(backend: Arc<dyn Backend>) -> Self {
        Self(backend)
    }

    pub(super) fn backend(&self) -> &dyn Backend {
        &*self.0
    }
}

macro_rules! forward {
    ($($(#[doc = $doc:literal])* $name:ident($($arg:ident: $ty:ty),*) -> $out:ty;)*) => {
        impl Reader {
            $($(#[doc = $doc])* pub async fn $name(&self, $($arg: $ty),*) -> Result<$out, Error> { self.0.$name($($arg),*).await })*
        }
    };
}

use super::{ApiKey, Demand, Hash, Head, Idempotency, LogEntry, Outcome, Position, Session, StoredEvent};
use crate::run::{SessionId, TenantId, Time};

forward! {
    head(run_id: RunId) -> Option<Head>;
    /// A run's events with a version above `after`, oldest first.
    events(run_id: RunId, after: u64, limit: u32) -> Vec<StoredEvent>;
    /// The whole log after a position, in commit order, up to the oldest transaction still open.
    log(after: Position, limit: u32) -> Vec<LogEntry>;
    log_end() -> Position;
    /// The ended runs of a session before a run, newest first.
    turns(session_id: SessionId, before: u64, limit: u32) -> Vec<RunId>;
    /// Is a run of the session with a lower number still open?
    open_before(session_id: SessionId, before: u64) -> bool;
    /// What was asked and what was answered in these runs: their `run.requested` and `run.completed` events.
    exchanges(runs: &[RunId]) -> Vec<StoredEvent>;
    renew(owner: &str, runs: &[(RunId, u64)], ttl: Duration) -> Vec<RunId>;
    take_due(limit: u32, first_pause: Duration) -> Vec<Due>;
    make_due(dead_owner: Option<&str>) -> u64;
    /// Puts runs nobody has claimed into their tenants' lines; answers how many were.
    hold(runs: &[RunId]) -> u64;
    /// Takes the first runs of a tenant's line.
    take_held(tenant: &TenantId, limit: u32, claim_within: Duration) -> Vec<Due>;
    held_tenants(after: Option<&TenantId>, limit: u32) -> Vec<TenantId>;
    demand(than: RunId) -> Vec<Demand>;
    put_blob(sha256: &Hash, bytes: &[u8]) -> ();
    blob(sha256: &Hash) -> Option<Vec<u8>>;
    /// `Appended` (with no events) or `KeyUsed`.
    create_session(session: &Session, key: Option<&Idempotency>) -> Outcome;
    session(tenant: &TenantId, id: SessionId) -> Option<Session>;
    idempotency(tenant: &TenantId, key: &str) -> Option<Idempotency>;
    put_api_key(key: &ApiKey, hash: &Hash) -> ();
    api_key(hash: &Hash) -> Option<ApiKey>;
    api_keys() -> Vec<ApiKey>;
    revoke_api_key(id: uuid::Uuid, now: Time) -> bool;
}
