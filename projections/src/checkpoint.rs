//! How far each projection has come. Moved in the same transaction as the rows, under a lock: whoever finds it
//! elsewhere than expected has been overtaken and starts over from there.

use steadfast::store::{
    Db, Error, Position,
    sql::{Row, Tx, Value},
};

use crate::clock;

pub const TABLE: &str = "projection_checkpoints";

pub const CREATE: &str = "create table if not exists projection_checkpoints (name text primary key, \
                          version bigint not null, generation bigint not null, txid bigint not null, \
                          seq bigint not null, updated_at timestamptz not null)";

const SELECT: &str = "select version, generation, txid, seq from projection_checkpoints where name = $1";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// Of the projection that made the tables.
    pub version: i64,
    pub position: Position,
}

fn parse(rows: &[Row]) -> Result<Option<Checkpoint>, Error> {
    let Some(row) = rows.first() else { return Ok(None) };
    let position = Position {
        generation: row.get("generation")?,
        txid: row.get("txid")?,
        seq: row.get("seq")?,
    };
    Ok(Some(Checkpoint {
        version: row.get("version")?,
        position,
    }))
}

pub async fn read(db: &Db, name: &str) -> Result<Option<Checkpoint>, Error> {
    parse(&db.fetch(SELECT, &[name.into()]).await?)
}

/// As this transaction sees it, without a lock.
pub async fn peek(tx: &mut Tx, name: &str) -> Result<Option<Checkpoint>, Error> {
    parse(&tx.fetch(SELECT, &[name.into()]).await?)
}

/// As it is now; nobody else moves it until this transaction ends.
pub async fn lock(tx: &mut Tx, name: &str) -> Result<Option<Checkpoint>, Error> {
    // SQLite's write transactions exclude each other as it is.
    let sql = if matches!(tx, Tx::Postgres(_)) {
        format!("{SELECT} for update")
    } else {
        SELECT.to_owned()
    };
    parse(&tx.fetch(&sql, &[name.into()]).await?)
}

pub async fn put(tx: &mut Tx, name: &str, checkpoint: Checkpoint) -> Result<(), Error> {
    let Checkpoint { version, position } = checkpoint;
    let args: [Value; 6] = [
        name.into(),
        version.into(),
        position.generation.into(),
        position.txid.into(),
        position.seq.into(),
        clock::now().into(),
    ];
    tx.execute(
        "insert into projection_checkpoints (name, version, generation, txid, seq, updated_at) \
         values ($1, $2, $3, $4, $5, $6) on conflict (name) do update set version = excluded.version, \
         generation = excluded.generation, txid = excluded.txid, seq = excluded.seq, updated_at = excluded.updated_at",
        &args,
    )
    .await?;
    Ok(())
}

pub async fn remove(tx: &mut Tx, name: &str) -> Result<(), Error> {
    tx.execute("delete from projection_checkpoints where name = $1", &[name.into()])
        .await?;
    Ok(())
}
