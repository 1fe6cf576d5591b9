//! What has happened in a run, kept as rows of one table before the run goes on. Many runs share a commit, as in Steadfast
//! (`src/store/appender.rs`). For one process that is all; where two share the work (`shared.rs`) each run has a head as well.

use std::collections::{HashMap, HashSet};

use chat::Error;
use futures::FutureExt;
use rusqlite::{Connection, params};
use sqlx::{Connection as _, PgConnection, Row as _, postgres::PgConnectOptions};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

/// Runs in one commit, at the most.
const BATCH_MAX: usize = 256;

/// Both indexes are Steadfast's: the events of a run, and the log in the order in which it was written.
const EVENTS_ON_POSTGRES: &str = "
    create table kept (
        run_id uuid not null, version bigint not null, type text not null, payload text not null,
        txid xid8 not null default pg_current_xact_id(), position bigint not null generated always as identity,
        primary key (run_id, version));
    create index kept_log on kept (txid, position)";
const HEADS_ON_POSTGRES: &str = "
    create table heads (run_id uuid primary key, version bigint not null, touched timestamptz not null)
        with (fillfactor = 50)";
const ADD: &str = "
    insert into kept (run_id, version, type, payload) select * from unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[])";
/// A new run is one event, and its head.
const ACCEPT: &str = "
    with head as (
        insert into heads select run_id, version, now() from unnest($1::uuid[], $2::bigint[]) as new (run_id, version))
    insert into kept (run_id, version, type, payload) select * from unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[])";
/// Only where the head is as expected: one writer at a time. Answers whose heads moved.
const ADVANCE: &str = "
    with moved as (
        update heads set version = new.version, touched = now()
        from unnest($5::uuid[], $6::bigint[], $7::bigint[]) as new (run_id, expected, version)
        where heads.run_id = new.run_id and heads.version = new.expected
        returning heads.run_id),
    added as (
        insert into kept (run_id, version, type, payload)
        select * from unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[]) as new (run_id, version, type, payload)
        -- `is true` makes it a look-up in a hash table.
        where (run_id in (select run_id from moved)) is true)
    select run_id from moved";
const LOAD: &str = "
    select run_id, payload from unnest($1::uuid[]) as asked (id)
    cross join lateral (select run_id, payload from kept where run_id = id and version = 1 limit 1) first";
/// Those of Steadfast's connections (`src/store/sql.rs`) that make a difference here: plans are made once, of look-ups.
const SETTINGS: [(&str, &str); 4] = [
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("jit", "off"),
];

/// A checkpoint every 80 MB: in the seconds of a measurement hardly a commit waits for one.
const ON_SQLITE: &str = "
    pragma journal_mode = wal; pragma synchronous = full; pragma wal_autocheckpoint = 20000;
    create table kept (
        position integer primary key, run_id blob not null, version integer not null, type text not null,
        payload text not null, unique (run_id, version)) strict";
const ADD_ON_SQLITE: &str = "insert into kept (run_id, version, type, payload) values (?1, ?2, ?3, ?4)";

/// What an append does beside the events' rows.
#[derive(Clone, Copy)]
pub enum Heads {
    None,
    Begin,
    Move,
}

struct Event {
    run_id: Uuid,
    version: i64,
    kind: &'static str,
    payload: String,
}

struct Append {
    run_id: Uuid,
    /// Before and after it.
    versions: (i64, i64),
    events: Vec<Event>,
    kept: oneshot::Sender<()>,
}

/// Keeps the events of all runs.
pub struct Keeper(mpsc::Sender<Append>);

/// One run's part of it.
pub struct Kept {
    appends: mpsc::Sender<Append>,
    pub run_id: Uuid,
    version: i64,
}

async fn connect(postgres: &str) -> Result<PgConnection, sqlx::Error> {
    PgConnection::connect_with(&postgres.parse::<PgConnectOptions>()?.options(SETTINGS)).await
}

