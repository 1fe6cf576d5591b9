//! The real store, with one write of a process that goes wrong.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use steadfast::{
    run::{RunId, SessionId, TenantId, Time},
    store::{
        ApiKey, Backend, Demand, Due, Error, Hash, Head, Idempotency, LogEntry, Outcome, Position, Prepared, Session,
        Snapshot, StoredEvent,
    },
};
use uuid::Uuid;

use super::process::Process;

/// What becomes of a write and of the process that makes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The process dies before the database hears of it.
    DiesBefore,
    /// It is committed, and the process dies before it hears so.
    DiesUnanswered,
    /// The process hears that it is committed, and dies before it tells anybody.
    DiesAnswered,
    /// It is not committed, and the process hears of an error.
    Fails,
    /// It is committed, and the process hears of an error.
    AnswerLost,
}

impl Fate {
    pub const ALL: [Self; 5] = [
        Self::DiesBefore,
        Self::DiesUnanswered,
        Self::DiesAnswered,
        Self::Fails,
        Self::AnswerLost,
    ];
    pub const DEATHS: [Self; 3] = [Self::DiesBefore, Self::DiesUnanswered, Self::DiesAnswered];
}

/// The write a process does not get through unharmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Writes of this process before it.
    pub at: usize,
    pub fate: Fate,
}

pub struct CutStore {
    pub inner: Arc<dyn Backend>,
    pub process: Arc<Process>,
    pub cut: Option<Cut>,
    /// Writes of this process so far.
    pub writes: Arc<AtomicUsize>,
}

fn lost() -> Error {
    Error::Unavailable("the connection broke".into())
}

#[async_trait]
impl Backend for CutStore {
    async fn write(&self, batch: &[Arc<Prepared>]) -> Result<Vec<Outcome>, Error> {
        let at = self.writes.fetch_add(1, Ordering::SeqCst);
        let Some(Cut { fate, .. }) = self.cut.filter(|cut| cut.at == at) else {
            return self.inner.write(batch).await;
        };
        match fate {
            Fate::DiesBefore => self.process.die().await,
            Fate::Fails => return Err(lost()),
            Fate::DiesUnanswered | Fate::DiesAnswered | Fate::AnswerLost => {}
        }
        let verdicts = self.inner.write(batch).await;
        match fate {
            Fate::DiesUnanswered => self.process.die().await,
            Fate::DiesAnswered => self.process.doom(),
            Fate::AnswerLost => return Err(lost()),
            Fate::DiesBefore | Fate::Fails => {}
        }
        verdicts
    }

    fn lanes(&self) -> usize {
        self.inner.lanes()
    }

    /// The file under it does block; but its lane must be within the process, or a kill would not stop it.
    fn blocks(&self) -> bool {
        false
    }

    async fn was_appended(&self, append: &Prepared) -> Result<Option<Outcome>, Error> {
        self.inner.was_appended(append).await
    }
    async fn head(&self, run_id: RunId) -> Result<Option<Head>, Error> {
        self.inner.head(run_id).await
    }
    async fn head_and_events(&self, run_id: RunId, limit: u32) -> Result<Option<(Head, Vec<StoredEvent>)>, Error> {
        self.inner.head_and_events(run_id, limit).await
    }
    async fn events(&self, run_id: RunId, after: u64, limit: u32) -> Result<Vec<StoredEvent>, Error> {
        self.inner.events(run_id, after, limit).await
    }
    async fn log(&self, after: Position, limit: u32) -> Result<Vec<LogEntry>, Error> {
        self.inner.log(after, limit).await
    }
    async fn log_end(&self) -> Result<Position, Error> {
        self.inner.log_end().await
    }
    async fn turns(&self, session_id: SessionId, before: u64, limit: u32) -> Result<Vec<RunId>, Error> {
        self.inner.turns(session_id, before, limit).await
    }
    async fn open_before(&self, session_id: SessionId, before: u64) -> Result<bool, Error> {
        self.inner.open_before(session_id, before).await
    }
    async fn exchanges(&self, runs: &[RunId]) -> Result<Vec<StoredEvent>, Error> {
        self.inner.exchanges(runs).await
    }
    async fn renew(&self, owner: &str, runs: &[(RunId, u64)], ttl: Duration) -> Result<Vec<RunId>, Error> {
        self.inner.renew(owner, runs, ttl).await
    }
    async fn take_due(&self, limit: u32, first_pause: Duration) -> Result<Vec<Due>, Error> {
        self.inner.take_due(limit, first_pause).await
    }
    async fn make_due(&self, dead_owner: Option<&str>) -> Result<u64, Error> {
        self.inner.make_due(dead_owner).await
    }
    async fn hold(&self, runs: &[RunId]) -> Result<u64, Error> {
        self.inner.hold(runs).await
    }
    async fn take_held(&self, tenant: &TenantId, limit: u32, claim_within: Duration) -> Result<Vec<Due>, Error> {
        self.inner.take_held(tenant, limit, claim_within).await
    }
    async fn held_tenants(&self, after: Option<&TenantId>, limit: u32) -> Result<Vec<TenantId>, Error> {
        self.inner.held_tenants(after, limit).await
    }
    async fn demand(&self, than: RunId) -> Result<Vec<Demand>, Error> {
        self.inner.demand(than).await
    }
    async fn put_snapshot(&self, run_id: RunId, snapshot: &Snapshot, state_version: u32) -> Result<(), Error> {
        self.inner.put_snapshot(run_id, snapshot, state_version).await
    }
    async fn snapshot(&self, run_id: RunId, state_version: u32) -> Result<Option<Snapshot>, Error> {
        self.inner.snapshot(run_id, state_version).await
    }
    async fn put_blob(&self, sha256: &Hash, bytes: &[u8]) -> Result<(), Error> {
        self.inner.put_blob(sha256, bytes).await
    }
    async fn blob(&self, sha256: &Hash) -> Result<Option<Vec<u8>>, Error> {
        self.inner.blob(sha256).await
    }
    async fn create_session(&self, session: &Session, key: Option<&Idempotency>) -> Result<Outcome, Error> {
        self.inner.create_session(session, key).await
    }
    async fn session(&self, tenant: &TenantId, id: SessionId) -> Result<Option<Session>, Error> {
        self.inner.session(tenant, id).await
    }
    async fn idempotency(&self, tenant: &TenantId, key: &str) -> Result<Option<Idempotency>, Error> {
        self.inner.idempotency(tenant, key).await
    }
    async fn put_api_key(&self, key: &ApiKey, hash: &Hash) -> Result<(), Error> {
        self.inner.put_api_key(key, hash).await
    }
    async fn api_key(&self, hash: &Hash) -> Result<Option<ApiKey>, Error> {
        self.inner.api_key(hash).await
    }
    async fn api_keys(&self) -> Result<Vec<ApiKey>, Error> {
        self.inner.api_keys().await
    }
    async fn revoke_api_key(&self, id: Uuid, now: Time) -> Result<bool, Error> {
        self.inner.revoke_api_key(id, now).await
    }
}
