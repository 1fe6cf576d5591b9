//! The port between the loop and where the read models lie: checkpoints and rows that change together. In SQL for
//! [`Db`]; a simulation keeps them in memory, and the loop does not know.

use async_trait::async_trait;
use steadfast::{
    run::Time,
    store::{Db, Error, Position, sql::Tx},
};

use crate::{
    checkpoint::{self, Checkpoint},
    lane::Lane,
    log::{Entry, Log},
    projection::{Names, Projection},
    rebuild, schema,
};

#[async_trait]
pub trait Tables: Send + Sync + 'static {
    /// Makes the tables that are missing, with a checkpoint before the first event.
    async fn create(&self, projections: &[&'static dyn Projection]) -> Result<(), Error>;

    async fn checkpoint(&self, key: &str) -> Result<Option<Checkpoint>, Error>;

    async fn begin(&self) -> Result<Box<dyn Change>, Error>;

    /// Opens the tables a build goes into, and says how far they are.
    async fn open_build(&self, projection: &'static dyn Projection) -> Result<Position, Error>;

    /// Puts what was built in the place of what serves.
    async fn swap_in(&self, log: &mut Log, lane: &mut Lane) -> Result<(), Error>;

    /// The time of the first event behind a place, also of one that readers of the whole log may not see yet.
    async fn first_behind(&self, place: Position) -> Result<Option<Time>, Error>;

    /// What holds readers of the whole log back. Nothing does where there is one writer.
    async fn horizon(&self) -> Result<Horizon, Error> {
        Ok(Horizon::default())
    }
}

/// The end of what may be read of the log.
#[derive(Debug, Default)]
pub struct Horizon {
    /// The number of the oldest transaction that is open, anywhere in the cluster. Nothing from there on is readable.
    pub oldest_open: Option<i64>,
    /// The log was restored from another cluster and does not know it: see [`Db::log_is_strange`].
    pub strange: Option<String>,
}

/// A transaction: all of it happens, or nothing. Dropped, nothing.
#[async_trait]
pub trait Change: Send {
    /// The checkpoint as it is now; nobody else moves it until this change ends.
    async fn lock(&mut self, key: &str) -> Result<Option<Checkpoint>, Error>;
    async fn apply(&mut self, projection: &dyn Projection, names: Names, batch: &[Entry]) -> Result<(), Error>;
    async fn put(&mut self, key: &str, checkpoint: Checkpoint) -> Result<(), Error>;
    async fn commit(self: Box<Self>) -> Result<(), Error>;
    async fn rollback(self: Box<Self>) -> Result<(), Error>;
}

#[async_trait]
impl Tables for Db {
    async fn create(&self, projections: &[&'static dyn Projection]) -> Result<(), Error> {
        schema::create_tables_of(self, projections).await
    }

    async fn checkpoint(&self, key: &str) -> Result<Option<Checkpoint>, Error> {
        checkpoint::read(self, key).await
    }

    async fn begin(&self) -> Result<Box<dyn Change>, Error> {
        Ok(Box::new(Db::begin(self).await?))
    }

    async fn open_build(&self, projection: &'static dyn Projection) -> Result<Position, Error> {
        schema::open_build(self, projection).await
    }

    async fn swap_in(&self, log: &mut Log, lane: &mut Lane) -> Result<(), Error> {
        rebuild::swap_in(self, log, lane).await
    }

    async fn first_behind(&self, place: Position) -> Result<Option<Time>, Error> {
        let Position { generation, txid, seq } = place;
        let sql = if self.is_postgres() {
            "select time from events where (generation, txid, position) > ($1, cast(cast($2 as text) as xid8), $3) \
             order by generation, txid, position limit 1"
        } else {
            "select time from events where (generation, txid, position) > ($1, $2, $3) order by position limit 1"
        };
        let rows = self.fetch(sql, &[generation.into(), txid.into(), seq.into()]).await?;
        rows.first().map(|row| row.get("time")).transpose()
    }

    async fn horizon(&self) -> Result<Horizon, Error> {
        if !self.is_postgres() {
            return Ok(Horizon::default());
        }
        // Where none is open, both are the number the next one will get.
        let sql = "select cast(cast(pg_snapshot_xmin(s) as text) as bigint) as oldest, \
                   pg_snapshot_xmin(s) < pg_snapshot_xmax(s) as open from pg_current_snapshot() as s";
        let rows = self.fetch(sql, &[]).await?;
        let row = rows
            .first()
            .ok_or_else(|| Error::Refused("a snapshot has no row".into()))?;
        let (oldest, open): (i64, bool) = (row.get("oldest")?, row.get("open")?);
        Ok(Horizon {
            oldest_open: open.then_some(oldest),
            strange: self.log_is_strange().await?,
        })
    }
}

#[async_trait]
impl Change for Tx {
    async fn lock(&mut self, key: &str) -> Result<Option<Checkpoint>, Error> {
        checkpoint::lock(self, key).await
    }

    async fn apply(&mut self, projection: &dyn Projection, names: Names, batch: &[Entry]) -> Result<(), Error> {
        projection.apply(self, names, batch).await
    }

    async fn put(&mut self, key: &str, checkpoint: Checkpoint) -> Result<(), Error> {
        checkpoint::put(self, key, checkpoint).await
    }

    async fn commit(self: Box<Self>) -> Result<(), Error> {
        Tx::commit(*self).await
    }

    async fn rollback(self: Box<Self>) -> Result<(), Error> {
        Tx::rollback(*self).await
    }
}
