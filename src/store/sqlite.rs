//! The append on SQLite: the same three moves as on Postgres, set by set, in one transaction of the one writer.
//!
//! A batch travels as rows of values, so its cost hardly grows with the number of runs in it.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use chrono::SubsecRound;
use sqlx::{
    AssertSqlSafe, Row, Sqlite, SqliteConnection, SqlitePool, Transaction,
    sqlite::{SqliteArguments, SqliteRow},
};
use uuid::Uuid;

use super::{Error, Lease, Prepared, postgres::lease_ms, postgres::lease_word, postgres::millis, sql::lite_time};
use crate::run::{RunId, Time};

pub struct Writer {
    pool: SqlitePool,
}

/// Rows in one statement, at the most.
const ROWS_MAX: usize = 256;
const SIZES: usize = ROWS_MAX.ilog2() as usize + 1;

/// A statement over the rows `i`. There is one text for each power of two, so that few are ever prepared; places that
/// are left over are null, and every statement passes over rows that begin with null.
struct Statement {
    columns: &'static str,
    body: &'static str,
    texts: [OnceLock<Arc<str>>; SIZES],
}

static ACCEPT_SESSIONS: Statement = Statement::new(
    ACCEPT_COLUMNS,
    "insert into sessions (session_id, tenant_id, last_seq, metadata, created_at)
     select i.session_id, i.tenant_id, 1, '{}', i.time from i
     where i.run_id is not null and i.new_session on conflict do nothing",
);

static CONTINUE_SESSIONS: Statement = Statement::new(
    ACCEPT_COLUMNS,
    "update sessions set last_seq = last_seq + 1 from i
     where i.run_id is not null and not i.new_session
       and sessions.session_id = i.session_id and sessions.tenant_id = i.tenant_id",
);

const ACCEPT_COLUMNS: &str = "run_id, tenant_id, session_id, new_session, agent, held, version, hash, due_at, time";

static ACCEPT_RUNS: Statement = Statement::new(
    ACCEPT_COLUMNS,
    "insert into runs (run_id, tenant_id, session_id, session_seq, agent, status, version, epoch, hash, due_at,
                       held, input_tokens, output_tokens, cost_microusd, created_at, updated_at)
     select i.run_id, i.tenant_id, i.session_id, s.last_seq, i.agent, 'queued', i.version, 0, i.hash, i.due_at,
            i.held, 0, 0, 0, i.time, i.time
     from i join sessions s on s.session_id = i.session_id and s.tenant_id = i.tenant_id
     where i.run_id is not null on conflict do nothing
     returning run_id, epoch, null as next_run",
);

static ADVANCE: Statement = Statement::new(
    "run_id, expected_version, expected_epoch, version, hash, status, lease, owner, due_at, input_tokens, \
     output_tokens, cost_microusd, time, now",
    "update runs set
         version = i.version, hash = i.hash, status = i.status,
         epoch = runs.epoch + (i.lease = 'claim'),
         lease_owner = case i.lease when 'keep' then runs.lease_owner else i.owner end,
         lease_until = case i.lease when 'keep' then runs.lease_until when 'claim' then i.due_at end,
         due_at = case i.lease when 'keep' then runs.due_at else i.due_at end,
         dispatches = case when i.lease = 'keep' or i.version = runs.version then runs.dispatches else 0 end,
         held = runs.held and i.lease = 'keep',
         input_tokens = i.input_tokens, output_tokens = i.output_tokens,
         cost_microusd = i.cost_microusd, updated_at = i.time
     from i
     where i.run_id is not null and runs.run_id = i.run_id
       and runs.version = i.expected_version and runs.epoch = i.expected_epoch
       and (i.lease <> 'claim'
            or ((runs.lease_until is null or runs.lease_until <= i.now)
                and (runs.session_seq = 1
                     or not exists (select 1 from runs o
                                    where o.session_id = runs.session_id and o.session_seq < runs.session_seq
                                      and o.status in ('queued', 'running', 'waiting')))))
     returning run_id, epoch,
         case when status in ('completed', 'failed', 'cancelled') then
             (select n.run_id from runs n
              where n.session_id = runs.session_id and n.session_seq > runs.session_seq and n.status = 'queued'
              order by n.session_seq limit 1) end as next_run",
);

