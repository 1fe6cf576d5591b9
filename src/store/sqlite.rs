//! The append on SQLite: the same three moves as on Postgres, set by set, in one transaction of the one writer.
//!
//! A batch travels as JSON arrays (`json_each`), so its cost hardly grows with the number of runs in it.

use std::collections::HashMap;

use serde_json::json;
use sqlx::{Row, Sqlite, SqliteConnection, SqlitePool, Transaction};
use uuid::Uuid;

use super::{Error, Lease, Prepared, postgres::lease_ms, postgres::lease_word, postgres::millis, sql::lite_time};
use crate::run::{RunId, Time, agent::hex};

pub struct Writer {
    pool: SqlitePool,
}

const ACCEPT_SESSIONS: &str = "
insert into sessions (session_id, tenant_id, last_seq, metadata, created_at)
select unhex(value ->> 'session_id'), value ->> 'tenant', 1, '{}', value ->> 'time'
from json_each($1) where value ->> 'new_session' on conflict do nothing";

const CONTINUE_SESSIONS: &str = "
update sessions set last_seq = last_seq + 1 from json_each($1) i
where not i.value ->> 'new_session' and session_id = unhex(i.value ->> 'session_id')
  and tenant_id = i.value ->> 'tenant'";

const ACCEPT_RUNS: &str = "
insert into runs (run_id, tenant_id, session_id, session_seq, agent, status, version, epoch, hash, due_at,
                  held, input_tokens, output_tokens, cost_microusd, created_at, updated_at)
select unhex(value ->> 'run_id'), value ->> 'tenant', s.session_id, s.last_seq, value ->> 'agent', 'queued',
       value ->> 'version', 0, unhex(value ->> 'hash'), value ->> 'due_at', value ->> 'held', 0, 0, 0,
       value ->> 'time', value ->> 'time'
from json_each($1) join sessions s on s.session_id = unhex(value ->> 'session_id') and s.tenant_id = value ->> 'tenant'
where true on conflict do nothing
returning run_id, epoch, null as next_run";

const ADVANCE: &str = "
update runs set
    version = i.value ->> 'version', hash = unhex(i.value ->> 'hash'), status = i.value ->> 'status',
    epoch = epoch + (i.value ->> 'lease' = 'claim'),
    lease_owner = case i.value ->> 'lease' when 'keep' then lease_owner else i.value ->> 'owner' end,
    lease_until = case i.value ->> 'lease' when 'keep' then lease_until when 'claim' then i.value ->> 'due_at' end,
    due_at = case i.value ->> 'lease' when 'keep' then due_at else i.value ->> 'due_at' end,
    dispatches = case i.value ->> 'lease' when 'keep' then dispatches else 0 end,
    held = held and i.value ->> 'lease' = 'keep',
    input_tokens = i.value ->> 'input_tokens', output_tokens = i.value ->> 'output_tokens',
    cost_microusd = i.value ->> 'cost_microusd', updated_at = i.value ->> 'time'
from json_each($1) i
where run_id = unhex(i.value ->> 'run_id')
  and version = i.value ->> 'expected_version' and epoch = i.value ->> 'expected_epoch'
  and (i.value ->> 'lease' <> 'claim'
       or ((lease_until is null or lease_until <= $2)
           and (session_seq = 1
                or not exists (select 1 from runs o
                               where o.session_id = runs.session_id and o.session_seq < runs.session_seq
                                 and o.status in ('queued', 'running', 'waiting')))))
returning run_id, epoch,
    case when status in ('completed', 'failed', 'cancelled') then
        (select n.run_id from runs n
         where n.session_id = runs.session_id and n.session_seq > runs.session_seq and n.status = 'queued'
         order by n.session_seq limit 1) end as next_run";

const LOG: &str = "
insert into events (run_id, version, tenant_id, type, schema, time, payload, hash)
select unhex(value ->> 'run_id'), value ->> 'version', value ->> 'tenant', value ->> 'type', value ->> 'schema',
       value ->> 'time', value ->> 'payload', unhex(value ->> 'hash')
from json_each($1) order by key";

