//! The adapter for both databases: reads and bookkeeping share one SQL text; only the append, and the read that a run
//! begins with, differ.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use uuid::Uuid;

use super::{
    ApiKey, Appended, Backend, Demand, Due, Error, Hash, Head, Idempotency, LogEntry, Outcome, Position, Prepared,
    Session, Snapshot, StoredAnswer, StoredEvent,
    encode::referred,
    file::File,
    loads::Loads,
    postgres,
    rows::{EVENT_COLUMNS, event_of, head_of},
    schedule::Schedule,
    sql::{Db, Row},
};
use crate::run::{RunId, SessionId, TenantId, Time};

pub struct Adapter {
    db: Db,
    writer: Writer,
    /// For the read that every run begins with.
    loads: Loads,
}

enum Writer {
    Postgres(postgres::Writer),
    Sqlite(Arc<File>),
}

impl Adapter {
    pub fn new(db: Db) -> Self {
        let writer = match &db {
            Db::Postgres(pool) => Writer::Postgres(postgres::Writer::new(pool.clone())),
            Db::Sqlite(file) => Writer::Sqlite(file.clone()),
        };
        let loads = Loads::start(&db);
        Self { db, writer, loads }
    }

    /// Puts payloads back that are kept by content.
    async fn whole(&self, mut events: Vec<StoredEvent>) -> Result<Vec<StoredEvent>, Error> {
        for event in &mut events {
            let Some(hash) = referred(&event.payload) else { continue };
            let missing = |reason: &str| Error::Corrupt {
                run_id: event.run_id,
                version: event.version,
                reason: format!("its payload is kept as a blob, and the blob {reason}"),
            };
            let bytes = self.blob(&hash).await?.ok_or_else(|| missing("is missing"))?;
            event.payload = String::from_utf8(bytes).map_err(|_| missing("is not UTF-8"))?;
        }
        Ok(events)
    }
}

/// `$1, $2 …`, so many.
pub fn places(count: usize) -> String {
    let places: Vec<String> = (1..=count).map(|at| format!("${at}")).collect();
    places.join(", ")
}

/// On Postgres: the log up to the oldest transaction still open, which is where the index stops being read. A lower number
/// may commit later, a tuple may not. Of older generations, restored from another cluster, nothing is open.
const READABLE: &str = "(generation, txid) < ((select max(generation) from log_generations),
                                              pg_snapshot_xmin(pg_current_snapshot()))";

#[async_trait]
impl Backend for Adapter {
    fn lanes(&self) -> usize {
        match self.writer {
            Writer::Postgres(_) => postgres::LANES,
            Writer::Sqlite(_) => 1,
        }
    }

    fn blocks(&self) -> bool {
        matches!(self.writer, Writer::Sqlite(_))
    }

    async fn write(&self, batch: &[Arc<Prepared>]) -> Result<Vec<Outcome>, Error> {
        let winners = match &self.writer {
            Writer::Postgres(writer) => writer.write(batch).await?,
            Writer::Sqlite(file) => file.append(batch, super::clock::now()).await?,
        };
        let mut verdicts = Vec::with_capacity(batch.len());
        for prepared in batch {
            verdicts.push(match winners.get(&prepared.append.run_id) {
                Some((epoch, next_in_session)) => Outcome::Appended(Appended {
                    epoch: *epoch,
                    events: prepared.events.clone(),
                    next_in_session: *next_in_session,
                }),
                None => self.why_not(prepared).await?,
            });
        }
        Ok(verdicts)
    }

