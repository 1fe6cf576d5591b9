//! One SQL text for both databases: `$1` placeholders, five kinds of values, rows by column name.
//!
//! For everything but the append and the read that a run begins with, for which each database has its own way.

use std::{borrow::Cow, path::Path, str::FromStr, sync::Arc, time::Duration};

use rusqlite::types::FromSql;
use sqlx::{
    AssertSqlSafe, Connection, Decode, Executor, PgPool, Postgres, Row as _, SqliteConnection, Transaction, Type,
    migrate::{Migration, MigrationType, Migrator},
    postgres::{PgArguments, PgConnectOptions, PgPoolOptions, PgRow},
    sqlite::SqliteConnectOptions,
};
use uuid::Uuid;

use super::{
    Error,
    file::{BUSY_MAX, Change, File},
    statement::FileRow,
};
use crate::run::Time;

const CONNECTIONS_MAX: u32 = 16;
/// A single statement of a client's request or of the bookkeeping that has not been answered by then never will be: the
/// server is frozen, or the network is. Transactions (rebuilds, checks) take the time they need.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Waits for an answer, for a while.
pub(super) async fn in_time<T, E: Into<Error>>(answer: impl Future<Output = Result<T, E>>) -> Result<T, Error> {
    match tokio::time::timeout(ANSWER_MAX, answer).await {
        Ok(answer) => answer.map_err(Into::into),
        Err(_) => Err(Error::Unavailable(format!(
            "no answer within {} s",
            ANSWER_MAX.as_secs()
        ))),
    }
}
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that was idle for longer may have died with its server: it is tried before it is used, or each of a
/// pool would fail one request after a restart of the database. A busy one is not, that would double the round trips.
const IDLE_UNTRIED_MAX: Duration = Duration::from_millis(500);

/// A database: a pool of connections to Postgres, or to a SQLite file with its one writer.
#[derive(Clone, Debug)]
pub enum Db {
    Postgres(PgPool),
    Sqlite(Arc<File>),
}

impl Db {
    /// `postgres://user@host/db` or `sqlite://PATH`.
    pub async fn connect(url: &str) -> Result<Self, Error> {
        if let Some(path) = url.strip_prefix("sqlite://") {
            return Self::open_file(Path::new(path)).await;
        }
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            // The URL may hold a password: only its scheme is repeated.
            let scheme = url.split(':').next().unwrap_or_default();
            let message = format!("a database URL starts with postgres:// or sqlite://, not {scheme:?}");
            return Err(Error::Refused(message));
        }
        let options = PgConnectOptions::from_str(url)
            .map_err(|error| Error::Refused(format!("the database URL does not read: {error}")))?
            .application_name("steadfast")
            // Little is asked for, however much there is: these keep the plans at index look-ups. A plan is made once, by each
            // connection; made while a table was empty or small, it would go on to read that table whole.
            .options([
                // A transaction whose process is frozen would hold back every reader of the log.
                ("idle_in_transaction_session_timeout", "60s"),
                ("plan_cache_mode", "force_generic_plan"),
                ("enable_hashjoin", "off"),
                ("enable_mergejoin", "off"),
                ("enable_seqscan", "off"),
                ("jit", "off"),
            ]);
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS_MAX)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .test_before_acquire(false)
            .before_acquire(|connection, meta| {
                Box::pin(async move { Ok(meta.idle_for < IDLE_UNTRIED_MAX || connection.ping().await.is_ok()) })
            })
            .connect_lazy_with(options);
        Ok(Self::Postgres(pool))
    }

    async fn open_file(path: &Path) -> Result<Self, Error> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder)
                .map_err(|error| Error::Unavailable(format!("cannot create {}: {error}", folder.display())))?;
        }
        Ok(Self::Sqlite(Arc::new(File::open(path).await?)))
    }

    pub fn is_postgres(&self) -> bool {
        matches!(self, Self::Postgres(_))
    }

    /// Brings the schema to this build's version. Safe to run from many processes at once, and again.
    pub async fn migrate(&self) -> Result<(), Error> {
        let mut migrator = Migrator::with_migrations(migrations(self.is_postgres()));
        // A newer build has been here. Migrations only add, so this one can still work: an upgrade can be taken back.
        migrator.set_ignore_missing(true);
        let done = match self {
            Self::Postgres(pool) => migrator.run(pool).await,
            Self::Sqlite(file) => {
                let _turn = file.turn().await?;
                let options = SqliteConnectOptions::new().filename(file.path()).busy_timeout(BUSY_MAX);
                let mut connection = SqliteConnection::connect_with(&options).await?;
                let done = migrator.run(&mut connection).await;
                connection.close().await?;
                done
            }
        };
        done.map_err(|error| match error {
            sqlx::migrate::MigrateError::Execute(error) => error.into(),
            other => Error::Refused(format!("migration: {other}")),
        })?;
        self.remember_cluster().await
    }

    /// The migrations this build knows and the database lacks, by name.
    pub async fn missing_migrations(&self) -> Result<Vec<String>, Error> {
        let applied: Vec<i64> = match self
            .fetch("select version from _sqlx_migrations where success", &[])
            .await
        {
            Ok(rows) => rows.iter().map(|row| row.get("version")).collect::<Result<_, _>>()?,
            Err(Error::Refused(_)) => Vec::new(),
            Err(error) => return Err(error),
        };
        Ok((migrations(self.is_postgres()).iter())
            .filter(|migration| !applied.contains(&migration.version))
            .map(|migration| migration.description.to_string())
            .collect())
    }

    pub async fn execute(&self, sql: &str, args: &[Value]) -> Result<u64, Error> {
        Ok(match self {
            Self::Postgres(pool) => in_time(query(sql, args)?.execute(pool)).await?.rows_affected(),
            Self::Sqlite(file) => file.execute(sql, args).await?,
        })
    }

    /// For statements that only read.
    pub async fn fetch(&self, sql: &str, args: &[Value]) -> Result<Vec<Row>, Error> {
        Ok(match self {
            Self::Postgres(pool) => rows(in_time(query(sql, args)?.fetch_all(pool)).await?),
            Self::Sqlite(file) => rows(in_time(file.fetch(sql, args)).await?),
        })
    }

    /// For statements that write and answer rows (`returning`).
    pub async fn fetch_writing(&self, sql: &str, args: &[Value]) -> Result<Vec<Row>, Error> {
        Ok(match self {
            Self::Postgres(pool) => rows(in_time(query(sql, args)?.fetch_all(pool)).await?),
            Self::Sqlite(file) => rows(file.fetch_writing(sql, args).await?),
        })
    }

    /// A transaction. On SQLite it takes the write lock at once, so it never fails half way for a reader's sake.
    pub async fn begin(&self) -> Result<Tx, Error> {
        Ok(match self {
            Self::Postgres(pool) => Tx::Postgres(pool.begin().await?),
            Self::Sqlite(file) => Tx::Sqlite(file.begin().await?),
        })
    }

    pub async fn close(&self) {
        match self {
            Self::Postgres(pool) => pool.close().await,
            Self::Sqlite(file) => file.close().await,
        }
    }
}

