//! A SQLite file: its connections, whose turn it is to write, and its log.
//!
//! Each connection is used by one thread at a time, and each piece of work on it blocks that thread (docs/decisions/0029). No
//! commit waits for a checkpoint: SQLite's log is put into the file beside the commits (docs/decisions/0028).

use std::{
    borrow::Cow,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rusqlite::{
    CachedStatement, Connection, OpenFlags,
    types::{FromSql, ValueRef},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    Error, Prepared, blocking,
    loads::{ByRun, Wanted},
    sql::{Value, lite_time},
    sqlite::{self, Winners},
};
use crate::run::Time;

#[derive(Debug)]
pub struct File {
    path: PathBuf,
    turns: Turns,
    append: Own,
    load: Own,
    /// For what is written otherwise.
    write: Own,
    log: Own,
    readers: Arc<Readers>,
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

/// How often SQLite's log is put into the file, while something is written: it holds what was written meanwhile.
const CHECKPOINT_EVERY: Duration = Duration::from_millis(500);
/// So long whoever writes waits for readers of the log, at the most, so that it can begin anew.
const READERS_MAX: Duration = Duration::from_millis(20);
/// A log that had to grow beyond this is cut to it when it begins anew.
const LOG_BYTES_KEPT: u32 = 64 * 1024 * 1024;
/// After a checkpoint that failed.
const CHECKPOINT_AGAIN: Duration = Duration::from_secs(5);

/// For a turn, for a connection that reads, and for another process.
pub const BUSY_MAX: Duration = Duration::from_secs(5);
const READING_MAX: usize = 4;
const STATEMENTS_MAX: usize = 256;

impl File {
    /// Opens it, and makes it where there is none. To be called within a runtime: it begins the checkpoints.
    pub async fn open(path: &Path) -> Result<Self, Error> {
        let own = |mode| Own::new(path, mode);
        let (turns, log) = (Turns::default(), own(Mode::Write));
        let stop = CancellationToken::new();
        let keeping = keep_log_short(turns.clone(), log.clone());
        let file = Self {
            path: path.into(),
            turns,
            append: own(Mode::Write),
            load: own(Mode::Write),
            write: own(Mode::Make),
            log,
            readers: Arc::new(Readers {
                path: path.into(),
                free: Mutex::default(),
                places: Arc::new(Semaphore::new(READING_MAX)),
            }),
            _guard: Arc::new(stop.clone().drop_guard()),
            stop,
        };
        file.write.clone().beside(|_| Ok(())).await?;
        tokio::spawn(file.stop.clone().run_until_cancelled_owned(keeping));
        Ok(file)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub async fn turn(&self) -> Result<Turn, Error> {
        let turn = tokio::time::timeout(BUSY_MAX, self.turns.turn.clone().lock_owned()).await;
        let turn = turn.map_err(|_| busy())?;
        self.turns.taken.store(true, Ordering::Relaxed);
        Ok(turn)
    }

    /// Winners of the batch; whoever is missing lost. Once it has the turn it blocks: see [`super::own_thread`].
    pub async fn append(&self, batch: &[Arc<Prepared>], now: Time) -> Result<Winners, Error> {
        let _turn = self.turn().await?;
        self.append
            .work(|connection| Ok(sqlite::write(connection, batch, now)?))
    }

    /// Heads and first events of many runs. It blocks: see [`super::own_thread`].
    pub fn load(&self, wanted: &[Wanted]) -> Result<ByRun, Error> {
        self.load.work(|connection| sqlite::load(connection, wanted))
    }

    /// For statements that only read.
    pub async fn fetch(&self, sql: &str, args: &[Value]) -> Result<Vec<FileRow>, Error> {
        let statement = Statement::new(sql, args);
        let reading = Readers::place(&self.readers).await?;
        blocking(move || reading.own.work(|connection| statement.fetch(connection))).await?
    }

    /// For statements that write; answers how many rows they changed.
    pub async fn execute(&self, sql: &str, args: &[Value]) -> Result<u64, Error> {
        let statement = Statement::new(sql, args);
        self.written(move |connection| statement.execute(connection)).await
    }

    /// For statements that write and answer rows (`returning`).
    pub async fn fetch_writing(&self, sql: &str, args: &[Value]) -> Result<Vec<FileRow>, Error> {
        let statement = Statement::new(sql, args);
        self.written(move |connection| statement.fetch(connection)).await
    }

    async fn written<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let turn = self.turn().await?;
        let beside = self.write.clone().beside(move |connection| {
            let _turn = turn;
            work(connection)
        });
        beside.await
    }

    /// It has the write lock at once, so it never fails half way for a reader's sake.
    pub async fn begin(&self) -> Result<Change, Error> {
        let (home, turn) = (self.write.clone(), self.turn().await?);
        let begun = blocking(move || {
            let connection = home.take()?;
            connection.execute_batch("begin immediate")?;
            Ok::<_, Error>(Change {
                connection: Some(connection),
                home,
                _turn: turn,
            })
        });
        begun.await?
    }

    /// Once what is under way has ended. Whoever closes the file last puts its log into it.
    pub async fn close(&self) {
        self.stop.cancel();
        self.readers.close().await;
        let _turn = self.turns.turn.lock().await;
        for own in [&self.append, &self.load, &self.write, &self.log] {
            let own = own.clone();
            // It cannot fail but by the end of the runtime; the end of the process closes it too.
            let _ = blocking(move || own.close()).await;
        }
    }
}

fn busy() -> Error {
    Error::Unavailable(format!("the database file was busy for {} s", BUSY_MAX.as_secs()))
}

fn closed() -> Error {
    Error::Unavailable("the database file is closed".into())
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
    // Most pages are copied while others write.
    log.clone()
        .beside(|connection| into_file(connection, "passive"))
        .await?;
    // The rest, and what the disk takes for all of them, while nobody writes: a log begins anew only when all of it is in
    // the file and whoever reads has seen that. Else it would grow for as long as something is written.
    let turn = turns.turn.clone().lock_owned().await;
    let rest = log.clone().beside(move |connection| {
        let _turn = turn;
        into_file(connection, "restart")
    });
    rest.await
}

/// Readers who take longer than [`READERS_MAX`] are not waited for: it goes as far as they let it.
fn into_file(connection: &mut Connection, mode: &str) -> Result<Reached, Error> {
    connection.busy_timeout(READERS_MAX)?;
    let pragma = format!("pragma wal_checkpoint({mode})");
    let stopped: bool = connection.query_row(&pragma, [], |row| row.get(0))?;
    Ok(if stopped { Reached::Reader } else { Reached::End })
}

#[derive(Clone, Copy, Debug)]
enum Mode {
    Read,
    Write,
    /// Also where there is no file yet.
    Make,
}

/// A connection that only one thread at a time uses.
#[derive(Clone, Debug)]
struct Own {
    path: PathBuf,
    mode: Mode,
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
    fn new(path: &Path, mode: Mode) -> Self {
        Self {
            path: path.into(),
            mode,
            state: Arc::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work<T>(&self, work: impl FnOnce(&mut Connection) -> Result<T, Error>) -> Result<T, Error> {
        let mut state = self.state();
        // After an error, or a panic, the connection's state is unknown; a new one is cheap.
        let mut connection = self.opened(&mut state)?;
        // A panic ends neither the thread nor what else is done on it.
        let working = catch_unwind(AssertUnwindSafe(|| work(&mut connection)));
        let panicked = |_| Error::Unavailable("work on the database file panicked".into());
        let done = working.map_err(panicked)??;
        *state = State::Open(connection);
        Ok(done)
    }

    /// Takes the connection out of `state`.
    fn opened(&self, state: &mut State) -> Result<Connection, Error> {
        match std::mem::take(state) {
            State::Unopened => Ok(open(&self.path, self.mode)?),
            State::Open(connection) => Ok(connection),
            State::Closed => {
                *state = State::Closed;
                Err(closed())
            }
        }
    }

    fn take(&self) -> Result<Connection, Error> {
        self.opened(&mut self.state())
    }

    fn give_back(&self, connection: Connection) {
        let mut state = self.state();
        if !matches!(*state, State::Closed) {
            *state = State::Open(connection);
        }
    }

    fn close(&self) {
        *self.state() = State::Closed;
    }

    /// Beside the task that waits for it; it goes on to its end also when that waits no more.
    async fn beside<T: Send + 'static>(
        self,
        work: impl FnOnce(&mut Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        blocking(move || self.work(work)).await?
    }
}

fn open(path: &Path, mode: Mode) -> rusqlite::Result<Connection> {
    let flags = match mode {
        Mode::Read => OpenFlags::SQLITE_OPEN_READ_ONLY,
        Mode::Write => OpenFlags::SQLITE_OPEN_READ_WRITE,
        Mode::Make => OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE,
    };
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(BUSY_MAX)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    if !matches!(mode, Mode::Read) {
        connection.pragma_update(None, "journal_mode", "wal")?;
        connection.pragma_update(None, "synchronous", "full")?;
        connection.pragma_update(None, "wal_autocheckpoint", 0)?;
        connection.pragma_update(None, "journal_size_limit", LOG_BYTES_KEPT)?;
    }
    Ok(connection)
}

/// Connections that only read: what reads long holds up no other.
#[derive(Debug)]
struct Readers {
    path: PathBuf,
    free: Mutex<Vec<Own>>,
    places: Arc<Semaphore>,
}

/// A connection that reads; dropped, the next one's.
struct Reading {
    own: Own,
    readers: Arc<Readers>,
    _place: OwnedSemaphorePermit,
}

impl Readers {
    async fn place(readers: &Arc<Self>) -> Result<Reading, Error> {
        let place = tokio::time::timeout(BUSY_MAX, readers.places.clone().acquire_owned()).await;
        let place = place.map_err(|_| busy())?.map_err(|_| closed())?;
        let free = readers.free().pop();
        Ok(Reading {
            own: free.unwrap_or_else(|| Own::new(&readers.path, Mode::Read)),
            readers: readers.clone(),
            _place: place,
        })
    }

    fn free(&self) -> MutexGuard<'_, Vec<Own>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn close(&self) {
        let all = self.places.acquire_many(READING_MAX as u32).await;
        self.places.close();
        drop(all);
        self.free().clear();
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.readers.free().push(self.own.clone());
    }
}

/// A transaction. Dropped without a commit, it never happened.
pub struct Change {
    /// None: lost with a piece of work that nobody waited for, or ended.
    connection: Option<Connection>,
    home: Own,
    _turn: Turn,
}

impl Change {
    pub async fn execute(&mut self, sql: &str, args: &[Value]) -> Result<u64, Error> {
        let statement = Statement::new(sql, args);
        self.work(move |connection| statement.execute(connection)).await
    }

    pub async fn fetch(&mut self, sql: &str, args: &[Value]) -> Result<Vec<FileRow>, Error> {
        let statement = Statement::new(sql, args);
        self.work(move |connection| statement.fetch(connection)).await
    }

    pub async fn commit(mut self) -> Result<(), Error> {
        self.work(|connection| Ok(connection.execute_batch("commit")?)).await
    }

    async fn work<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let ended = || Error::Unavailable("the transaction was cut off".into());
        let mut connection = self.connection.take().ok_or_else(ended)?;
        let working = blocking(move || {
            let done = work(&mut connection);
            (connection, done)
        });
        let (connection, done) = working.await?;
        self.connection = Some(connection);
        done
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else {
            return;
        };
        // One that cannot be rolled back is closed, which does the same.
        if connection.is_autocommit() || connection.execute_batch("rollback").is_ok() {
            self.home.give_back(connection);
        }
    }
}

/// A statement and its arguments, for whichever thread.
struct Statement {
    sql: String,
    args: Vec<rusqlite::types::Value>,
}

impl Statement {
    fn new(sql: &str, args: &[Value]) -> Self {
        Self {
            sql: numbered(sql).into_owned(),
            args: args.iter().map(bound).collect(),
        }
    }

    fn execute(&self, connection: &Connection) -> Result<u64, Error> {
        Ok(self.bind(connection)?.raw_execute()? as u64)
    }

    fn fetch(&self, connection: &Connection) -> Result<Vec<FileRow>, Error> {
        let mut statement = self.bind(connection)?;
        let columns: Arc<[String]> = statement.column_names().into_iter().map(Into::into).collect();
        let (mut found, mut rows) = (Vec::new(), statement.raw_query());
        while let Some(row) = rows.next()? {
            let values = (0..columns.len()).map(|at| row.get(at));
            found.push(FileRow {
                columns: columns.clone(),
                values: values.collect::<rusqlite::Result<_>>()?,
            });
        }
        Ok(found)
    }

    fn bind<'c>(&self, connection: &'c Connection) -> rusqlite::Result<CachedStatement<'c>> {
        let mut statement = connection.prepare_cached(&self.sql)?;
        for (at, arg) in self.args.iter().enumerate() {
            statement.raw_bind_parameter(at + 1, arg)?;
        }
        Ok(statement)
    }
}