    async fn was_appended(&self, prepared: &Prepared) -> Result<Option<Outcome>, Error> {
        let Some(last) = prepared.events.last() else {
            return Ok(None);
        };
        let sql = "select hash from events where run_id = $1 and version = $2";
        let rows = self.db.fetch(sql, &[last.run_id.0.into(), last.version.into()]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        if row.hash("hash")? != last.hash {
            return Ok(None);
        }
        let claimed = matches!(prepared.append.lease, super::Lease::Claim { .. });
        let epoch = prepared.append.expected_epoch + u64::from(claimed);
        Ok(Some(Outcome::Appended(Appended {
            epoch,
            events: prepared.events.clone(),
            next_in_session: None,
        })))
    }

    async fn head(&self, run_id: RunId) -> Result<Option<Head>, Error> {
        let rows = self
            .db
            .fetch("select * from runs where run_id = $1", &[run_id.0.into()])
            .await?;
        rows.first().map(head_of).transpose()
    }

    async fn head_and_events(&self, run_id: RunId, limit: u32) -> Result<Option<(Head, Vec<StoredEvent>)>, Error> {
        match self.loads.load(run_id, limit).await? {
            Some((head, events)) => Ok(Some((head, self.whole(events).await?))),
            None => Ok(None),
        }
    }

    async fn events(&self, run_id: RunId, after: u64, limit: u32) -> Result<Vec<StoredEvent>, Error> {
        let sql =
            format!("select {EVENT_COLUMNS} from events where run_id = $1 and version > $2 order by version limit $3");
        let rows = self
            .db
            .fetch(&sql, &[run_id.0.into(), after.into(), limit.into()])
            .await?;
        self.whole(rows.iter().map(event_of).collect::<Result<_, _>>()?).await
    }

    async fn log(&self, after: Position, limit: u32) -> Result<Vec<LogEntry>, Error> {
        let sql = if self.db.is_postgres() {
            // Ordered by the columns, not by the casts of the same names: only those have the index.
            format!(
                "select {EVENT_COLUMNS}, generation::bigint as generation, txid::text::bigint as txid, position
                 from events
                 where (generation, txid, position) > ($1::integer, $2::text::xid8, $3)
                   and {READABLE}
                 order by events.generation, events.txid, events.position limit $4"
            )
        } else {
            format!(
                "select {EVENT_COLUMNS}, generation, txid, position from events
                 where $1 >= 0 and $2 >= 0 and position > $3 order by position limit $4"
            )
        };
        let txid = if self.db.is_postgres() {
            after.txid.to_string().into()
        } else {
            after.txid.into()
        };
        let rows = self
            .db
            .fetch(&sql, &[after.generation.into(), txid, after.seq.into(), limit.into()])
            .await?;
        let mut positions = Vec::with_capacity(rows.len());
        let mut events = Vec::with_capacity(rows.len());
        for row in &rows {
            positions.push(Position {
                generation: row.get("generation")?,
                txid: row.get("txid")?,
                seq: row.get("position")?,
            });
            events.push(event_of(row)?);
        }
        let events = self.whole(events).await?;
        Ok(positions
            .into_iter()
            .zip(events)
            .map(|(position, event)| LogEntry { position, event })
            .collect())
    }

    async fn log_end(&self) -> Result<Position, Error> {
        let sql = if self.db.is_postgres() {
            format!(
                "select generation::bigint as generation, txid::text::bigint as txid, position from events
                 where {READABLE}
                 order by events.generation desc, events.txid desc, events.position desc limit 1"
            )
        } else {
            "select generation, txid, position from events order by position desc limit 1".into()
        };
        let rows = self.db.fetch(&sql, &[]).await?;
        let Some(row) = rows.first() else {
            return Ok(Position::default());
        };
        Ok(Position {
            generation: row.get("generation")?,
            txid: row.get("txid")?,
            seq: row.get("position")?,
        })
    }

    async fn turns(&self, session_id: SessionId, before: u64, limit: u32) -> Result<Vec<RunId>, Error> {
        let sql = "select run_id from runs
                   where session_id = $1 and session_seq < $2 and status = 'completed'
                   order by session_seq desc limit $3";
        let rows = self
            .db
            .fetch(sql, &[session_id.0.into(), before.into(), limit.into()])
            .await?;
        rows.iter().map(|row| Ok(RunId(row.get("run_id")?))).collect()
    }

    async fn open_before(&self, session_id: SessionId, before: u64) -> Result<bool, Error> {
        let sql = "select 1 as one from runs where session_id = $1 and session_seq < $2
                   and status in ('queued', 'running', 'waiting') limit 1";
        Ok(!self
            .db
            .fetch(sql, &[session_id.0.into(), before.into()])
            .await?
            .is_empty())
    }

    async fn exchanges(&self, runs: &[RunId]) -> Result<Vec<StoredEvent>, Error> {
        if runs.is_empty() {
            return Ok(Vec::new());
        }
        let sql = format!(
            "select {EVENT_COLUMNS} from events where run_id in ({}) and type in ('run.requested', 'run.completed')
             order by run_id, version",
            places(runs.len())
        );
        let ids: Vec<_> = runs.iter().map(|run| run.0.into()).collect();
        let rows = self.db.fetch(&sql, &ids).await?;
        self.whole(rows.iter().map(event_of).collect::<Result<_, _>>()?).await
    }

    async fn renew(&self, owner: &str, runs: &[(RunId, u64)], ttl: Duration) -> Result<Vec<RunId>, Error> {
        Schedule(&self.db).renew(owner, runs, ttl).await
    }

    async fn take_due(&self, limit: u32, first_pause: Duration) -> Result<Vec<Due>, Error> {
        Schedule(&self.db).take_due(limit, first_pause).await
    }

    async fn make_due(&self, dead_owner: Option<&str>) -> Result<u64, Error> {
        Schedule(&self.db).make_due(dead_owner).await
    }

    async fn hold(&self, runs: &[RunId]) -> Result<u64, Error> {
        Schedule(&self.db).hold(runs).await
    }

    async fn take_held(&self, tenant: &TenantId, limit: u32, claim_within: Duration) -> Result<Vec<Due>, Error> {
        Schedule(&self.db).take_held(tenant, limit, claim_within).await
    }

    async fn held_tenants(&self, after: Option<&TenantId>, limit: u32) -> Result<Vec<TenantId>, Error> {
        Schedule(&self.db).held_tenants(after, limit).await
    }

    async fn demand(&self, than: RunId) -> Result<Vec<Demand>, Error> {
        Schedule(&self.db).demand(than).await
    }

    async fn put_snapshot(&self, run_id: RunId, snapshot: &Snapshot, state_version: u32) -> Result<(), Error> {
        let sql = "insert into snapshots (run_id, version, hash, state_version, state) values ($1, $2, $3, $4, $5)
                   on conflict (run_id) do update set version = excluded.version, hash = excluded.hash,
                       state_version = excluded.state_version, state = excluded.state
                   where excluded.state_version > snapshots.state_version
                      or (excluded.state_version = snapshots.state_version and excluded.version > snapshots.version)";
        let args = [
            run_id.0.into(),
            snapshot.version.into(),
            snapshot.hash.to_vec().into(),
            state_version.into(),
            snapshot.state.clone().into(),
        ];
        self.db.execute(sql, &args).await.map(drop)
    }

    async fn snapshot(&self, run_id: RunId, state_version: u32) -> Result<Option<Snapshot>, Error> {
        let sql = "select version, hash, state from snapshots where run_id = $1 and state_version = $2";
        let rows = self.db.fetch(sql, &[run_id.0.into(), state_version.into()]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        Ok(Some(Snapshot {
            version: row.count("version")?,
            hash: row.hash("hash")?,
            state: row.get("state")?,
        }))
    }

    async fn put_blob(&self, sha256: &Hash, bytes: &[u8]) -> Result<(), Error> {
        let sql = "insert into blobs (sha256, bytes) values ($1, $2) on conflict do nothing";
        self.db
            .execute(sql, &[sha256.to_vec().into(), bytes.to_vec().into()])
            .await
            .map(drop)
    }

    async fn blob(&self, sha256: &Hash) -> Result<Option<Vec<u8>>, Error> {
        let rows = self
            .db
            .fetch("select bytes from blobs where sha256 = $1", &[sha256.to_vec().into()])
            .await?;
        rows.first().map(|row| row.get("bytes")).transpose()
    }

    async fn create_session(&self, session: &Session, key: Option<&Idempotency>) -> Result<Outcome, Error> {
        let mut tx = self.db.begin().await?;
        if let Some(key) = key {
            let sql = "insert into idempotency_keys (tenant_id, key, fingerprint, status, body, created_at)
                       values ($1, $2, $3, $4, $5, $6) on conflict do nothing";
            let args = [
                session.tenant.as_str().into(),
                key.key.as_str().into(),
                key.fingerprint.to_vec().into(),
                i64::from(key.answer.status).into(),
                key.answer.body.as_str().into(),
                session.created_at.into(),
            ];
            if tx.execute(sql, &args).await? == 0 {
                tx.rollback().await?;
                let used = self.idempotency(&session.tenant, &key.key).await?;
                return Ok(used.map_or(Outcome::Conflict, |used| Outcome::KeyUsed {
                    fingerprint: used.fingerprint,
                    answer: used.answer,
                }));
            }
        }
        let sql =
            "insert into sessions (session_id, tenant_id, last_seq, metadata, created_at) values ($1, $2, 0, $3, $4)";
        let args = [
            session.session_id.0.into(),
            session.tenant.as_str().into(),
            session.metadata.as_str().into(),
            session.created_at.into(),
        ];
        tx.execute(sql, &args).await?;
        tx.commit().await?;
        Ok(Outcome::Appended(Appended {
            epoch: 0,
            events: Vec::new(),
            next_in_session: None,
        }))
    }

    async fn session(&self, tenant: &TenantId, id: SessionId) -> Result<Option<Session>, Error> {
        let sql = "select last_seq, metadata, created_at from sessions where session_id = $1 and tenant_id = $2";
        let rows = self.db.fetch(sql, &[id.0.into(), tenant.as_str().into()]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        Ok(Some(Session {
            session_id: id,
            tenant: tenant.clone(),
            runs: row.count("last_seq")?,
            metadata: row.get("metadata")?,
            created_at: row.get("created_at")?,
        }))
    }

    async fn idempotency(&self, tenant: &TenantId, key: &str) -> Result<Option<Idempotency>, Error> {
        let sql = "select fingerprint, status, body from idempotency_keys where tenant_id = $1 and key = $2";
        let rows = self.db.fetch(sql, &[tenant.as_str().into(), key.into()]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let status: i64 = row.get("status")?;
        let answer = StoredAnswer {
            status: u16::try_from(status).unwrap_or(500),
            body: row.get("body")?,
        };
        Ok(Some(Idempotency {
            key: key.into(),
            fingerprint: row.hash("fingerprint")?,
            answer,
        }))
    }

    async fn put_api_key(&self, key: &ApiKey, hash: &Hash) -> Result<(), Error> {
        let sql = "insert into api_keys (id, tenant_id, name, hash, scopes, created_at, expires_at)
                   values ($1, $2, $3, $4, $5, $6, $7)";
        let args = [
            key.id.into(),
            key.tenant.as_str().into(),
            key.name.as_str().into(),
            hash.to_vec().into(),
            key.scopes.as_str().into(),
            key.created_at.into(),
            key.expires_at.into(),
        ];
        self.db.execute(sql, &args).await.map(drop)
    }

    async fn api_key(&self, hash: &Hash) -> Result<Option<ApiKey>, Error> {
        let rows = self
            .db
            .fetch("select * from api_keys where hash = $1", &[hash.to_vec().into()])
            .await?;
        rows.first().map(key_of).transpose()
    }

    async fn api_keys(&self) -> Result<Vec<ApiKey>, Error> {
        let rows = self.db.fetch("select * from api_keys order by created_at", &[]).await?;
        rows.iter().map(key_of).collect()
    }

    async fn revoke_api_key(&self, id: Uuid, now: Time) -> Result<bool, Error> {
        let sql = "update api_keys set revoked_at = $2 where id = $1 and revoked_at is null";
        Ok(self.db.execute(sql, &[id.into(), now.into()]).await? > 0)
    }
}

impl Adapter {
    /// Why an append is not among the winners.
    async fn why_not(&self, prepared: &Prepared) -> Result<Outcome, Error> {
        let append = &prepared.append;
        if let Some(key) = &append.idempotency
            && let Some(used) = self.idempotency(&append.tenant, &key.key).await?
        {
            return Ok(Outcome::KeyUsed {
                fingerprint: used.fingerprint,
                answer: used.answer,
            });
        }
        if let Some(accept) = append.accept.as_ref().filter(|accept| !accept.new_session)
            && self.session(&append.tenant, accept.session_id).await?.is_none()
        {
            return Ok(Outcome::NoSuchSession);
        }
        crate::metrics::store().append_conflicts.inc();
        Ok(Outcome::Conflict)
    }
}

fn key_of(row: &Row) -> Result<ApiKey, Error> {
    Ok(ApiKey {
        id: row.get("id")?,
        tenant: row.tenant("tenant_id")?,
        name: row.get("name")?,
        scopes: row.get("scopes")?,
        created_at: row.get("created_at")?,
        expires_at: row.get("expires_at")?,
        revoked_at: row.get("revoked_at")?,
    })
}
