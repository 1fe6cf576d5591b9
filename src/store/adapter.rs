//! The adapter for both databases: reads and bookkeeping share one SQL text; only the append, and the read that a run
//! begins with, differ.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use uuid::Uuid;

use super::{
    ApiKey, Appended, Backend, Demand, Due, Error, Hash, Head, Idempotency, LogEntry, Outcome, Position, Prepared,
    Session, Snapshot, StoredAnswer, StoredEvent,
    backend::held_pause,
    encode::referred,
    file::File,
    loads::Loads,
    postgres,
    rows::{EVENT_COLUMNS, due_of, event_of, head_of},
    sql::{Db, Row},
};
use crate::run::{RunId, SessionId, TenantId, Time};

/// A run that keeps being dispatched in vain is looked at less and less often, down to once in this time.
const REDRIVE_PAUSE_MAX: Duration = Duration::from_secs(300);
/// A run dispatched so often and still not claimed waits for something else than a worker's place.
const DISPATCHES_MEASURED: u32 = 3;

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

    /// The database's clock, which leases are measured by, so processes may disagree about the time.
    fn now(&self) -> &'static str {
        if self.db.is_postgres() {
            "now()"
        } else {
            "strftime('%Y-%m-%dT%H:%M:%f000+00:00', 'now')"
        }
    }

    /// The database's clock, so many milliseconds from now.
    fn now_plus(&self, ms: &str) -> String {
        if self.db.is_postgres() {
            format!("now() + ({ms}) * interval '1 millisecond'")
        } else {
            format!("strftime('%Y-%m-%dT%H:%M:%f000+00:00', 'now', (({ms}) / 1000.0) || ' seconds')")
        }
    }

    /// Ends a subquery that names the heads an update will lock: in the appends' order, so that neither waits for the
    /// other in a circle.
    fn in_lock_order(&self) -> &'static str {
        if self.db.is_postgres() {
            "order by run_id for update"
        } else {
            ""
        }
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
fn places(count: usize) -> String {
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
        if runs.is_empty() {
            return Ok(Vec::new());
        }
        let ms = ttl.as_millis();
        let mut args = vec![owner.into()];
        let mut which = Vec::with_capacity(runs.len());
        for (run_id, epoch) in runs {
            which.push(format!(
                "(run_id = ${} and epoch = ${})",
                args.len() + 1,
                args.len() + 2
            ));
            args.push(run_id.0.into());
            args.push((*epoch).into());
        }
        // Also after its end, as long as nobody else has claimed the run: the epoch says so.
        let sql = format!(
            "update runs set lease_until = {until}, due_at = {until}
             where run_id in (select run_id from runs where lease_owner = $1 and ({which}) {in_lock_order})
             returning run_id",
            until = self.now_plus(&ms.to_string()),
            which = which.join(" or "),
            in_lock_order = self.in_lock_order(),
        );
        let rows = self.db.fetch_writing(&sql, &args).await?;
        rows.iter().map(|row| Ok(RunId(row.get("run_id")?))).collect()
    }

    async fn take_due(&self, limit: u32, first_pause: Duration) -> Result<Vec<Due>, Error> {
        let (first, most) = (first_pause.as_millis(), REDRIVE_PAUSE_MAX.as_millis());
        let first = format!(
            "case when lease_owner is null then {first} else {} end",
            held_pause(first_pause).as_millis()
        );
        // 2^dispatches without overflow; `least` and two-argument `min` are the same function in the two dialects.
        let (least, skip) = if self.db.is_postgres() {
            ("least", "for update skip locked")
        } else {
            ("min", "")
        };
        let pause = format!("{least}({most}, ({first}) * (1 << cast({least}(dispatches, 12) as integer)))");
        let sql = format!(
            // Materialized: a join that ran the locking query twice would take more than was asked.
            "with overdue as materialized (
                 select d.run_id from runs d
                 where d.due_at <= {now} and not d.held
                   and (d.session_seq = 1
                        or not exists (select 1 from runs o
                                       where o.session_id = d.session_id and o.session_seq < d.session_seq
                                         and o.status in ('queued', 'running', 'waiting')))
                 order by d.due_at limit $1 {skip})
             update runs set due_at = {later}, dispatches = dispatches + 1
             where run_id in (select run_id from overdue)
             returning run_id, tenant_id, version, dispatches",
            later = self.now_plus(&pause),
            now = self.now(),
        );
        let rows = self.db.fetch_writing(&sql, &[limit.into()]).await?;
        rows.iter().map(due_of).collect()
    }

    async fn make_due(&self, dead_owner: Option<&str>) -> Result<u64, Error> {
        let (now, in_lock_order) = (self.now(), self.in_lock_order());
        let most = if self.db.is_postgres() { "greatest" } else { "max" };
        let sql = format!(
            "update runs set due_at = {now}, dispatches = {most}(dispatches, 1)
             where run_id in (select run_id from runs
                              where due_at > {now} and not held
                                and (status = 'queued'
                                     or (dispatches > 0 and (lease_until is null or lease_until <= {now})))
                              {in_lock_order})"
        );
        let mut made = self.db.execute(&sql, &[]).await?;
        if let Some(owner) = dead_owner {
            let sql = format!(
                "update runs set lease_until = {now}, due_at = {now}
                 where run_id in (select run_id from runs
                                  where lease_owner = $1 and lease_until > {now} {in_lock_order})"
            );
            made += self.db.execute(&sql, &[owner.into()]).await?;
        }
        Ok(made)
    }

    async fn hold(&self, runs: &[RunId]) -> Result<u64, Error> {
        if runs.is_empty() {
            return Ok(0);
        }
        let sql = format!(
            "update runs set held = true
             where run_id in (select run_id from runs
                              where run_id in ({which}) and due_at is not null and not held
                                and (lease_until is null or lease_until <= {now}) {in_lock_order})",
            which = places(runs.len()),
            now = self.now(),
            in_lock_order = self.in_lock_order(),
        );
        let ids: Vec<_> = runs.iter().map(|run| run.0.into()).collect();
        self.db.execute(&sql, &ids).await
    }

    async fn take_held(&self, tenant: &TenantId, limit: u32, claim_within: Duration) -> Result<Vec<Due>, Error> {
        let skip = if self.db.is_postgres() {
            "for update skip locked"
        } else {
            ""
        };
        let sql = format!(
            "with first as materialized (
                 select run_id from runs where held and tenant_id = $1 order by run_id limit $2 {skip})
             update runs set held = false, due_at = case when due_at > {now} then due_at else {later} end
             where run_id in (select run_id from first)
             returning run_id, tenant_id, version, dispatches",
            now = self.now(),
            later = self.now_plus(&claim_within.as_millis().to_string()),
        );
        let rows = self
            .db
            .fetch_writing(&sql, &[tenant.as_str().into(), limit.into()])
            .await?;
        rows.iter().map(due_of).collect()
    }

    async fn held_tenants(&self, after: Option<&TenantId>, limit: u32) -> Result<Vec<TenantId>, Error> {
        // From one tenant to the next in the index, however long their lines are.
        let sql = "with recursive line(tenant_id) as (
                       select min(tenant_id) from runs where held and tenant_id > $1
                       union all
                       select (select min(r.tenant_id) from runs r where r.held and r.tenant_id > line.tenant_id)
                       from line where line.tenant_id is not null)
                   select tenant_id from line where tenant_id is not null limit $2";
        let after = after.map_or("", TenantId::as_str);
        let rows = self.db.fetch(sql, &[after.into(), limit.into()]).await?;
        rows.iter().map(|row| row.tenant("tenant_id")).collect()
    }

    async fn demand(&self, than: RunId) -> Result<Vec<Demand>, Error> {
        let ms_since = |time: &str| {
            if self.db.is_postgres() {
                format!("cast(extract(epoch from now() - {time}) * 1000 as bigint)")
            } else {
                format!("cast((julianday('now') - julianday({time})) * 86400000 as integer)")
            }
        };
        let sql = format!(
            // A run whose session has an earlier one open waits for that, not for a place.
            "with active as (
                 select a.tenant_id, a.run_id, a.updated_at, a.dispatches, a.lease_until, a.lease_until > {now} as claimed,
                        a.lease_owner is null and a.status = 'queued'
                        and (a.session_seq = 1
                             or not exists (select 1 from runs o
                                            where o.session_id = a.session_id and o.session_seq < a.session_seq
                                              and o.status in ('queued', 'running', 'waiting'))) as runnable
                 from runs a where a.due_at is not null and not a.held
             ), counted as (
                 select tenant_id, count(*) filter (where claimed) as running, 0 as held,
                        count(*) filter (where runnable) as runnable,
                        count(*) filter (where runnable and run_id < $1) as older,
                        min(updated_at) filter (where runnable and dispatches < {DISPATCHES_MEASURED}) as since,
                        min(case when runnable then updated_at when not claimed then lease_until end) as oldest
                 from active group by tenant_id
                 union all
                 select h.tenant_id, 0, count(*), 0, count(*) filter (where h.run_id < $1),
                        (select f.updated_at from runs f
                         where f.held and f.tenant_id = h.tenant_id and f.status = 'queued'
                               and f.dispatches < {DISPATCHES_MEASURED}
                         order by f.run_id limit 1), null
                 from runs h where h.held group by h.tenant_id)
             select tenant_id, cast(sum(running) as bigint) as running, cast(sum(held) as bigint) as held,
                    cast(sum(runnable) as bigint) as runnable, cast(sum(older) as bigint) as older,
                    {since} as waited_ms, {oldest} as oldest_ms
             from counted group by tenant_id order by tenant_id",
            now = self.now(),
            since = ms_since("min(since)"),
            oldest = ms_since("min(oldest)"),
        );
        let rows = self.db.fetch(&sql, &[than.0.into()]).await?;
        let demand = |row: &Row| {
            let age = |column| -> Result<Duration, Error> {
                let ms: Option<i64> = row.get(column)?;
                Ok(Duration::from_millis(ms.unwrap_or(0).max(0).unsigned_abs()))
            };
            Ok(Demand {
                tenant: row.tenant("tenant_id")?,
                running: row.count("running")?,
                held: row.count("held")?,
                runnable: row.count("runnable")?,
                older: row.count("older")?,
                waited: age("waited_ms")?,
                oldest: age("oldest_ms")?,
            })
        };
        rows.iter().map(demand).collect()
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
