//! The append on Postgres: one statement for many runs.
//!
//! It locks the heads in id order, moves those that are where their writer expects them and whose epoch is the
//! writer's, adds their events, and answers the winners. A head that did not move costs its own append only. There
//! is no `NOTIFY` and no global lock here: each was measured to cost most of the throughput.
//!
//! The writer keeps connections of its own: a pool asks the server for a sign of life after every use.

use std::{collections::HashMap, sync::Arc};

use sqlx::{Connection, PgConnection, PgPool};
use tokio::sync::Mutex;
use uuid::Uuid;

use super::{Error, Lease, Prepared};
use crate::{
    crash::{self, Point},
    run::{RunId, Time},
};

/// One lane for new runs and one for the others: what comes while a batch commits is the next batch, and the larger it
/// is the less each append costs (docs/decisions/0023).
pub const LANES: usize = 2;

/// The appender gives up on a batch after 10 s; after this the server does too, and lets go of its locks.
const STATEMENT_MAX: &str = "15s";

pub struct Writer {
    pool: PgPool,
    connections: [Mutex<Option<PgConnection>>; LANES],
}

const ACCEPT: &str = "
with input as (
    select * from unnest($1::uuid[], $2::text[], $3::uuid[], $4::bool[], $5::text[], $6::bigint[], $7::bytea[],
                         $8::bigint[], $9::timestamptz[], $10::text[], $11::bytea[], $12::bigint[], $13::text[],
                         $14::bool[])
        as i(run_id, tenant_id, session_id, new_session, agent, version, hash,
             due_ms, time, key, fingerprint, answer_status, answer_body, held)
), keyed as (
    insert into idempotency_keys (tenant_id, key, fingerprint, status, body, created_at)
    select i.tenant_id, i.key, i.fingerprint, i.answer_status, i.answer_body, i.time from input i
    where i.key is not null
      -- Not `exists`: planned on an empty table, that becomes a scan of all sessions.
      and (i.new_session or (select true from sessions s
                             where s.session_id = i.session_id and s.tenant_id = i.tenant_id limit 1))
    order by i.tenant_id, i.key
    on conflict do nothing
    returning tenant_id, key
), admitted as (
    select i.* from input i
    where i.key is null or exists (select 1 from keyed k where k.tenant_id = i.tenant_id and k.key = i.key)
), begun as (
    insert into sessions (session_id, tenant_id, last_seq, metadata, created_at)
    select a.session_id, a.tenant_id, 1, '{}', a.time from admitted a where a.new_session
    on conflict do nothing
    returning session_id
), entered as (
    -- The row lock gives the runs of a session their order: a lower number is always visible to a higher one.
    -- Taken in one order by every gateway, so two of them never wait for each other in a circle.
    select s.session_id from admitted a
    join sessions s on s.session_id = a.session_id and s.tenant_id = a.tenant_id
    where not a.new_session
    order by s.session_id
    for update of s
), continued as (
    update sessions s set last_seq = s.last_seq + 1 from entered e
    where s.session_id = e.session_id
    returning s.session_id, s.last_seq
), placed as (
    insert into runs (run_id, tenant_id, session_id, session_seq, agent, status, version, epoch, hash, due_at,
                      held, input_tokens, output_tokens, cost_microusd, created_at, updated_at)
    select a.run_id, a.tenant_id, a.session_id, a.seq, a.agent, 'queued', a.version, 0, a.hash,
           now() + a.due_ms * interval '1 millisecond', a.held, 0, 0, 0, a.time, a.time
    from (select n.*, 1::bigint as seq from admitted n
          where n.new_session and (n.session_id in (select session_id from begun)) is true
          union all
          select n.*, c.last_seq from admitted n join continued c on c.session_id = n.session_id
          where not n.new_session) a
    on conflict do nothing
    returning run_id
), logged as (
    insert into events (run_id, version, tenant_id, type, schema, time, payload, hash)
    select e.* from unnest($15::uuid[], $16::bigint[], $17::text[], $18::text[], $19::smallint[],
                           $20::timestamptz[], $21::text[], $22::bytea[])
        as e(run_id, version, tenant_id, type, schema, time, payload, hash)
    where (e.run_id in (select run_id from placed)) is true
)
select run_id, 0::bigint as epoch, null::uuid as next_run from placed";

