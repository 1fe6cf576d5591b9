//! The tables of the read models: made when missing, built anew beside the old, swapped in one transaction.
//!
//! They are not migrations: a read model is never altered, it is rebuilt from the log.

use steadfast::store::{Db, Error, Position, sql::Tx};

use crate::{
    checkpoint::{self, Checkpoint},
    models,
    projection::{Index, Names, Projection, Table},
};

/// Held while tables are made, so that processes starting together do not make them twice: "projections" in ASCII.
const LOCK: i64 = 0x7072_6f6a_6563_7469;

/// Makes the read models' tables where they are missing. Safe to call from many processes, and again.
pub async fn create_tables(db: &Db) -> Result<(), Error> {
    create_tables_of(db, &models::all()).await
}

pub(crate) async fn create_tables_of(db: &Db, projections: &[&'static dyn Projection]) -> Result<(), Error> {
    let mut tx = begin(db).await?;
    tx.execute(checkpoint::CREATE, &[]).await?;
    for projection in projections {
        let known = checkpoint::lock(&mut tx, projection.name()).await?;
        if known.is_none() || !exist(&mut tx, projection.tables(), Names::Live).await? {
            start_over(&mut tx, *projection, Names::Live).await?;
        }
    }
    tx.commit().await
}

/// Opens the tables a build goes into: those of a build that was cut off, or new ones. Answers how far they are.
pub(crate) async fn open_build(db: &Db, projection: &'static dyn Projection) -> Result<Position, Error> {
    let mut tx = begin(db).await?;
    let known = checkpoint::lock(&mut tx, &Names::New.of(projection.name())).await?;
    let position = match known {
        Some(Checkpoint { version, position })
            if version == projection.version() && exist(&mut tx, projection.tables(), Names::New).await? =>
        {
            position
        }
        _ => start_over(&mut tx, projection, Names::New).await?,
    };
    tx.commit().await?;
    Ok(position)
}

/// Puts the built tables in the place of those that serve. The caller holds both checkpoints.
pub(crate) async fn swap(tx: &mut Tx, tables: &[Table]) -> Result<(), Error> {
    for table in tables {
        let (live, new) = (Names::Live.of(table.name), Names::New.of(table.name));
        tx.execute(&format!("drop table if exists {live}"), &[]).await?;
        tx.execute(&format!("alter table {new} rename to {live}"), &[]).await?;
        if matches!(tx, Tx::Postgres(_)) {
            tx.execute(&format!("alter index if exists {new}_pkey rename to {live}_pkey"), &[])
                .await?;
        }
        for index in table.indexes {
            let suffix = index.suffix;
            if matches!(tx, Tx::Postgres(_)) {
                tx.execute(&format!("alter index {new}{suffix} rename to {live}{suffix}"), &[])
                    .await?;
            } else {
                // SQLite cannot rename an index.
                tx.execute(&format!("drop index {new}{suffix}"), &[]).await?;
                tx.execute(&create_index(&live, index), &[]).await?;
            }
        }
    }
    Ok(())
}

async fn begin(db: &Db) -> Result<Tx, Error> {
    let mut tx = db.begin().await?;
    if db.is_postgres() {
        tx.fetch("select pg_advisory_xact_lock($1)", &[LOCK.into()]).await?;
    }
    Ok(tx)
}

async fn exist(tx: &mut Tx, tables: &[Table], names: Names) -> Result<bool, Error> {
    for table in tables {
        if !table_exists(tx, &names.of(table.name)).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

pub(crate) async fn table_exists(tx: &mut Tx, name: &str) -> Result<bool, Error> {
    let sql = match tx {
        Tx::Postgres(_) => "select 1 as found from pg_class where oid = to_regclass($1)",
        Tx::Sqlite(..) => "select 1 as found from sqlite_master where type = 'table' and name = $1",
    };
    Ok(!tx.fetch(sql, &[name.into()]).await?.is_empty())
}

/// Empty tables, and a checkpoint before the first event.
async fn start_over(tx: &mut Tx, projection: &'static dyn Projection, names: Names) -> Result<Position, Error> {
    for table in projection.tables() {
        let name = names.of(table.name);
        tx.execute(&format!("drop table if exists {name}"), &[]).await?;
        tx.execute(
            &format!(
                "create table {name} ({}, primary key ({}))",
                table.columns, table.primary_key
            ),
            &[],
        )
        .await?;
        for index in table.indexes {
            tx.execute(&create_index(&name, index), &[]).await?;
        }
    }
    let position = Position::default();
    checkpoint::put(
        tx,
        &names.of(projection.name()),
        Checkpoint {
            version: projection.version(),
            position,
        },
    )
    .await?;
    Ok(position)
}

fn create_index(table: &str, index: &Index) -> String {
    format!("create index {table}{} on {table} ({})", index.suffix, index.columns)
}