/// In an empty database.
pub async fn create_tables(postgres: &str, heads: Heads) -> Result<(), Error> {
    let mut connection = connect(postgres).await?;
    sqlx::raw_sql(EVENTS_ON_POSTGRES).execute(&mut connection).await?;
    if !matches!(heads, Heads::None) {
        sqlx::raw_sql(HEADS_ON_POSTGRES).execute(&mut connection).await?;
    }
    Ok(())
}

impl Keeper {
    /// For one process: `postgres://…`, an empty database, or a file that is not there.
    pub async fn open(place: &str) -> Result<Self, Error> {
        if place.starts_with("postgres://") {
            create_tables(place, Heads::None).await?;
            return Self::on_postgres(place, Heads::None).await;
        }
        let (sender, appends) = mpsc::channel(4096);
        let connection = Connection::open(place)?;
        connection.execute_batch(ON_SQLITE)?;
        std::thread::spawn(move || on_sqlite(connection, appends).inspect_err(tell));
        Ok(Self(sender))
    }

    /// Where the tables are.
    pub async fn on_postgres(url: &str, heads: Heads) -> Result<Self, Error> {
        let (sender, appends) = mpsc::channel(4096);
        let connection = connect(url).await?;
        tokio::spawn(async move { on_postgres(connection, heads, appends).await.inspect_err(tell) });
        Ok(Self(sender))
    }

    /// What is kept of a new run.
    pub fn run(&self) -> Kept {
        self.resume(Uuid::now_v7(), 0)
    }

    /// What is kept of a run from here on.
    pub fn resume(&self, run_id: Uuid, version: i64) -> Kept {
        Kept {
            appends: self.0.clone(),
            run_id,
            version,
        }
    }
}

impl Kept {
    /// Returns when they are on the disk.
    pub async fn append(&mut self, events: impl IntoIterator<Item = (&'static str, String)>) -> Result<(), Error> {
        let before = self.version;
        let mut next = || {
            self.version += 1;
            self.version
        };
        let events = events.into_iter().map(|(kind, payload)| Event {
            run_id: self.run_id,
            version: next(),
            kind,
            payload,
        });
        let (kept, is_kept) = oneshot::channel();
        let append = Append {
            run_id: self.run_id,
            events: events.collect(),
            versions: (before, self.version),
            kept,
        };
        self.appends
            .send(append)
            .await
            .map_err(|_| "nothing is kept any more")?;
        is_kept.await.map_err(|_| "it could not be kept")?;
        Ok(())
    }
}

fn tell(error: &impl std::fmt::Display) {
    eprintln!("nothing is kept any more, and every run fails: {error}");
}

/// Ends with the first error.
async fn on_postgres(
    mut connection: PgConnection,
    heads: Heads,
    mut appends: mpsc::Receiver<Append>,
) -> Result<(), sqlx::Error> {
    let mut batch = Vec::new();
    while waiting(&mut appends, &mut batch).await {
        let events = || batch.iter().flat_map(|append| &append.events);
        let statement = sqlx::query(match heads {
            Heads::None => ADD,
            Heads::Begin => ACCEPT,
            Heads::Move => ADVANCE,
        });
        let statement = statement
            .bind(events().map(|event| event.run_id).collect::<Vec<_>>())
            .bind(events().map(|event| event.version).collect::<Vec<_>>())
            .bind(events().map(|event| event.kind).collect::<Vec<_>>())
            .bind(events().map(|event| event.payload.as_str()).collect::<Vec<_>>());
        match heads {
            Heads::None | Heads::Begin => {
                statement.execute(&mut connection).await?;
                answer(batch.drain(..));
            }
            Heads::Move => {
                let statement = statement
                    .bind(batch.iter().map(|append| append.run_id).collect::<Vec<_>>())
                    .bind(batch.iter().map(|append| append.versions.0).collect::<Vec<_>>())
                    .bind(batch.iter().map(|append| append.versions.1).collect::<Vec<_>>());
                let rows = statement.fetch_all(&mut connection).await?;
                let moved: HashSet<Uuid> = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
                // Whose head did not move has another writer, and is told that nothing was kept.
                answer(batch.drain(..).filter(|append| moved.contains(&append.run_id)));
            }
        }
    }
    Ok(())
}

/// What waits now, with what whoever is ready to run on this thread adds to it; false once there will be nothing more.
async fn waiting<T>(jobs: &mut mpsc::Receiver<T>, batch: &mut Vec<T>) -> bool {
    if jobs.recv_many(batch, BATCH_MAX).await == 0 {
        return false;
    }
    tokio::task::yield_now().await;
    let more = BATCH_MAX - batch.len();
    jobs.recv_many(batch, more).now_or_never();
    true
}

fn on_sqlite(mut connection: Connection, mut appends: mpsc::Receiver<Append>) -> rusqlite::Result<()> {
    let mut batch = Vec::new();
    while appends.blocking_recv_many(&mut batch, BATCH_MAX) > 0 {
        let tx = connection.transaction()?;
        {
            let mut add = tx.prepare_cached(ADD_ON_SQLITE)?;
            for event in batch.iter().flat_map(|append| &append.events) {
                add.execute(params![
                    event.run_id.as_bytes(),
                    event.version,
                    event.kind,
                    event.payload
                ])?;
            }
        }
        tx.commit()?;
        answer(batch.drain(..));
    }
    Ok(())
}

fn answer(kept: impl Iterator<Item = Append>) {
    for append in kept {
        // Whoever asked may be gone.
        let _ = append.kept.send(());
    }
}

/// What runs began with, asked for many at a time.
pub struct Loader(mpsc::Sender<(Uuid, oneshot::Sender<String>)>);

impl Loader {
    pub async fn open(postgres: &str) -> Result<Self, Error> {
        let (sender, loads) = mpsc::channel(4096);
        let connection = connect(postgres).await?;
        tokio::spawn(async move { load(connection, loads).await.inspect_err(tell) });
        Ok(Self(sender))
    }

