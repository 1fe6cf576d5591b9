//! The two hot paths on SQLite: the append, and the read that every run begins with. Each is one piece of work on a thread
//! that may block, row by row (docs/decisions/0026).

use std::{collections::HashMap, sync::Arc};

use chrono::SubsecRound;
use rusqlite::{CachedStatement, Connection, OptionalExtension, Row, ToSql, Transaction, TransactionBehavior, params};
use uuid::Uuid;

use super::{
    Accept, Error, Head, Idempotency, Lease, Prepared, StoredEvent,
    loads::{ByRun, Wanted},
    postgres::{lease_ms, millis},
    rows::status_of,
    sql::{lite_time, tenant},
};
use crate::run::{RunId, SessionId, Time, Usage};

const HEAD: &str = "select * from runs where run_id = ?1";

/// Versions have no gaps: so many from the first.
const EVENTS: &str = "
    select version, type, schema, time, payload, hash from events where run_id = ?1 and version <= ?2 order by version";

const BEGIN_SESSION: &str = "
    insert into sessions (session_id, tenant_id, last_seq, metadata, created_at)
    values (?1, ?2, 1, '{}', ?3) on conflict do nothing";

const CONTINUE_SESSION: &str = "
    update sessions set last_seq = last_seq + 1 where session_id = ?1 and tenant_id = ?2";

const ACCEPT: &str = "
    insert into runs (run_id, tenant_id, session_id, session_seq, agent, status, version, epoch, hash, due_at,
                      held, input_tokens, output_tokens, cost_microusd, created_at, updated_at)
    select ?1, s.tenant_id, s.session_id, s.last_seq, ?4, 'queued', ?5, 0, ?6, ?7, ?8, 0, 0, 0, ?9, ?9
    from sessions s where s.session_id = ?3 and s.tenant_id = ?2 on conflict do nothing";

/// What every append says of a head, and where it must stand for that.
macro_rules! advance {
    ($also:literal, $if:literal) => {
        concat!(
            "update runs set version = ?4, hash = ?5, status = ?6, input_tokens = ?7, output_tokens = ?8,
                 cost_microusd = ?9, updated_at = ?10",
            $also,
            " where run_id = ?1 and version = ?2 and epoch = ?3",
            $if
        )
    };
}

const KEEP: &str = advance!("", "");

const CLAIM: &str = advance!(
    ", epoch = epoch + 1, lease_owner = ?11, lease_until = ?12, due_at = ?12, held = false,
       dispatches = case when version = ?4 then dispatches else 0 end",
    " and (lease_until is null or lease_until <= ?13)
      and (session_seq = 1
           or not exists (select 1 from runs o
                          where o.session_id = runs.session_id and o.session_seq < runs.session_seq
                            and o.status in ('queued', 'running', 'waiting')))"
);

const RELEASE: &str = advance!(
    ", lease_owner = null, lease_until = null, due_at = ?11, held = false,
       dispatches = case when version = ?4 then dispatches else 0 end",
    ""
);

/// The run that its session's end of a run lets go on.
const NEXT_RUN: &str = "
    select n.run_id from runs r
    join runs n on n.session_id = r.session_id and n.session_seq > r.session_seq and n.status = 'queued'
    where r.run_id = ?1 order by n.session_seq limit 1";

const LOG: &str = "
    insert into events (run_id, version, tenant_id, type, schema, time, payload, hash)
    values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";

const PUT_BLOB: &str = "insert into blobs (sha256, bytes) values (?1, ?2) on conflict do nothing";

const TAKE_KEY: &str = "
    insert into idempotency_keys (tenant_id, key, fingerprint, status, body, created_at)
    values (?1, ?2, ?3, ?4, ?5, ?6) on conflict do nothing";

const DROP_KEY: &str = "delete from idempotency_keys where tenant_id = ?1 and key = ?2";

pub type Winner = (u64, Option<RunId>);
pub type Winners = HashMap<RunId, Winner>;

