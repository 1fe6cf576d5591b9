//! Is the log in the cluster that wrote it?
//!
//! Its order is that of transaction numbers, and every cluster counts its own. A log restored into another one is read
//! wrongly there: what was restored stays hidden until the new counter has passed it, and what is written meanwhile
//! comes before it. So the log remembers its cluster, nothing starts in a strange one, and [`Db::begin_generation`]
//! makes it at home. SQLite has one writer and one counter in the file: a copy of it is as good as the original.

use super::{Db, Error};

/// What there is to do about a log in a strange cluster.
pub const REMEDY: &str =
    "if it was restored there from a backup, stop every role and run `steadfast migrate --restored`";

impl Db {
    /// Which cluster this is. None where nobody may ask, or where there are no clusters.
    async fn system_identifier(&self) -> Result<Option<i64>, Error> {
        if !self.is_postgres() {
            return Ok(None);
        }
        match self
            .fetch("select system_identifier from pg_control_system()", &[])
            .await
        {
            Ok(rows) => rows.first().map(|row| row.get("system_identifier")).transpose(),
            Err(Error::Refused(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes down the cluster of a log that does not know it yet.
    pub(super) async fn remember_cluster(&self) -> Result<(), Error> {
        if let Some(here) = self.system_identifier().await? {
            let sql = "update log_generations set system_identifier = $1
                       where system_identifier is null
                         and generation = (select max(generation) from log_generations)";
            self.execute(sql, &[here.into()]).await?;
        }
        Ok(())
    }

    /// What shows that the log was written in another cluster and has not begun a generation in this one.
    pub async fn log_is_strange(&self) -> Result<Option<String>, Error> {
        if !self.is_postgres() {
            return Ok(None);
        }
        // What this snapshot can see was written by transactions below its end, if this cluster wrote it.
        let sql = "select g.system_identifier,
                          (select e.txid >= pg_snapshot_xmax(pg_current_snapshot()) from events e
                           where e.generation = g.generation
                           order by e.generation desc, e.txid desc, e.position desc limit 1) as ahead
                   from log_generations g order by g.generation desc limit 1";
        let rows = self.fetch(sql, &[]).await?;
        let row = rows
            .first()
            .ok_or_else(|| Error::Refused("log_generations is empty; the schema is damaged".into()))?;
        let (home, ahead): (Option<i64>, Option<bool>) = (row.get("system_identifier")?, row.get("ahead")?);
        Ok(match (home, self.system_identifier().await?) {
            (Some(home), Some(here)) if home != here => Some(format!(
                "the log was written in the Postgres cluster {home:x}, and this is {here:x}"
            )),
            _ if ahead == Some(true) => {
                Some("the log holds transaction numbers this Postgres cluster has not come to".into())
            }
            _ => None,
        })
    }

    /// Makes a restored log at home in this cluster: what is written from now on comes after all that was restored.
    /// Answers the new generation.
    pub async fn begin_generation(&self) -> Result<i64, Error> {
        let here = self.system_identifier().await?;
        let mut tx = self.begin().await?;
        // Nobody may be appending: then no transaction of the older generations is open, ever again.
        tx.execute("set local lock_timeout = '5s'", &[]).await?;
        tx.execute("lock table events in access exclusive mode", &[]).await?;
        let sql = "insert into log_generations (generation, system_identifier)
                   select 1 + greatest((select max(generation) from log_generations),
                                       (select generation from events
                                        order by generation desc, txid desc, position desc limit 1)), $1
                   returning generation::bigint as generation";
        let rows = tx.fetch(sql, &[here.into()]).await?;
        let row = rows
            .first()
            .ok_or_else(|| Error::Refused("no generation came back".into()))?;
        let next: i64 = row.get("generation")?;
        let sql = format!("alter table events alter column generation set default {next}");
        tx.execute(&sql, &[]).await?;
        tx.commit().await?;
        Ok(next)
    }
}