const ADVANCE: &str = "
with input as (
    select * from unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bytea[], $6::text[], $7::text[],
                         $8::text[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::timestamptz[])
        as i(run_id, expected_version, expected_epoch, version, hash, status, lease,
             owner, ms, input_tokens, output_tokens, cost_microusd, time)
), locked as (
    -- Carries the whole order along, so that no two lists are compared row by row.
    select i.* from input i join runs r on r.run_id = i.run_id
    where r.version = i.expected_version and r.epoch = i.expected_epoch
      and (i.lease <> 'claim'
           or ((r.lease_until is null or r.lease_until <= now())
               and (r.session_seq = 1
                    or not exists (select 1 from runs o
                                   where o.session_id = r.session_id and o.session_seq < r.session_seq
                                     and o.status in ('queued', 'running', 'waiting')))))
    order by r.run_id
    for update of r
), moved as (
    update runs r set
        version = i.version, hash = i.hash, status = i.status,
        epoch = r.epoch + case i.lease when 'claim' then 1 else 0 end,
        lease_owner = case i.lease when 'keep' then r.lease_owner when 'claim' then i.owner end,
        lease_until = case i.lease when 'keep' then r.lease_until
                                   when 'claim' then now() + i.ms * interval '1 millisecond' end,
        due_at = case i.lease when 'keep' then r.due_at else now() + i.ms * interval '1 millisecond' end,
        dispatches = case when i.lease = 'keep' or i.version = r.version then r.dispatches else 0 end,
        held = r.held and i.lease = 'keep',
        input_tokens = i.input_tokens, output_tokens = i.output_tokens, cost_microusd = i.cost_microusd,
        updated_at = i.time
    from locked i
    where r.run_id = i.run_id
    returning r.run_id, r.epoch,
        case when i.status in ('completed', 'failed', 'cancelled') then
            (select n.run_id from runs n
             where n.session_id = r.session_id and n.session_seq > r.session_seq and n.status = 'queued'
             order by n.session_seq limit 1) end as next_run
), logged as (
    insert into events (run_id, version, tenant_id, type, schema, time, payload, hash)
    select e.* from unnest($14::uuid[], $15::bigint[], $16::text[], $17::text[], $18::smallint[],
                           $19::timestamptz[], $20::text[], $21::bytea[])
        as e(run_id, version, tenant_id, type, schema, time, payload, hash)
    -- `is true` makes it a look-up in a hash table: a join here would compare every event with every run.
    where (e.run_id in (select run_id from moved)) is true
)
select run_id, epoch, next_run from moved";

type Winners = HashMap<RunId, (u64, Option<RunId>)>;

impl Writer {
    pub fn new(pool: PgPool) -> Self {
        Self {
            pool,
            connections: Default::default(),
        }
    }

    /// Winners of the batch; whoever is missing lost.
    pub async fn write(&self, batch: &[Arc<Prepared>]) -> Result<Winners, Error> {
        let batch: Vec<&Prepared> = batch.iter().map(|prepared| &**prepared).collect();
        let mut slot = self.free_slot().await;
        let mut connection = match slot.take() {
            Some(connection) => connection,
            None => {
                let options = (*self.pool.connect_options()).clone();
                PgConnection::connect_with(&options.options([("statement_timeout", STATEMENT_MAX)])).await?
            }
        };
        let written = write_on(&mut connection, &batch).await;
        // After any error the connection's state is unknown; a new one is cheap.
        if written.is_ok() {
            *slot = Some(connection);
        }
        written
    }