/// Dropped without a commit, it never happened.
pub enum Tx {
    Postgres(Transaction<'static, Postgres>),
    Sqlite(Change),
}

impl Tx {
    pub async fn execute(&mut self, sql: &str, args: &[Value]) -> Result<u64, Error> {
        Ok(match self {
            Self::Postgres(tx) => tx.execute(query(sql, args)?).await?.rows_affected(),
            Self::Sqlite(tx) => tx.execute(sql, args).await?,
        })
    }

    pub async fn fetch(&mut self, sql: &str, args: &[Value]) -> Result<Vec<Row>, Error> {
        Ok(match self {
            Self::Postgres(tx) => rows(tx.fetch_all(query(sql, args)?).await?),
            Self::Sqlite(tx) => rows(tx.fetch(sql, args).await?),
        })
    }

    pub async fn commit(self) -> Result<(), Error> {
        match self {
            Self::Postgres(tx) => Ok(tx.commit().await?),
            Self::Sqlite(tx) => tx.commit().await,
        }
    }

    pub async fn rollback(self) -> Result<(), Error> {
        match self {
            Self::Postgres(tx) => Ok(tx.rollback().await?),
            Self::Sqlite(tx) => tx.rollback().await,
        }
    }
}

/// A bound value; `None` is null, and still knows its type.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Int(Option<i64>),
    Text(Option<String>),
    Bytes(Option<Vec<u8>>),
    Uuid(Option<Uuid>),
    Time(Option<Time>),
}

macro_rules! values {
    ($($from:ty => $variant:ident, $convert:expr;)*) => {
        $(impl From<$from> for Value { fn from(value: $from) -> Self { Self::$variant(Some($convert(value))) } }
        impl From<Option<$from>> for Value {
            fn from(value: Option<$from>) -> Self { Self::$variant(value.map($convert)) }
        })*
    };
}

values! {
    i64 => Int, |value| value;
    i32 => Int, i64::from;
    u32 => Int, i64::from;
    // Numbers of this size do not occur; if one did, the largest bigint is the honest neighbour.
    u64 => Int, |value| i64::try_from(value).unwrap_or(i64::MAX);
    String => Text, |value| value;
    &str => Text, str::to_owned;
    Vec<u8> => Bytes, |value| value;
    Uuid => Uuid, |value| value;
    Time => Time, |value| value;
}

/// For Postgres.
fn query(sql: &str, values: &[Value]) -> Result<sqlx::query::Query<'static, Postgres, PgArguments>, sqlx::Error> {
    use sqlx::Arguments;
    let mut args = PgArguments::default();
    for value in values {
        match value {
            Value::Int(value) => args.add(*value),
            Value::Text(value) => args.add(value.as_deref()),
            Value::Bytes(value) => args.add(value.as_deref()),
            Value::Uuid(value) => args.add(*value),
            Value::Time(value) => args.add(*value),
        }
        .map_err(sqlx::Error::Encode)?;
    }
    Ok(sqlx::query_with(AssertSqlSafe(sql.to_owned()), args))
}