type Winners = HashMap<RunId, (u64, Option<RunId>)>;

impl Writer {
    pub fn new(pool: SqlitePool) -> Self {
        Self { pool }
    }

    /// Winners of the batch; whoever is missing lost.
    pub async fn write(&self, batch: &[&Prepared], now: Time) -> Result<Winners, Error> {
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
            let rows = array(accepts.iter().map(|prepared| accept_row(prepared, now)));
            for statement in [ACCEPT_SESSIONS, CONTINUE_SESSIONS] {
                sqlx::query(statement).bind(&rows).execute(&mut *tx).await?;
            }
            collect(
                sqlx::query(ACCEPT_RUNS).bind(&rows).fetch_all(&mut *tx).await?,
                &mut winners,
            )?;
        }
        if !advances.is_empty() {
            let rows = array(advances.iter().map(|prepared| advance_row(prepared, now)));
            let query = sqlx::query(ADVANCE).bind(&rows).bind(lite_time(now));
            collect(query.fetch_all(&mut *tx).await?, &mut winners)?;
        }
        drop_keys_of_losers(&mut tx, &batch, &winners).await?;
        let won = batch
            .iter()
            .filter(|prepared| winners.contains_key(&prepared.append.run_id));
        let events = array(won.flat_map(|prepared| event_rows(prepared)));
        sqlx::query(LOG).bind(events).execute(&mut *tx).await?;
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

fn id(id: Uuid) -> String {
    id.simple().to_string()
}

fn accept_row(prepared: &Prepared, now: Time) -> serde_json::Value {
    let append = &prepared.append;
    let accept = append.accept.as_ref();
    json!({
        "run_id": id(append.run_id.0),
        "tenant": append.tenant,
        "session_id": accept.map(|accept| id(accept.session_id.0)),
        "new_session": accept.is_some_and(|accept| accept.new_session),
        "agent": accept.map(|accept| &accept.agent),
        "held": accept.is_some_and(|accept| accept.held),
        "version": prepared.new_version(),
        "hash": hex(&prepared.head_hash()),
        "due_at": accept.map(|accept| lite_time(now + chrono::TimeDelta::milliseconds(millis(accept.claim_within)))),
        "time": lite_time(append.time),
    })
}

fn advance_row(prepared: &Prepared, now: Time) -> serde_json::Value {
    let append = &prepared.append;
    json!({
        "run_id": id(append.run_id.0),
        "expected_version": append.expected_version,
        "expected_epoch": append.expected_epoch,
        "version": prepared.new_version(),
        "hash": hex(&prepared.head_hash()),
        "status": append.status.as_str(),
        "lease": lease_word(&append.lease),
        "owner": match &append.lease { Lease::Claim { owner, .. } => Some(owner), _ => None },
        "due_at": lease_ms(&append.lease).map(|ms| lite_time(now + chrono::TimeDelta::milliseconds(ms))),
        "input_tokens": append.usage.input_tokens,
        "output_tokens": append.usage.output_tokens,
        "cost_microusd": append.usage.cost_microusd,
        "time": lite_time(append.time),
    })
}

fn event_rows(prepared: &Prepared) -> impl Iterator<Item = serde_json::Value> {
    prepared.events.iter().enumerate().map(|(at, event)| {
        json!({
            "run_id": id(event.run_id.0),
            "version": event.version,
            "tenant": event.tenant,
            "type": event.name,
            "schema": event.schema,
            "time": lite_time(event.time),
            "payload": prepared.written(at),
            "hash": hex(&event.hash),
        })
    })
}

fn array(rows: impl Iterator<Item = serde_json::Value>) -> String {
    serde_json::Value::Array(rows.collect()).to_string()
}

fn collect(rows: Vec<sqlx::sqlite::SqliteRow>, winners: &mut Winners) -> Result<(), Error> {
    for row in rows {
        let run_id: Uuid = row.try_get("run_id")?;
        let epoch: i64 = row.try_get("epoch")?;
        let next: Option<Uuid> = row.try_get("next_run")?;
        winners.insert(RunId(run_id), (epoch as u64, next.map(RunId)));
    }
    Ok(())
}