static LOG: Statement = Statement::new(
    "run_id, version, tenant_id, type, schema, time, payload, hash",
    "insert into events (run_id, version, tenant_id, type, schema, time, payload, hash)
     select i.* from i where i.run_id is not null",
);

type Query<'q> = sqlx::query::Query<'q, Sqlite, SqliteArguments>;
type Winners = HashMap<RunId, (u64, Option<RunId>)>;

impl Statement {
    const fn new(columns: &'static str, body: &'static str) -> Self {
        Self {
            columns,
            body,
            texts: [const { OnceLock::new() }; SIZES],
        }
    }

    fn text(&self, size: usize) -> Arc<str> {
        let text = || {
            let columns = self.columns.split(',').count();
            let row = format!("({})", vec!["?"; columns].join(","));
            let rows = vec![row; size].join(",");
            format!("with i ({}) as (values {rows}) {}", self.columns, self.body).into()
        };
        self.texts[size.ilog2() as usize].get_or_init(text).clone()
    }

    /// Executes it for all rows, of which `bind` binds one; gathers what it returns.
    async fn execute<'r, T>(
        &self,
        tx: &mut SqliteConnection,
        rows: &'r [T],
        bind: impl for<'q> Fn(Query<'q>, &'r T) -> Query<'q>,
    ) -> Result<Vec<SqliteRow>, Error> {
        let columns = self.columns.split(',').count();
        let mut returned = Vec::new();
        for rows in rows.chunks(ROWS_MAX) {
            let size = rows.len().next_power_of_two();
            let mut query = sqlx::query(AssertSqlSafe(self.text(size)));
            for row in rows {
                query = bind(query, row);
            }
            for _ in 0..(size - rows.len()) * columns {
                query = query.bind(None::<i64>);
            }
            returned.append(&mut query.fetch_all(&mut *tx).await?);
        }
        Ok(returned)
    }
}

impl Writer {
    pub fn new(pool: SqlitePool) -> Self {
        Self { pool }
    }

    /// Winners of the batch; whoever is missing lost.
    pub async fn write(&self, batch: &[&Prepared], now: Time) -> Result<Winners, Error> {
        // SQLite's own clock, which this is compared with, knows milliseconds: what is due now would not be due for one.
        let now = now.trunc_subsecs(3);
        let mut tx: Transaction<'static, Sqlite> = self.pool.begin_with("begin immediate").await?;
        let mut winners = Winners::new();
        let batch = take_keys(&mut tx, batch).await?;
        for (hash, bytes) in batch.iter().flat_map(|prepared| &prepared.blobs) {
            sqlx::query("insert into blobs (sha256, bytes) values ($1, $2) on conflict do nothing")
                .bind(hash.as_slice())
                .bind(bytes.as_bytes())
                .execute(&mut *tx)
                .await?;
        }
        let (accepts, advances): (Vec<&Prepared>, Vec<&Prepared>) =
            batch.iter().partition(|prepared| prepared.append.accept.is_some());
        if !accepts.is_empty() {
            let is_new =
                |prepared: &&Prepared| (prepared.append.accept.as_ref()).is_some_and(|accept| accept.new_session);
            let (begun, continued): (Vec<&Prepared>, Vec<&Prepared>) = accepts.iter().copied().partition(is_new);
            for (statement, rows) in [(&ACCEPT_SESSIONS, begun), (&CONTINUE_SESSIONS, continued)] {
                statement
                    .execute(&mut tx, &rows, |query, row| bind_accept(query, row, now))
                    .await?;
            }
            let placed = ACCEPT_RUNS.execute(&mut tx, &accepts, |query, row| bind_accept(query, row, now));
            collect(placed.await?, &mut winners)?;
        }
        let at = lite_time(now);
        let moved = ADVANCE.execute(&mut tx, &advances, |query, row| bind_advance(query, row, now, &at));
        collect(moved.await?, &mut winners)?;
        drop_keys_of_losers(&mut tx, &batch, &winners).await?;
        let events: Vec<(&Prepared, usize)> = (batch.iter())
            .filter(|prepared| winners.contains_key(&prepared.append.run_id))
            .flat_map(|prepared| (0..prepared.events.len()).map(|at| (*prepared, at)))
            .collect();
        LOG.execute(&mut tx, &events, |query, (prepared, at)| {
            bind_event(query, prepared, *at)
        })
        .await?;
        tx.commit().await?;
        Ok(winners)
    }
}

