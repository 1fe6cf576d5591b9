//! Is the database there, recent enough, durable, migrated, and free of what holds readers back?

use std::time::Duration;

use steadfast::store::{Db, Error, home, sql::Row};

use super::{Diagnosis, Verdict};
use crate::{
    args,
    commands::database_url,
    config::Settings,
    secret::{Secret, shown_url},
};

const DATABASE_WAIT: Duration = Duration::from_secs(8);
/// A transaction open for longer holds the projections back.
const TRANSACTION_SECONDS_MAX: i64 = 30;
const POSTGRES_MAJOR_MIN: i64 = 15;
const PART: &str = "database";

pub async fn examine(diagnosis: &mut Diagnosis, settings: &Settings, args: &args::Database) {
    let url = match database_url(settings, args) {
        Ok(url) => url,
        Err(failure) => {
            return diagnosis.trouble(Verdict::Warn, PART, failure.to_string(), "`steadfast dev` makes one");
        }
    };
    let place = shown_url(url.expose());
    let examined = tokio::time::timeout(DATABASE_WAIT, look(diagnosis, &url, &place)).await;
    let trouble = match examined {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {} s", DATABASE_WAIT.as_secs()),
    };
    let remedy = "check the address, the password, and whether the server runs";
    diagnosis.trouble(Verdict::Fail, PART, format!("{place}: {trouble}"), remedy);
}

async fn look(diagnosis: &mut Diagnosis, url: &Secret, place: &str) -> Result<(), Error> {
    let db = Db::connect(url.expose()).await?;
    let missing = db.missing_migrations().await?;
    if db.is_postgres() {
        examine_postgres(diagnosis, &db, place).await?;
    } else {
        let rows = db.fetch("select sqlite_version() as version", &[]).await?;
        let version: String = first(&rows)?.get("version")?;
        diagnosis.ok(
            PART,
            format!("{place}: SQLite {version}; a copy or restored backup of the file needs nothing"),
        );
    }
    if missing.is_empty() {
        diagnosis.ok("schema", "up to date");
        if let Some(reason) = db.log_is_strange().await? {
            diagnosis.trouble(Verdict::Fail, "log", reason, home::REMEDY);
        }
    } else {
        let found = format!("migrations are missing: {}", missing.join(", "));
        let remedy = if db.is_postgres() {
            "run `steadfast migrate`"
        } else {
            "run `steadfast dev`"
        };
        diagnosis.trouble(Verdict::Fail, "schema", found, remedy);
    }
    db.close().await;
    Ok(())
}

async fn examine_postgres(diagnosis: &mut Diagnosis, db: &Db, place: &str) -> Result<(), Error> {
    let rows = db
        .fetch(
            "select current_setting('server_version') as version,
                    current_setting('server_version_num')::bigint / 10000 as major,
                    current_setting('fsync') as fsync, current_setting('synchronous_commit') as commits,
                    current_setting('max_prepared_transactions')::bigint as prepared",
            &[],
        )
        .await?;
    let row = first(&rows)?;
    let (version, major): (String, i64) = (row.get("version")?, row.get("major")?);
    if major < POSTGRES_MAJOR_MIN {
        let found = format!("{place}: Postgres {version} is too old");
        diagnosis.trouble(
            Verdict::Fail,
            PART,
            found,
            &format!("use Postgres {POSTGRES_MAJOR_MIN} or later"),
        );
    } else {
        diagnosis.ok(PART, format!("{place}: Postgres {version}"));
    }
    let (fsync, commits): (String, String) = (row.get("fsync")?, row.get("commits")?);
    if fsync != "on" || commits == "off" {
        let found = format!("fsync is {fsync}, synchronous_commit is {commits}: a crash can take accepted runs");
        diagnosis.trouble(Verdict::Warn, PART, found, "switch both on");
    }
    if row.get::<i64>("prepared")? > 0 {
        let found = "max_prepared_transactions is not 0: one that is forgotten holds the read models back for ever";
        diagnosis.trouble(Verdict::Warn, PART, found, "set it to 0; Steadfast prepares none");
    }
    held_back(diagnosis, db).await
}

/// Whoever writes in a transaction, in any database of the server, keeps readers of the log from what came after.
async fn held_back(diagnosis: &mut Diagnosis, db: &Db) -> Result<(), Error> {
    let rows = db
        .fetch(
            "with open as (
                 select extract(epoch from now() - xact_start)::bigint as seconds, coalesce(datname, '') as database,
                        'session ' || pid as holder, 'select pg_terminate_backend(' || pid || ')' as remedy
                 from pg_stat_activity where backend_xid is not null and pid <> pg_backend_pid()
                 union all
                 select extract(epoch from now() - prepared)::bigint, database, 'prepared transaction ' || gid,
                        'rollback prepared ' || quote_literal(gid)
                 from pg_prepared_xacts)
             select seconds, database, holder, remedy from open where seconds is not null order by seconds desc limit 1",
            &[],
        )
        .await?;
    let Some(row) = rows.first() else {
        diagnosis.ok("log", "no transaction holds readers back");
        return Ok(());
    };
    let seconds: i64 = row.get("seconds")?;
    let (database, holder, remedy): (String, String, String) =
        (row.get("database")?, row.get("holder")?, row.get("remedy")?);
    let found = format!("the oldest transaction that writes is {seconds} s old ({holder}, in database {database})");
    if seconds > TRANSACTION_SECONDS_MAX {
        let remedy = format!("end it, in that database: {remedy}");
        diagnosis.trouble(
            Verdict::Warn,
            "log",
            format!("{found}: read models stand still behind it"),
            &remedy,
        );
    } else {
        diagnosis.ok("log", found);
    }
    Ok(())
}

fn first(rows: &[Row]) -> Result<&Row, Error> {
    rows.first().ok_or_else(|| Error::Refused("no row came back".into()))
}