/// Heads and first events of many runs.
pub fn load(connection: &mut Connection, wanted: &[Wanted]) -> Result<ByRun, Error> {
    // One state of the database for all.
    let tx = connection.transaction()?;
    let (mut heads, mut events) = (tx.prepare_cached(HEAD)?, tx.prepare_cached(EVENTS)?);
    let mut by_run = ByRun::with_capacity(wanted.len());
    for (run_id, limit) in wanted {
        let Some(head) = heads
            .query_row([run_id.0], |row| Ok(head_of(*run_id, row)))
            .optional()?
        else {
            continue;
        };
        let read = |head: Head| {
            let of = |row: &Row| Ok(event_of(&head, row));
            let events = events.query_map(params![run_id.0, limit], of)?;
            let events = events.map(|event| event?).collect::<Result<_, Error>>()?;
            Ok((head, events))
        };
        by_run.insert(*run_id, head.and_then(read));
    }
    Ok(by_run)
}

fn head_of(run_id: RunId, row: &Row) -> Result<Head, Error> {
    let status: String = row.get("status")?;
    Ok(Head {
        run_id,
        tenant: tenant("tenant_id", &row.get::<_, String>("tenant_id")?)?,
        session_id: SessionId(row.get("session_id")?),
        session_seq: row.get("session_seq")?,
        agent: row.get("agent")?,
        status: status_of(&status)?,
        version: row.get("version")?,
        epoch: row.get("epoch")?,
        hash: row.get("hash")?,
        lease_owner: row.get("lease_owner")?,
        lease_until: row.get("lease_until")?,
        due_at: row.get("due_at")?,
        usage: Usage {
            input_tokens: row.get("input_tokens")?,
            output_tokens: row.get("output_tokens")?,
            cost_microusd: row.get("cost_microusd")?,
        },
        created_at: row.get("created_at")?,
        updated_at: row.get("updated_at")?,
    })
}

fn event_of(head: &Head, row: &Row) -> Result<StoredEvent, Error> {
    Ok(StoredEvent {
        run_id: head.run_id,
        tenant: head.tenant.clone(),
        version: row.get("version")?,
        name: row.get("type")?,
        schema: row.get("schema")?,
        time: row.get("time")?,
        payload: row.get("payload")?,
        hash: row.get("hash")?,
    })
}

/// Winners of the batch; whoever is missing lost.
pub fn write(connection: &mut Connection, batch: &[Arc<Prepared>], now: Time) -> rusqlite::Result<Winners> {
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut winners = Winners::new();
    {
        let mut batch_writer = BatchWriter::new(&tx, now)?;
        for prepared in batch {
            if let Some(winner) = batch_writer.append(prepared)? {
                winners.insert(prepared.append.run_id, winner);
            }
        }
    }
    tx.commit()?;
    Ok(winners)
}

/// The statements that nearly every batch needs, looked up once for all of it.
struct BatchWriter<'a> {
    tx: &'a Transaction<'a>,
    /// The database's clock.
    now: Time,
    /// The same as text.
    at: String,
    log: CachedStatement<'a>,
    keep: CachedStatement<'a>,
    claim: CachedStatement<'a>,
    release: CachedStatement<'a>,
}

impl<'a> BatchWriter<'a> {
    fn new(tx: &'a Transaction<'a>, now: Time) -> rusqlite::Result<Self> {
        // SQLite's own clock, which this is compared with, knows milliseconds: what is due now would not be due for one.
        let now = now.trunc_subsecs(3);
        Ok(Self {
            tx,
            now,
            at: lite_time(now),
            log: tx.prepare_cached(LOG)?,
            keep: tx.prepare_cached(KEEP)?,
            claim: tx.prepare_cached(CLAIM)?,
            release: tx.prepare_cached(RELEASE)?,
        })
    }

    fn later(&self, ms: i64) -> String {
        lite_time(self.now + chrono::TimeDelta::milliseconds(ms))
    }

