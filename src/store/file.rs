//! A SQLite file: its connections, whose turn it is to write, and its log.
//!
//! Each connection is used by one thread at a time, and each piece of work on it blocks that thread (docs/decisions/0029). No
//! commit waits for a checkpoint: SQLite's log is put into the file beside the commits (docs/decisions/0028).

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rusqlite::{Connection, OpenFlags};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    Error, Prepared, blocking, detached,
    loads::{ByRun, Wanted},
    sql::Value,
    sqlite::{self, Winners},
    statement::{FileRow, Statement},
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
    /// Ends the checkpoints.
    _guard: DropGuard,
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
            _guard: stop.clone().drop_guard(),
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
        let turn = turn.map_err(|_| busy("the database file was"))?;
        self.turns.taken.store(true, Ordering::Relaxed);
        Ok(turn)
    }

    /// Winners of the batch; whoever is missing lost.
    pub async fn append(&self, batch: &[Arc<Prepared>], now: Time) -> Result<Winners, Error> {
        let batch = batch.to_vec();
        let write = move |connection: &mut Connection| Ok(sqlite::write(connection, &batch, now)?);
        self.in_turn(&self.append, write).await
    }

    /// Heads and first events of many runs.
    pub async fn load(&self, wanted: &[Wanted]) -> Result<ByRun, Error> {
        let wanted = wanted.to_vec();
        let load = move |connection: &mut Connection| sqlite::load(connection, &wanted);
        self.load.clone().beside(load).await
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
        self.in_turn(&self.write, move |connection| statement.execute(connection))
            .await
    }

    /// For statements that write and answer rows (`returning`).
    pub async fn fetch_writing(&self, sql: &str, args: &[Value]) -> Result<Vec<FileRow>, Error> {
        let statement = Statement::new(sql, args);
        self.in_turn(&self.write, move |connection| statement.fetch(connection))
            .await
    }

    async fn in_turn<T: Send + 'static>(
        &self,
        own: &Own,
        work: impl FnOnce(&mut Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let turn = self.turn().await?;
        let beside = own.clone().beside(move |connection| {
            let _turn = turn;
            work(connection)
        });
        beside.await
    }

    /// It has the write lock at once, so it never fails half way for a reader's sake.
    pub async fn begin(&self) -> Result<Change, Error> {
        // Before it begins: cut off then, it is rolled back as well.
        let change = Change {
            own: self.write.clone(),
            turn: Some(self.turn().await?),
        };
        let begin = |connection: &mut Connection| Ok(connection.execute_batch("begin immediate")?);
        change.own.clone().beside(begin).await?;
        Ok(change)
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

fn busy(what: &str) -> Error {
    Error::Unavailable(format!("{what} busy for {} s", BUSY_MAX.as_secs()))
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
        let mut connection = match std::mem::take(&mut *state) {
            State::Unopened => open(&self.path, self.mode)?,
            State::Open(connection) => connection,
            State::Closed => {
                *state = State::Closed;
                return Err(closed());
            }
        };
        let done = work(&mut connection)?;
        *state = State::Open(connection);
        Ok(done)
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

/// A connection that reads; dropped, it is free again.
struct Reading {
    own: Own,
    readers: Arc<Readers>,
    _place: OwnedSemaphorePermit,
}

impl Readers {
    async fn place(readers: &Arc<Self>) -> Result<Reading, Error> {
        let place = tokio::time::timeout(BUSY_MAX, readers.places.clone().acquire_owned()).await;
        let place = place.map_err(|_| busy("all connections that read were"))?;
        let place = place.map_err(|_| closed())?;
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

/// A transaction. Dropped without a commit, it never happened; dropped within one, it may have.
pub struct Change {
    own: Own,
    /// None: it has ended.
    turn: Option<Turn>,
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
        self.work(|connection| Ok(connection.execute_batch("commit")?)).await?;
        self.turn = None;
        Ok(())
    }

    pub async fn rollback(mut self) -> Result<(), Error> {
        let turn = self.turn.take();
        let rolled_back = self.own.clone().beside(move |connection| {
            let _turn = turn;
            roll_back(connection)
        });
        rolled_back.await
    }

    async fn work<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let within = self.own.clone().beside(move |connection| {
            // It ends with the first error, as on Postgres: what came after it would be committed by itself.
            if connection.is_autocommit() {
                return Err(Error::Unavailable("the transaction was cut off".into()));
            }
            work(connection)
        });
        within.await
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        let Some(turn) = self.turn.take() else { return };
        let own = self.own.clone();
        // After what is still under way; it is nobody else's turn before.
        detached(move || {
            let _turn = turn;
            // A connection that cannot roll back is closed, which does the same.
            let _ = own.work(roll_back);
        });
    }
}

fn roll_back(connection: &mut Connection) -> Result<(), Error> {
    if !connection.is_autocommit() {
        connection.execute_batch("rollback")?;
    }
    Ok(())
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
    use std::sync::atomic::AtomicUsize;

    use futures::FutureExt;

    use super::*;

    /// A file in a folder of its own, gone afterwards.
    struct Opened {
        file: File,
        folder: PathBuf,
    }

    impl Opened {
        async fn new() -> Self {
            static NEXT: AtomicUsize = AtomicUsize::new(0);
            let (process, number) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
            let folder = std::env::temp_dir().join(format!("steadfast-file-{process}-{number}"));
            std::fs::create_dir(&folder).expect("a folder");
            let file = File::open(&folder.join("db")).await.expect("opens");
            let opened = Self { file, folder };
            opened.run("create table t (n integer primary key)").await;
            opened
        }

        async fn run(&self, sql: &str) {
            self.file.execute(sql, &[]).await.expect(sql);
        }

        async fn numbers(&self) -> Vec<i64> {
            let rows = self.file.fetch("select n from t order by n", &[]).await.expect("reads");
            rows.iter().map(|row| row.get("n").expect("a number")).collect()
        }
    }

    impl Drop for Opened {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }

    const PUT: &str = "insert into t (n) values ($1)";

    async fn puts(change: &mut Change, number: i64) -> Result<(), Error> {
        let rows = change.execute(PUT, &[number.into()]).await?;
        assert_eq!(rows, 1);
        Ok(())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_transaction_happens_as_a_whole_or_not_at_all() {
        let opened = Opened::new().await;
        for ended in ["dropped", "rolled back", "committed"] {
            let mut change = opened.file.begin().await.expect("begins");
            puts(&mut change, 1).await.expect(ended);
            match ended {
                "dropped" => drop(change),
                "rolled back" => change.rollback().await.expect("rolls back"),
                _ => change.commit().await.expect("commits"),
            }
        }
        assert_eq!(opened.numbers().await, [1]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn after_an_error_nothing_of_a_transaction_is_written() {
        let opened = Opened::new().await;
        let mut change = opened.file.begin().await.expect("begins");
        puts(&mut change, 1).await.expect("written");
        let again = puts(&mut change, 1).await;
        assert!(matches!(again, Err(Error::Refused(_))), "{again:?}");
        let after = puts(&mut change, 2).await;
        assert!(matches!(after, Err(Error::Unavailable(_))), "{after:?}");
        let committed = change.commit().await;
        assert!(matches!(committed, Err(Error::Unavailable(_))), "{committed:?}");
        opened.run("insert into t (n) values (3)").await;
        assert_eq!(opened.numbers().await, [3]);
    }

    /// Whoever stops waiting for a statement does not stop it: nobody else may write before it has ended.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_transaction_that_is_cut_off_in_a_statement_keeps_its_turn_until_it_is_rolled_back() {
        const LONG: &str =
            "insert into t (n) with recursive r(n) as (select 10 union all select n + 1 from r where n < 300000)
                            select n from r";
        let opened = Opened::new().await;
        let mut change = opened.file.begin().await.expect("begins");
        let waited_for = change.execute(LONG, &[]).now_or_never();
        drop(change);
        assert!(waited_for.is_none(), "it had ended at once: {waited_for:?}");
        opened.run("insert into t (n) values (3)").await;
        assert_eq!(opened.numbers().await, [3]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn columns_have_their_names_of_now() {
        let opened = Opened::new().await;
        opened.run("insert into t (n) values (3)").await;
        let names = async || {
            let rows = opened.file.fetch("select * from t", &[]).await.expect("reads");
            rows[0].columns().to_vec()
        };
        assert_eq!(names().await, ["n"]);
        opened.run("alter table t rename column n to m").await;
        assert_eq!(names().await, ["m"]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_panic_is_an_error_and_nothing_else_is_lost() {
        let opened = Opened::new().await;
        for own_thread in [false, true] {
            let own = opened.file.write.clone();
            let panics = async move { own.beside(|_| -> Result<(), Error> { panic!("on purpose") }).await };
            let done = if own_thread {
                let (sender, done) = tokio::sync::oneshot::channel();
                drop(super::super::own_thread("panics", async move {
                    let _ = sender.send(panics.await);
                }));
                done.await.expect("the thread goes on")
            } else {
                panics.await
            };
            assert!(matches!(done, Err(Error::Unavailable(_))), "{done:?}");
            opened.run("insert or ignore into t (n) values (3)").await;
        }
        assert_eq!(opened.numbers().await, [3]);
    }
}