    async fn free_slot(&self) -> tokio::sync::MutexGuard<'_, Option<PgConnection>> {
        for slot in &self.connections {
            if let Ok(free) = slot.try_lock() {
                return free;
            }
        }
        self.connections[0].lock().await
    }
}

async fn write_on(connection: &mut PgConnection, batch: &[&Prepared]) -> Result<Winners, Error> {
    put_blobs(connection, batch).await?;
    let (accepts, advances): (Vec<&Prepared>, Vec<&Prepared>) =
        batch.iter().partition(|prepared| prepared.append.accept.is_some());
    let mut winners = Winners::new();
    if !accepts.is_empty() {
        accept(connection, &accepts, &mut winners).await?;
    }
    let (keyed, plain): (Vec<&Prepared>, Vec<&Prepared>) = advances
        .into_iter()
        .partition(|prepared| prepared.append.idempotency.is_some());
    if !plain.is_empty() {
        advance(connection, &plain, &mut winners).await?;
    }
    for prepared in keyed {
        advance_keyed(connection, prepared, &mut winners).await?;
    }
    Ok(winners)
}

/// Content first: an event never refers to a blob that is not there. A blob nobody refers to does no harm.
async fn put_blobs(connection: &mut PgConnection, batch: &[&Prepared]) -> Result<(), Error> {
    for (hash, bytes) in batch.iter().flat_map(|prepared| &prepared.blobs) {
        sqlx::query("insert into blobs (sha256, bytes) values ($1, $2) on conflict do nothing")
            .bind(hash.as_slice())
            .bind(bytes.as_bytes())
            .execute(&mut *connection)
            .await?;
        crash::at(Point::BlobAfter);
    }
    Ok(())
}

async fn accept<'a>(connection: &mut PgConnection, batch: &[&'a Prepared], winners: &mut Winners) -> Result<(), Error> {
    let accept = |p: &'a Prepared| p.append.accept.as_ref();
    let key = |p: &'a Prepared| p.append.idempotency.as_ref();
    let query = sqlx::query_as(ACCEPT)
        .bind(column(batch, |p| p.append.run_id.0))
        .bind(column(batch, |p| p.append.tenant.as_str()))
        .bind(column(batch, |p| accept(p).map(|accept| accept.session_id.0)))
        .bind(column(batch, |p| accept(p).map(|accept| accept.new_session)))
        .bind(column(batch, |p| accept(p).map(|accept| accept.agent.as_str())))
        .bind(column(batch, |p| p.new_version() as i64))
        .bind(column(batch, |p| p.head_hash().to_vec()))
        .bind(column(batch, |p| accept(p).map(|accept| millis(accept.claim_within))))
        .bind(column(batch, |p| p.append.time))
        .bind(column(batch, |p| key(p).map(|key| key.key.as_str())))
        .bind(column(batch, |p| key(p).map(|key| key.fingerprint.as_slice())))
        .bind(column(batch, |p| key(p).map(|key| i64::from(key.answer.status))))
        .bind(column(batch, |p| key(p).map(|key| key.answer.body.as_str())))
        .bind(column(batch, |p| accept(p).is_some_and(|accept| accept.held)));
    collect(bind_events(query, batch).fetch_all(connection).await?, winners);
    Ok(())
}

async fn advance(connection: &mut PgConnection, batch: &[&Prepared], winners: &mut Winners) -> Result<(), Error> {
    let query = sqlx::query_as(ADVANCE)
        .bind(column(batch, |p| p.append.run_id.0))
        .bind(column(batch, |p| p.append.expected_version as i64))
        .bind(column(batch, |p| p.append.expected_epoch as i64))
        .bind(column(batch, |p| p.new_version() as i64))
        .bind(column(batch, |p| p.head_hash().to_vec()))
        .bind(column(batch, |p| p.append.status.as_str()))
        .bind(column(batch, |p| lease_word(&p.append.lease)))
        .bind(column(batch, |p| match &p.append.lease {
            Lease::Claim { owner, .. } => Some(owner.as_str()),
            _ => None,
        }))
        .bind(column(batch, |p| lease_ms(&p.append.lease)))
        .bind(column(batch, |p| p.append.usage.input_tokens as i64))
        .bind(column(batch, |p| p.append.usage.output_tokens as i64))
        .bind(column(batch, |p| p.append.usage.cost_microusd as i64))
        .bind(column(batch, |p| p.append.time));
    collect(bind_events(query, batch).fetch_all(connection).await?, winners);
    Ok(())
}

