//! What has happened in a run, kept as rows of one table before the run goes on, and nothing else: no head, no lease, no
//! queue, no read model. Many runs share a commit, as in Steadfast (`src/store/appender.rs`).

use chat::Error;
use rusqlite::{Connection, params};
use sqlx::{Connection as _, PgConnection};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

/// Runs in one commit, at the most.
const BATCH_MAX: usize = 256;

/// Both indexes are Steadfast's: the events of a run, and the log in the order in which it was written.
const ON_POSTGRES: &str = "
    create table kept (
        run_id uuid not null, version bigint not null, type text not null, payload text not null,
        txid xid8 not null default pg_current_xact_id(), position bigint not null generated always as identity,
        primary key (run_id, version));
    create index kept_log on kept (txid, position)";
const ADD_ON_POSTGRES: &str = "
    insert into kept (run_id, version, type, payload) select * from unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[])";

/// A checkpoint every 80 MB: in the seconds of a measurement hardly a commit waits for one.
const ON_SQLITE: &str = "
    pragma journal_mode = wal; pragma synchronous = full; pragma wal_autocheckpoint = 20000;
    create table kept (
        position integer primary key, run_id blob not null, version integer not null, type text not null,
        payload text not null, unique (run_id, version)) strict";
const ADD_ON_SQLITE: &str = "insert into kept (run_id, version, type, payload) values (?1, ?2, ?3, ?4)";

struct Event {
    run_id: Uuid,
    version: i64,
    kind: &'static str,
    payload: String,
}

struct Append {
    events: Vec<Event>,
    kept: oneshot::Sender<()>,
}

/// Keeps the events of all runs.
pub struct Keeper(mpsc::Sender<Append>);

/// One run's part of it.
pub struct Kept {
    appends: mpsc::Sender<Append>,
    run_id: Uuid,
    version: i64,
}

impl Keeper {
    /// `postgres://…`, an empty database, or a file that is not there.
    pub async fn open(place: &str) -> Result<Self, Error> {
        let (sender, appends) = mpsc::channel(4096);
        if place.starts_with("postgres://") {
            let mut connection = PgConnection::connect(place).await?;
            sqlx::raw_sql(ON_POSTGRES).execute(&mut connection).await?;
            tokio::spawn(async { on_postgres(connection, appends).await.inspect_err(tell) });
        } else {
            let connection = Connection::open(place)?;
            connection.execute_batch(ON_SQLITE)?;
            std::thread::spawn(move || on_sqlite(connection, appends).inspect_err(tell));
        }
        Ok(Self(sender))
    }

    /// What is kept of a new run.
    pub fn run(&self) -> Kept {
        Kept {
            appends: self.0.clone(),
            run_id: Uuid::now_v7(),
            version: 0,
        }
    }
}

impl Kept {
    /// Returns when they are on the disk.
    pub async fn append(&mut self, events: impl IntoIterator<Item = (&'static str, String)>) -> Result<(), Error> {
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
            events: events.collect(),
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
async fn on_postgres(mut connection: PgConnection, mut appends: mpsc::Receiver<Append>) -> Result<(), sqlx::Error> {
    let mut batch = Vec::new();
    while appends.recv_many(&mut batch, BATCH_MAX).await > 0 {
        let events = || batch.iter().flat_map(|append| &append.events);
        sqlx::query(ADD_ON_POSTGRES)
            .bind(events().map(|event| event.run_id).collect::<Vec<_>>())
            .bind(events().map(|event| event.version).collect::<Vec<_>>())
            .bind(events().map(|event| event.kind).collect::<Vec<_>>())
            .bind(events().map(|event| event.payload.as_str()).collect::<Vec<_>>())
            .execute(&mut connection)
            .await?;
        answer(&mut batch);
    }
    Ok(())
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
        answer(&mut batch);
    }
    Ok(())
}

fn answer(batch: &mut Vec<Append>) {
    for append in batch.drain(..) {
        // Whoever asked may be gone.
        let _ = append.kept.send(());
    }
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