/// Leaves out the appends whose idempotency key was used before.
async fn take_keys<'a>(tx: &mut SqliteConnection, batch: &[&'a Prepared]) -> Result<Vec<&'a Prepared>, Error> {
    let mut kept = Vec::with_capacity(batch.len());
    for prepared in batch {
        if let Some(key) = &prepared.append.idempotency {
            let fresh = sqlx::query(
                "insert into idempotency_keys (tenant_id, key, fingerprint, status, body, created_at)
                 values ($1, $2, $3, $4, $5, $6) on conflict do nothing",
            )
            .bind(prepared.append.tenant.as_str())
            .bind(&key.key)
            .bind(key.fingerprint.as_slice())
            .bind(i64::from(key.answer.status))
            .bind(&key.answer.body)
            .bind(lite_time(prepared.append.time))
            .execute(&mut *tx)
            .await?;
            if fresh.rows_affected() == 0 {
                continue;
            }
        }
        kept.push(*prepared);
    }
    Ok(kept)
}

async fn drop_keys_of_losers(tx: &mut SqliteConnection, batch: &[&Prepared], winners: &Winners) -> Result<(), Error> {
    for prepared in batch
        .iter()
        .filter(|prepared| !winners.contains_key(&prepared.append.run_id))
    {
        if let Some(key) = &prepared.append.idempotency {
            sqlx::query("delete from idempotency_keys where tenant_id = $1 and key = $2")
                .bind(prepared.append.tenant.as_str())
                .bind(&key.key)
                .execute(&mut *tx)
                .await?;
        }
    }
    Ok(())
}

fn bind_accept<'q>(query: Query<'q>, prepared: &Prepared, now: Time) -> Query<'q> {
    let append = &prepared.append;
    let accept = append.accept.as_ref();
    query
        .bind(append.run_id.0)
        .bind(append.tenant.to_string())
        .bind(accept.map(|accept| accept.session_id.0))
        .bind(accept.is_some_and(|accept| accept.new_session))
        .bind(accept.map(|accept| accept.agent.clone()))
        .bind(accept.is_some_and(|accept| accept.held))
        .bind(prepared.new_version() as i64)
        .bind(prepared.head_hash().to_vec())
        .bind(accept.map(|accept| later(now, millis(accept.claim_within))))
        .bind(lite_time(append.time))
}

fn bind_advance<'q>(query: Query<'q>, prepared: &Prepared, now: Time, at: &str) -> Query<'q> {
    let append = &prepared.append;
    let owner = match &append.lease {
        Lease::Claim { owner, .. } => Some(owner.clone()),
        _ => None,
    };
    query
        .bind(append.run_id.0)
        .bind(append.expected_version as i64)
        .bind(append.expected_epoch as i64)
        .bind(prepared.new_version() as i64)
        .bind(prepared.head_hash().to_vec())
        .bind(append.status.as_str())
        .bind(lease_word(&append.lease))
        .bind(owner)
        .bind(lease_ms(&append.lease).map(|ms| later(now, ms)))
        .bind(append.usage.input_tokens as i64)
        .bind(append.usage.output_tokens as i64)
        .bind(append.usage.cost_microusd as i64)
        .bind(lite_time(append.time))
        .bind(at.to_owned())
}

fn bind_event<'q>(query: Query<'q>, prepared: &Prepared, at: usize) -> Query<'q> {
    let event = &prepared.events[at];
    query
        .bind(event.run_id.0)
        .bind(event.version as i64)
        .bind(event.tenant.to_string())
        .bind(event.name.clone())
        .bind(event.schema as i64)
        .bind(lite_time(event.time))
        .bind(prepared.written(at).to_owned())
        .bind(event.hash.to_vec())
}

fn later(now: Time, ms: i64) -> String {
    lite_time(now + chrono::TimeDelta::milliseconds(ms))
}

fn collect(rows: Vec<SqliteRow>, winners: &mut Winners) -> Result<(), Error> {
    for row in rows {
        let run_id: Uuid = row.try_get("run_id")?;
        let epoch: i64 = row.try_get("epoch")?;
        let next: Option<Uuid> = row.try_get("next_run")?;
        winners.insert(RunId(run_id), (epoch as u64, next.map(RunId)));
    }
    Ok(())
}