/// To SQLite `$1` is a name, and `?1` the first place.
fn numbered(sql: &str) -> Cow<'_, str> {
    if !sql.contains('$') {
        return Cow::Borrowed(sql);
    }
    let mut chars = sql.chars().peekable();
    let mut text = String::with_capacity(sql.len());
    while let Some(char) = chars.next() {
        let is_place = char == '$' && chars.peek().is_some_and(char::is_ascii_digit);
        text.push(if is_place { '?' } else { char });
    }
    Cow::Owned(text)
}

fn bound(value: &Value) -> rusqlite::types::Value {
    use rusqlite::types::Value::{Blob, Integer, Null, Text};
    match value {
        Value::Int(value) => value.map_or(Null, Integer),
        Value::Text(value) => value.clone().map_or(Null, Text),
        Value::Bytes(value) => value.clone().map_or(Null, Blob),
        Value::Uuid(value) => value.map_or(Null, |id| Blob(id.as_bytes().into())),
        Value::Time(value) => value.map_or(Null, |time| Text(lite_time(time))),
    }
}

/// One row of an answer.
pub struct FileRow {
    columns: Arc<[String]>,
    values: Vec<rusqlite::types::Value>,
}

impl FileRow {
    pub fn get<T: FromSql>(&self, column: &str) -> Result<T, Error> {
        let unread = |why: String| Error::Refused(format!("column {column}: {why}"));
        let at = self.columns.iter().position(|name| name == column);
        let value = at.and_then(|at| self.values.get(at));
        let value = value.ok_or_else(|| unread("there is none of this name".into()))?;
        T::column_result(ValueRef::from(value)).map_err(|error| unread(error.to_string()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_numbered_and_nothing_else_is_touched() {
        assert_eq!(numbered("select $1, $12 from t"), "select ?1, ?12 from t");
        assert_eq!(numbered("select '$.a', '5 $'"), "select '$.a', '5 $'");
        assert!(matches!(numbered("values (?,?)"), Cow::Borrowed(_)));
    }
}