/// Always the same length, so times compare as text.
pub(super) fn lite_time(time: Time) -> String {
    time.to_rfc3339_opts(chrono::SecondsFormat::Micros, false)
}

/// One row of an answer.
pub enum Row {
    Postgres(PgRow),
    Sqlite(FileRow),
}

impl From<PgRow> for Row {
    fn from(row: PgRow) -> Self {
        Self::Postgres(row)
    }
}

impl From<FileRow> for Row {
    fn from(row: FileRow) -> Self {
        Self::Sqlite(row)
    }
}

fn rows<R: Into<Row>>(rows: Vec<R>) -> Vec<Row> {
    rows.into_iter().map(Into::into).collect()
}

impl Row {
    pub fn get<'r, T>(&'r self, column: &str) -> Result<T, Error>
    where
        T: Decode<'r, Postgres> + Type<Postgres> + FromSql,
    {
        match self {
            Self::Postgres(row) => Ok(row.try_get(column)?),
            Self::Sqlite(row) => row.get(column),
        }
    }

    /// A number that cannot be negative.
    pub fn count(&self, column: &str) -> Result<u64, Error> {
        let value: i64 = self.get(column)?;
        u64::try_from(value).map_err(|_| Error::Refused(format!("column {column} is negative: {value}")))
    }

    /// The three columns every table with usage has.
    pub fn usage(&self) -> Result<crate::run::Usage, Error> {
        Ok(crate::run::Usage {
            input_tokens: self.count("input_tokens")?,
            output_tokens: self.count("output_tokens")?,
            cost_microusd: self.count("cost_microusd")?,
        })
    }

    pub fn hash(&self, column: &str) -> Result<super::Hash, Error> {
        let bytes: Vec<u8> = self.get(column)?;
        bytes
            .try_into()
            .map_err(|_| Error::Refused(format!("column {column} does not hold 32 bytes")))
    }

    pub fn tenant(&self, column: &str) -> Result<crate::run::TenantId, Error> {
        tenant(column, &self.get::<String>(column)?)
    }
}

pub(super) fn tenant(column: &str, text: &str) -> Result<crate::run::TenantId, Error> {
    text.parse()
        .map_err(|error| Error::Refused(format!("column {column}: {error}")))
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        // Shutdowns, restarts, full disks, lost connections, deadlocks and time-outs pass; the rest does not.
        const PASSING: [&str; 7] = ["08", "53", "57", "58", "40", "25", "55"];
        match &error {
            sqlx::Error::Database(database) => {
                let code = database.code().unwrap_or(Cow::Borrowed(""));
                let passing = match database.try_downcast_ref::<sqlx::postgres::PgDatabaseError>() {
                    Some(_) => PASSING.iter().any(|class| code.starts_with(class)),
                    // SQLite: 5 busy, 6 locked, 10 I/O, 13 full; the low byte is the primary code.
                    None => code
                        .parse::<u32>()
                        .is_ok_and(|code| matches!(code & 0xff, 5 | 6 | 10 | 13)),
                };
                let message = format!("{} ({code})", database.message());
                if passing {
                    Self::Unavailable(message)
                } else {
                    Self::Refused(message)
                }
            }
            // sqlx keeps a refused connection to itself and tries until the time is up.
            sqlx::Error::PoolTimedOut => Self::Unavailable(format!(
                "no connection to the database within {} s: it is away, refuses us, or every connection is in use",
                ACQUIRE_TIMEOUT.as_secs()
            )),
            sqlx::Error::RowNotFound
            | sqlx::Error::ColumnNotFound(_)
            | sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::ColumnIndexOutOfBounds { .. }
            | sqlx::Error::TypeNotFound { .. }
            | sqlx::Error::Decode(_)
            | sqlx::Error::Encode(_)
            | sqlx::Error::Configuration(_) => Self::Refused(error.to_string()),
            _ => Self::Unavailable(error.to_string()),
        }
    }
}

/// Migrations are never edited once released: a new file is added.
fn migrations(postgres: bool) -> Vec<Migration> {
    type File = (i64, &'static str, &'static str, Option<&'static str>);
    const FILES: [File; 4] = [
        (
            1,
            "event store",
            include_str!("../../migrations/postgres/0001_event_store.sql"),
            Some(include_str!("../../migrations/sqlite/0001_event_store.sql")),
        ),
        (
            2,
            "provider states",
            include_str!("../../migrations/postgres/0002_provider_states.sql"),
            Some(include_str!("../../migrations/sqlite/0002_provider_states.sql")),
        ),
        (
            3,
            "log generations",
            include_str!("../../migrations/postgres/0003_log_generations.sql"),
            None,
        ),
        (
            4,
            "held runs",
            include_str!("../../migrations/postgres/0004_held_runs.sql"),
            Some(include_str!("../../migrations/sqlite/0004_held_runs.sql")),
        ),
    ];
    FILES
        .iter()
        .filter_map(|(version, name, pg, lite)| {
            let sql = sqlx::SqlSafeStr::into_sql_str(if postgres { *pg } else { (*lite)? });
            let name = Cow::Borrowed(*name);
            Some(Migration::new(*version, name, MigrationType::Simple, sql, false))
        })
        .collect()
}
