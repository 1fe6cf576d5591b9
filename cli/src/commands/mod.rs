//! The commands, one file each.

pub mod bench;
pub mod check;
pub mod dev;
pub mod doctor;
pub mod eval;
pub mod keys;
pub mod migrate;
pub mod people;
pub mod projections;
pub mod roles;
pub mod run;
pub mod runs;

use std::{path::Path, process::ExitCode};

use steadfast::store::{Db, Store};

use crate::{args::Database, config::Settings, error::Failure, secret::Secret};

/// The answer to what was asked is "no".
pub const EXIT_NO: u8 = 1;

/// The database in a data directory of `steadfast dev`.
const DATABASE_FILE: &str = "steadfast.db";
const DATA_DIR: &str = ".steadfast";

/// Where the SQLite database of a data directory lies.
fn sqlite_url(data_dir: &Path) -> Secret {
    Secret::new(format!("sqlite://{}", data_dir.join(DATABASE_FILE).display()))
}

/// Which database a command works on: the one that is named, or the one of `steadfast dev`.
fn database_url(settings: &Settings, args: &Database) -> Result<Secret, Failure> {
    if let Some(dir) = &args.data_dir {
        return existing_sqlite(dir);
    }
    match settings.database(args.database.as_deref()) {
        Some(url) => Ok(url),
        None => existing_sqlite(Path::new(DATA_DIR)),
    }
}

/// Opening a SQLite file that is not there would make an empty one, which is never what was meant.
fn existing_sqlite(dir: &Path) -> Result<Secret, Failure> {
    if dir.join(DATABASE_FILE).is_file() {
        return Ok(sqlite_url(dir));
    }
    let remedy =
        "name a database with --database or DATABASE_URL, or a data directory of `steadfast dev` with --data-dir";
    Err(Failure::new(format!(
        "there is no database in {}; {remedy}",
        dir.display()
    )))
}

/// Opens a database for a command that runs beside a system or without one.
async fn open(settings: &Settings, args: &Database) -> Result<Store, Failure> {
    let url = database_url(settings, args)?;
    let store = Store::open(url.expose()).await?;
    let missing = store.db.missing_migrations().await?;
    if missing.is_empty() {
        return Ok(store);
    }
    let remedy = if store.db.is_postgres() {
        "`steadfast migrate`"
    } else {
        "`steadfast dev` once"
    };
    Err(Failure::new(format!(
        "the database lacks migrations ({}); run {remedy}",
        missing.join(", ")
    )))
}

/// Lets go of the database before the process ends: SQLite tidies its files, Postgres hears a goodbye.
async fn close(db: &Db) {
    db.close().await;
}

fn yes_or_no(yes: bool) -> ExitCode {
    if yes {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(EXIT_NO)
    }
}