    /// All of it; a loser leaves no event, head or key.
    fn append(&mut self, prepared: &Prepared) -> rusqlite::Result<Option<Winner>> {
        let append = &prepared.append;
        let time = lite_time(append.time);
        if let Some(key) = &append.idempotency
            && !self.take_key(prepared, key, &time)?
        {
            return Ok(None);
        }
        for (hash, bytes) in &prepared.blobs {
            self.tx
                .prepare_cached(PUT_BLOB)?
                .execute(params![hash, bytes.as_bytes()])?;
        }
        let winner = match &append.accept {
            Some(accept) => self.accept(prepared, accept, &time)?,
            None => self.advance(prepared, &time)?,
        };
        if winner.is_none() {
            if let Some(key) = &append.idempotency {
                let tenant = append.tenant.as_str();
                self.tx.prepare_cached(DROP_KEY)?.execute(params![tenant, key.key])?;
            }
            return Ok(None);
        }
        for (at, event) in prepared.events.iter().enumerate() {
            self.log.execute(params![
                event.run_id.0,
                event.version,
                event.tenant.as_str(),
                event.name,
                event.schema,
                time,
                prepared.written(at),
                event.hash,
            ])?;
        }
        Ok(winner)
    }

    /// False: it was used before.
    fn take_key(&self, prepared: &Prepared, key: &Idempotency, time: &str) -> rusqlite::Result<bool> {
        let taken = self.tx.prepare_cached(TAKE_KEY)?.execute(params![
            prepared.append.tenant.as_str(),
            key.key,
            key.fingerprint,
            key.answer.status,
            key.answer.body,
            time,
        ])?;
        Ok(taken == 1)
    }

    fn accept(&self, prepared: &Prepared, accept: &Accept, time: &str) -> rusqlite::Result<Option<Winner>> {
        let (append, session) = (&prepared.append, accept.session_id.0);
        let tenant = append.tenant.as_str();
        if accept.new_session {
            let mut begin = self.tx.prepare_cached(BEGIN_SESSION)?;
            begin.execute(params![session, tenant, time])?;
        } else {
            let mut go_on = self.tx.prepare_cached(CONTINUE_SESSION)?;
            go_on.execute(params![session, tenant])?;
        }
        let placed = self.tx.prepare_cached(ACCEPT)?.execute(params![
            append.run_id.0,
            tenant,
            session,
            accept.agent,
            prepared.new_version(),
            prepared.head_hash(),
            self.later(millis(accept.claim_within)),
            accept.held,
            time,
        ])?;
        Ok((placed == 1).then_some((0, None)))
    }

    fn advance(&mut self, prepared: &Prepared, time: &str) -> rusqlite::Result<Option<Winner>> {
        let append = &prepared.append;
        let due = lease_ms(&append.lease).map(|ms| self.later(ms));
        let (hash, version, usage) = (prepared.head_hash(), prepared.new_version(), &append.usage);
        let status = append.status.as_str();
        let mut values: Vec<&dyn ToSql> = vec![
            &append.run_id.0,
            &append.expected_version,
            &append.expected_epoch,
            &version,
            &hash,
            &status,
            &usage.input_tokens,
            &usage.output_tokens,
            &usage.cost_microusd,
            &time,
        ];
        let statement = match &append.lease {
            Lease::Keep => &mut self.keep,
            Lease::Claim { owner, .. } => {
                values.extend([owner as &dyn ToSql, &due, &self.at]);
                &mut self.claim
            }
            Lease::Release { .. } => {
                values.push(&due);
                &mut self.release
            }
        };
        let moved = statement.execute(&*values)?;
        if moved == 0 {
            return Ok(None);
        }
        let next = if append.status.is_terminal() {
            let mut next = self.tx.prepare_cached(NEXT_RUN)?;
            next.query_row([append.run_id.0], |row| row.get::<_, Uuid>(0))
                .optional()?
        } else {
            None
        };
        let claimed = matches!(append.lease, Lease::Claim { .. });
        Ok(Some((append.expected_epoch + u64::from(claimed), next.map(RunId))))
    }
}
