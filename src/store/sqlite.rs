//! The two hot paths on SQLite: the append, and the read that every run begins with.
//!
//! A statement costs little here and a change of threads much, so a batch is written, or read, in one go on a connection
//! of its own, not statement by statement and row by row through sqlx's threads (docs/decisions/0026). And no commit waits
//! for a checkpoint: SQLite's log is put into the file beside the commits (docs/decisions/0028).

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use chrono::SubsecRound;
use rusqlite::{
    CachedStatement, Connection, OpenFlags, OptionalExtension, Row, ToSql, Transaction, TransactionBehavior, params,
};
use tokio::task::JoinError;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use super::{
    Accept, Error, Head, Idempotency, Lease, Prepared, StoredEvent,
    loads::{ByRun, Wanted},
    postgres::{lease_ms, millis},
    rows::status_of,
    sql::{lite_time, tenant},
};
use crate::run::{RunId, SessionId, Time, Usage};

/// The way past sqlx.
#[derive(Clone, Debug)]
pub struct Direct {
    turns: Turns,
    append: Own,
    load: Own,
    log: Own,
    stop: CancellationToken,
    /// Ends the checkpoints with the last of these handles.
    _guard: Arc<DropGuard>,
}

/// Held by whoever writes: SQLite lets others fail or sleep, and wakes nobody in turn.
pub type Turn = tokio::sync::OwnedMutexGuard<()>;

#[derive(Clone, Debug, Default)]
struct Turns {
    turn: Arc<tokio::sync::Mutex<()>>,
    /// Since the last checkpoint.
    taken: Arc<AtomicBool>,
}

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

/// How often SQLite's log is put into the file, while something is written: it holds what was written meanwhile.
const CHECKPOINT_EVERY: Duration = Duration::from_millis(500);
/// So long whoever writes waits for readers of the log, at the most, so that it can begin anew.
const READERS_MAX: Duration = Duration::from_millis(20);
/// A log that had to grow beyond this is cut to it when it begins anew.
pub const LOG_BYTES_KEPT: u32 = 64 * 1024 * 1024;
/// After a checkpoint that failed.
const CHECKPOINT_AGAIN: Duration = Duration::from_secs(5);

/// As for sqlx's connections.
const BUSY_MAX: Duration = Duration::from_secs(5);
const STATEMENTS_MAX: usize = 32;

type Winner = (u64, Option<RunId>);
type Winners = HashMap<RunId, Winner>;

impl Direct {
    /// To be called within a runtime: it begins the checkpoints.
    pub fn new(file: &Path) -> Self {
        let (turns, log) = (Turns::default(), Own::new(file));
        let stop = CancellationToken::new();
        let keeping = keep_log_short(turns.clone(), log.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(keeping));
        Self {
            turns,
            append: Own::new(file),
            load: Own::new(file),
            log,
            _guard: Arc::new(stop.clone().drop_guard()),
            stop,
        }
    }

    pub async fn turn(&self) -> Result<Turn, Error> {
        self.turns.next().await
    }

    /// Winners of the batch; whoever is missing lost. Once it has the turn it blocks: see [`super::own_thread`].
    pub async fn write(&self, batch: &[Arc<Prepared>], now: Time) -> Result<Winners, Error> {
        let _turn = self.turn().await?;
        self.append.work(|connection| Ok(write(connection, batch, now)?))
    }

    /// Heads and first events of many runs. It blocks: see [`super::own_thread`].
    pub fn load(&self, wanted: &[Wanted]) -> Result<ByRun, Error> {
        self.load.work(|connection| load(connection, wanted))
    }

    /// Once what is under way has ended. Whoever closes the file last puts its log into it.
    pub async fn close(&self) {
        self.stop.cancel();
        for own in [&self.append, &self.load, &self.log] {
            // It cannot fail but by the end of the runtime; the end of the process closes it too.
            let _ = own.on_blocking_thread(Own::close).await;
        }
    }
}

impl Turns {
    async fn next(&self) -> Result<Turn, Error> {
        let turn = tokio::time::timeout(BUSY_MAX, self.turn.clone().lock_owned()).await;
        let busy = |_| Error::Unavailable(format!("the database file was busy for {} s", BUSY_MAX.as_secs()));
        let turn = turn.map_err(busy)?;
        self.taken.store(true, Ordering::Relaxed);
        Ok(turn)
    }
}