/// An append that came with an idempotency key: both are committed, or neither.
async fn advance_keyed(connection: &mut PgConnection, prepared: &Prepared, winners: &mut Winners) -> Result<(), Error> {
    let Some(key) = &prepared.append.idempotency else {
        return Ok(());
    };
    let mut tx = connection.begin().await?;
    let fresh = sqlx::query(
        "insert into idempotency_keys (tenant_id, key, fingerprint, status, body, created_at)
         values ($1, $2, $3, $4, $5, $6) on conflict do nothing",
    )
    .bind(prepared.append.tenant.as_str())
    .bind(&key.key)
    .bind(key.fingerprint.as_slice())
    .bind(i64::from(key.answer.status))
    .bind(&key.answer.body)
    .bind(prepared.append.time)
    .execute(&mut *tx)
    .await?
    .rows_affected();
    let before = winners.len();
    if fresh == 1 {
        advance(&mut tx, &[prepared], winners).await?;
    }
    if winners.len() > before {
        tx.commit().await?
    } else {
        tx.rollback().await?
    }
    Ok(())
}

type Winner = (Uuid, i64, Option<Uuid>);
type Query<'q> = sqlx::query::QueryAs<'q, sqlx::Postgres, Winner, sqlx::postgres::PgArguments>;

fn bind_events<'q>(query: Query<'q>, batch: &[&'q Prepared]) -> Query<'q> {
    let rows: Vec<(&Prepared, usize)> = batch
        .iter()
        .flat_map(|prepared| (0..prepared.events.len()).map(move |at| (*prepared, at)))
        .collect();
    let event = |row: &(&'q Prepared, usize)| &row.0.events[row.1];
    query
        .bind(rows.iter().map(|row| row.0.append.run_id.0).collect::<Vec<Uuid>>())
        .bind(rows.iter().map(|row| event(row).version as i64).collect::<Vec<i64>>())
        .bind(
            rows.iter()
                .map(|row| row.0.append.tenant.as_str())
                .collect::<Vec<&str>>(),
        )
        .bind(rows.iter().map(|row| event(row).name.as_str()).collect::<Vec<&str>>())
        .bind(rows.iter().map(|row| event(row).schema as i16).collect::<Vec<i16>>())
        .bind(rows.iter().map(|row| row.0.append.time).collect::<Vec<Time>>())
        .bind(rows.iter().map(|row| row.0.written(row.1)).collect::<Vec<&str>>())
        .bind(
            rows.iter()
                .map(|row| event(row).hash.as_slice())
                .collect::<Vec<&[u8]>>(),
        )
}

fn column<'a, T>(batch: &[&'a Prepared], value: impl Fn(&'a Prepared) -> T) -> Vec<T> {
    batch.iter().map(|prepared| value(prepared)).collect()
}

fn collect(rows: Vec<Winner>, winners: &mut Winners) {
    for (run_id, epoch, next) in rows {
        winners.insert(RunId(run_id), (epoch as u64, next.map(RunId)));
    }
}

fn lease_word(lease: &Lease) -> &'static str {
    match lease {
        Lease::Keep => "keep",
        Lease::Claim { .. } => "claim",
        Lease::Release { .. } => "release",
    }
}

pub(super) fn lease_ms(lease: &Lease) -> Option<i64> {
    match lease {
        Lease::Keep => None,
        Lease::Claim { ttl, .. } => Some(millis(*ttl)),
        Lease::Release { due_in } => due_in.map(millis),
    }
}

pub(super) fn millis(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