    /// The payload of a run's first event.
    pub async fn first(&self, run_id: Uuid) -> Result<String, Error> {
        let (answer, loaded) = oneshot::channel();
        self.0
            .send((run_id, answer))
            .await
            .map_err(|_| "nothing is loaded any more")?;
        Ok(loaded.await.map_err(|_| "it could not be loaded")?)
    }
}

/// Ends with the first error.
async fn load(
    mut connection: PgConnection,
    mut loads: mpsc::Receiver<(Uuid, oneshot::Sender<String>)>,
) -> Result<(), sqlx::Error> {
    let mut batch = Vec::new();
    while waiting(&mut loads, &mut batch).await {
        let ids: Vec<Uuid> = batch.iter().map(|(run_id, _)| *run_id).collect();
        let rows = sqlx::query(LOAD).bind(ids).fetch_all(&mut connection).await?;
        let rows = rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?)));
        let mut found = rows.collect::<Result<HashMap<Uuid, String>, sqlx::Error>>()?;
        for (run_id, answer) in batch.drain(..) {
            if let Some(payload) = found.remove(&run_id) {
                // Whoever asked may be gone.
                let _ = answer.send(payload);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_kept_is_in_the_file_in_the_order_of_its_run() {
        let folder = std::env::temp_dir().join(Uuid::now_v7().to_string());
        std::fs::create_dir(&folder).expect("a folder");
        let file = folder.join("kept.db");
        let keeper = Keeper::open(file.to_str().expect("a path")).await.expect("opens");
        let mut run = keeper.run();
        let (one, two, three) = (("a", "1".to_owned()), ("b", "2".to_owned()), ("c", "3".to_owned()));
        run.append([one, two]).await.expect("kept");
        run.append([three]).await.expect("kept");
        let look = Connection::open(&file).expect("opens again");
        let mut rows = look
            .prepare("select version, type, payload from kept where run_id = ?1 order by version")
            .expect("reads");
        let rows = rows.query_map([run.run_id.as_bytes()], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        });
        let rows: Vec<(i64, String, String)> = rows.expect("reads").collect::<Result<_, _>>().expect("reads");
        let expected = [(1, "a", "1"), (2, "b", "2"), (3, "c", "3")];
        assert_eq!(
            rows,
            expected.map(|(version, kind, payload)| (version, kind.into(), payload.into()))
        );
        std::fs::remove_dir_all(&folder).expect("removed");
    }
}