/// Keeps SQLite's log short. A commit that did so itself would wait for the disk many times as long as for its own pages,
/// and whatever is to be written next with it.
async fn keep_log_short(turns: Turns, log: Own) {
    loop {
        tokio::time::sleep(CHECKPOINT_EVERY).await;
        if !turns.taken.swap(false, Ordering::Relaxed) {
            continue;
        }
        match checkpoint(&turns, &log).await {
            Ok(Reached::End) => {}
            Ok(Reached::Reader) => turns.taken.store(true, Ordering::Relaxed),
            Err(error) => {
                tracing::warn!(%error, "SQLite's log could not be put into the database file; it will be tried again");
                turns.taken.store(true, Ordering::Relaxed);
                tokio::time::sleep(CHECKPOINT_AGAIN).await;
            }
        }
    }
}

/// How far a checkpoint came.
enum Reached {
    End,
    /// One who still needs what the file, or the log, holds. Next time it goes on from there.
    Reader,
}

async fn checkpoint(turns: &Turns, log: &Own) -> Result<Reached, Error> {
    let ended = |error| Error::Unavailable(format!("a checkpoint was cut off: {error}"));
    // Most pages are copied while others write.
    let most = log.on_blocking_thread(|log| log.work(|connection| into_file(connection, "passive")));
    most.await.map_err(ended)??;
    // The rest, and what the disk takes for all of them, while nobody writes: a log begins anew only when all of it is in
    // the file and whoever reads has seen that. Else it would grow for as long as something is written.
    let turn = turns.turn.clone().lock_owned().await;
    let rest = log.on_blocking_thread(move |log| {
        let _turn = turn;
        log.work(|connection| into_file(connection, "restart"))
    });
    rest.await.map_err(ended)?
}

/// Readers who take longer than [`READERS_MAX`] are not waited for: it goes as far as they let it.
fn into_file(connection: &mut Connection, mode: &str) -> Result<Reached, Error> {
    connection.busy_timeout(READERS_MAX)?;
    let pragma = format!("pragma wal_checkpoint({mode})");
    let stopped: bool = connection.query_row(&pragma, [], |row| row.get(0))?;
    Ok(if stopped { Reached::Reader } else { Reached::End })
}

/// A connection that only one thread at a time uses.
#[derive(Clone, Debug)]
struct Own {
    file: PathBuf,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Unopened,
    Open(Connection),
    Closed,
}

impl Own {
    fn new(file: &Path) -> Self {
        Self {
            file: file.into(),
            state: Arc::default(),
        }
    }

    fn work<T>(&self, work: impl FnOnce(&mut Connection) -> Result<T, Error>) -> Result<T, Error> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // After an error, or a panic, the connection's state is unknown; a new one is cheap.
        let mut connection = match std::mem::take(&mut *state) {
            State::Unopened => open(&self.file)?,
            State::Open(connection) => connection,
            State::Closed => {
                *state = State::Closed;
                return Err(Error::Unavailable("the database file is closed".into()));
            }
        };
        // A panic ends neither the thread nor what else is done on it.
        let working = catch_unwind(AssertUnwindSafe(|| work(&mut connection)));
        let panicked = |_| Error::Unavailable("work on the database file panicked".into());
        let done = working.map_err(panicked)??;
        *state = State::Open(connection);
        Ok(done)
    }

    fn close(&self) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = State::Closed;
    }

    /// Goes on to its end also when nobody waits for it any more.
    async fn on_blocking_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        let own = self.clone();
        tokio::task::spawn_blocking(move || work(&own)).await
    }
}

/// The file is there: sqlx has made it.
fn open(file: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(
        file,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    connection.busy_timeout(BUSY_MAX)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.pragma_update(None, "journal_size_limit", LOG_BYTES_KEPT)?;
    Ok(connection)
}

fn load(connection: &mut Connection, wanted: &[Wanted]) -> Result<ByRun, Error> {
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

fn write(connection: &mut Connection, batch: &[Arc<Prepared>], now: Time) -> rusqlite::Result<Winners> {
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

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode::{CannotOpen, DatabaseBusy, DatabaseLocked, DiskFull, SystemIoFailure};
        let passing = matches!(
            error.sqlite_error_code(),
            Some(DatabaseBusy | DatabaseLocked | SystemIoFailure | DiskFull | CannotOpen)
        );
        if passing {
            Self::Unavailable(error.to_string())
        } else {
            Self::Refused(error.to_string())
        }
    }
}
