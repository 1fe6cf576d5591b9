//! The read that every run begins with, for many runs at once.
//!
//! It works as the appender does: whatever waits is asked together, and the next question forms while that one is
//! answered. On Postgres that is one statement, on a connection of its own: a pool asks the server for a sign of life
//! after every use, which for a short read is as much work as the read. On SQLite see [`File::load`].

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use sqlx::{Connection, PgConnection, PgPool};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::{
    Error, Head, StoredEvent,
    file::File,
    own_thread,
    rows::head_of,
    sql::{Db, Row, in_time},
};
use crate::{run::RunId, simulated};

/// Runs in one statement, at the most: together their first events are still a small answer.
const RUNS_MAX: usize = 64;
/// Questions that wait; more callers wait their turn.
const DEPTH: usize = 4096;
/// Pause before a new connection is tried, so that a database that is away is not hammered.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Lateral, so that both stay look-ups by index: a plan is made once, while the tables are empty, and a join of an empty
/// table is planned as a scan.
const SQL: &str = "
    select r.*, e.version as event_version, e.type, e.schema, e.time, e.payload, e.hash as event_hash
    from unnest($1::uuid[], $2::bigint[]) as k (run_id, page)
    cross join lateral (select * from runs r where r.run_id = k.run_id limit 1) r
    cross join lateral (select * from events e where e.run_id = k.run_id order by e.version limit k.page) e
    order by r.run_id, e.version";

/// A run's head and its first events, the oldest first.
pub type Found = (Head, Vec<StoredEvent>);

/// A run, and of how many events.
pub type Wanted = (RunId, u32);

struct Ask {
    wanted: Wanted,
    reply: oneshot::Sender<Result<Option<Found>, Error>>,
}

/// Asks for the head and the first events of runs.
pub struct Loads(mpsc::Sender<Ask>);

impl Loads {
    pub fn start(db: &Db) -> Self {
        let (sender, asks) = mpsc::channel(DEPTH);
        match db {
            Db::Postgres(pool) => drop(simulated::spawn(answer(Source::Postgres(pool.clone(), None), asks))),
            Db::Sqlite(file) => drop(own_thread("load", answer(Source::Sqlite(file.clone()), asks))),
        }
        Self(sender)
    }

    pub async fn load(&self, run_id: RunId, limit: u32) -> Result<Option<Found>, Error> {
        let (reply, answer) = oneshot::channel();
        let wanted = (run_id, limit);
        let stopped = || Error::Unavailable("the store has stopped".into());
        self.0.send(Ask { wanted, reply }).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

enum Source {
    Postgres(PgPool, Option<PgConnection>),
    Sqlite(Arc<File>),
}

async fn answer(mut source: Source, mut asks: mpsc::Receiver<Ask>) {
    let mut waiting = Vec::new();
    while !waiting.is_empty() || asks.recv_many(&mut waiting, RUNS_MAX).await > 0 {
        // A run that is asked for twice is read twice: its rows go to one.
        let mut runs = HashSet::new();
        let (together, later): (Vec<Ask>, Vec<Ask>) =
            waiting.into_iter().partition(|ask: &Ask| runs.insert(ask.wanted.0));
        waiting = later;
        let wanted: Vec<Wanted> = together.iter().map(|ask| ask.wanted).collect();
        let mut found = match &mut source {
            Source::Postgres(pool, own) => on_postgres(pool, own, &wanted).await,
            Source::Sqlite(file) => file.load(&wanted).await,
        };
        let failed = found.is_err();
        for Ask { wanted, reply } in together {
            let answer = match &mut found {
                Ok(found) => found.remove(&wanted.0).transpose(),
                Err(error) => Err(error.clone()),
            };
            // Whoever asked may be gone.
            let _ = reply.send(answer);
        }
        if failed {
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }
}

/// What does not read is an error of its own run.
pub type ByRun = HashMap<RunId, Result<Found, Error>>;

async fn on_postgres(pool: &PgPool, own: &mut Option<PgConnection>, wanted: &[Wanted]) -> Result<ByRun, Error> {
    let mut by_run: HashMap<Uuid, Vec<Row>> = HashMap::with_capacity(wanted.len());
    for row in in_time(fetch(pool, own, wanted)).await? {
        by_run.entry(row.get("run_id")?).or_default().push(row);
    }
    Ok((by_run.into_iter())
        .map(|(run_id, rows)| (RunId(run_id), found(&rows)))
        .collect())
}

fn found(rows: &[Row]) -> Result<Found, Error> {
    let head = head_of(&rows[0])?;
    let event = |row: &Row| {
        Ok(StoredEvent {
            run_id: head.run_id,
            version: row.count("event_version")?,
            tenant: head.tenant.clone(),
            name: row.get("type")?,
            schema: row.get::<i16>("schema")? as u16,
            time: row.get("time")?,
            payload: row.get("payload")?,
            hash: row.hash("event_hash")?,
        })
    };
    let events = rows.iter().map(event).collect::<Result<_, Error>>()?;
    Ok((head, events))
}

async fn fetch(pool: &PgPool, own: &mut Option<PgConnection>, wanted: &[Wanted]) -> Result<Vec<Row>, sqlx::Error> {
    if let Some(mut connection) = own.take() {
        // A connection that fails had died unnoticed, most likely: a read may be asked again.
        if let Ok(rows) = ask_on(&mut connection, wanted).await {
            *own = Some(connection);
            return Ok(rows);
        }
    }
    let mut connection = PgConnection::connect_with(&pool.connect_options()).await?;
    let rows = ask_on(&mut connection, wanted).await?;
    *own = Some(connection);
    Ok(rows)
}

async fn ask_on(connection: &mut PgConnection, wanted: &[Wanted]) -> Result<Vec<Row>, sqlx::Error> {
    let (runs, limits): (Vec<Uuid>, Vec<i64>) = wanted.iter().map(|(run, limit)| (run.0, i64::from(*limit))).unzip();
    let rows = sqlx::query(SQL).bind(runs).bind(limits).fetch_all(connection).await?;
    Ok(rows.into_iter().map(Row::from).collect())
}
