//! The read that every run begins with, for many runs in one statement.
//!
//! It works as the appender does: whatever waits is asked together, and the next question forms while that one is
//! answered. On a connection of its own: a pool asks the server for a sign of life after every use, which for a short
//! read is as much work as the read.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use sqlx::{Connection, PgConnection, SqliteConnection};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::{
    Error,
    sql::{Db, Row, in_time, rows},
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
const POSTGRES: &str = "
    select r.*, e.version as event_version, e.type, e.schema, e.time, e.payload, e.hash as event_hash
    from unnest($1::uuid[], $2::bigint[]) as k (run_id, page)
    cross join lateral (select * from runs r where r.run_id = k.run_id limit 1) r
    cross join lateral (select * from events e where e.run_id = k.run_id order by e.version limit k.page) e
    order by r.run_id, e.version";

/// The same in SQLite's words; a cross join is done in the order in which it is written. Versions have no gaps.
const SQLITE: &str = "
    select r.*, e.version as event_version, e.type, e.schema, e.time, e.payload, e.hash as event_hash
    from json_each($1) k
    cross join runs r on r.run_id = unhex(k.value ->> 0)
    cross join events e on e.run_id = r.run_id and e.version <= k.value ->> 1
    order by r.run_id, e.version";

struct Ask {
    run_id: Uuid,
    limit: i64,
    reply: oneshot::Sender<Result<Vec<Row>, Error>>,
}

/// Asks for the head and the first events of runs.
pub struct Loads(mpsc::Sender<Ask>);

impl Loads {
    pub fn start(db: Db) -> Self {
        let (sender, asks) = mpsc::channel(DEPTH);
        simulated::spawn(answer(db, asks));
        Self(sender)
    }

    /// A row for each event, the oldest first, each with the head beside it.
    pub async fn load(&self, run_id: RunId, limit: u32) -> Result<Vec<Row>, Error> {
        let (reply, answer) = oneshot::channel();
        let ask = Ask {
            run_id: run_id.0,
            limit: limit.into(),
            reply,
        };
        let stopped = || Error::Unavailable("the store has stopped".into());
        self.0.send(ask).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

async fn answer(db: Db, mut asks: mpsc::Receiver<Ask>) {
    let mut connection = None;
    let mut waiting = Vec::new();
    while !waiting.is_empty() || asks.recv_many(&mut waiting, RUNS_MAX).await > 0 {
        // A run that is asked for twice is read twice: its rows go to one.
        let mut runs = HashSet::new();
        let (mut together, later): (Vec<Ask>, Vec<Ask>) =
            waiting.into_iter().partition(|ask: &Ask| runs.insert(ask.run_id));
        waiting = later;
        match in_time(fetch(&db, &mut connection, &together)).await {
            Ok(rows) => {
                let mut by_run: HashMap<Uuid, Vec<Row>> = HashMap::with_capacity(together.len());
                let mut unread = None;
                for row in rows {
                    match row.get("run_id") {
                        Ok(run_id) => by_run.entry(run_id).or_default().push(row),
                        Err(error) => unread = Some(error),
                    }
                }
                for ask in together.drain(..) {
                    let rows = by_run.remove(&ask.run_id).unwrap_or_default();
                    // Whoever asked may be gone.
                    let _ = ask.reply.send(unread.clone().map_or(Ok(rows), Err));
                }
            }
            Err(error) => {
                connection = None;
                for ask in together.drain(..) {
                    let _ = ask.reply.send(Err(error.clone()));
                }
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
    }
}

enum Own {
    Postgres(PgConnection),
    Sqlite(SqliteConnection),
}

async fn fetch(db: &Db, slot: &mut Option<Own>, asks: &[Ask]) -> Result<Vec<Row>, sqlx::Error> {
    if let Some(mut own) = slot.take() {
        // A connection that fails had died unnoticed, most likely: a read may be asked again.
        if let Ok(rows) = ask_on(&mut own, asks).await {
            *slot = Some(own);
            return Ok(rows);
        }
    }
    let mut own = match db {
        Db::Postgres(pool) => Own::Postgres(PgConnection::connect_with(&pool.connect_options()).await?),
        Db::Sqlite { read, .. } => Own::Sqlite(SqliteConnection::connect_with(&read.connect_options()).await?),
    };
    let rows = ask_on(&mut own, asks).await?;
    *slot = Some(own);
    Ok(rows)
}

async fn ask_on(own: &mut Own, asks: &[Ask]) -> Result<Vec<Row>, sqlx::Error> {
    Ok(match own {
        Own::Postgres(connection) => {
            let runs: Vec<Uuid> = asks.iter().map(|ask| ask.run_id).collect();
            let limits: Vec<i64> = asks.iter().map(|ask| ask.limit).collect();
            rows(
                sqlx::query(POSTGRES)
                    .bind(runs)
                    .bind(limits)
                    .fetch_all(connection)
                    .await?,
            )
        }
        Own::Sqlite(connection) => {
            let runs = asks.iter().map(|ask| (ask.run_id.simple().to_string(), ask.limit));
            let runs = serde_json::Value::from_iter(runs.map(|(run, limit)| serde_json::json!([run, limit])));
            rows(sqlx::query(SQLITE).bind(runs.to_string()).fetch_all(connection).await?)
        }
    })
}
