//! What each statement cost Postgres, where it can tell.

use sqlx::{Connection, PgConnection, Row};

use super::{
    figures::{Table, number, text},
    rig::STATEMENTS,
};
use crate::{PrivatePostgres, Result};

/// The costliest; the others are of no weight.
const SHOWN: i64 = 15;
const QUERY_CHARS_MAX: usize = 100;
const RESET: &str = "select pg_stat_statements_reset()";
const COSTLIEST: &str = "select query, calls, rows, total_exec_time, wal_bytes::float8 as wal_bytes \
                         from pg_stat_statements order by total_exec_time desc limit $1";

/// Whether the Postgres that would be started has the statistics; the error names the remedy.
pub async fn available() -> Result<()> {
    let postgres = PrivatePostgres::start_with(vec![STATEMENTS.into()]).await;
    let missing = |error: String| {
        let remedy = "point STEADFAST_PG_BIN at one that has it, such as /usr/lib/postgresql/15/bin of Debian's \
                      postgresql-15, or leave --statements out";
        format!("this Postgres has no pg_stat_statements: {remedy} ({error})")
    };
    let postgres = postgres.map_err(|error| missing(error.to_string().lines().last().unwrap_or_default().into()))?;
    Statements::begin(&postgres.url("postgres"))
        .await
        .map(drop)
        .map_err(|error| missing(error.to_string()).into())
}

/// Statistics from one moment on.
pub struct Statements {
    connection: PgConnection,
}

impl Statements {
    pub async fn begin(database: &str) -> Result<Self> {
        let mut connection = PgConnection::connect(database).await?;
        let create = sqlx::query("create extension if not exists pg_stat_statements");
        create.execute(&mut connection).await?;
        sqlx::query(RESET).execute(&mut connection).await?;
        Ok(Self { connection })
    }

    /// The costliest since the beginning, in which so many runs ended.
    pub async fn end(mut self, clients: u32, runs: f64) -> Result<Table> {
        let rows = sqlx::query(COSTLIEST)
            .bind(SHOWN)
            .fetch_all(&mut self.connection)
            .await?;
        let mut table = Table::new(
            format!("statements at {clients} clients, warming up included: the {SHOWN} costliest of {runs:.0} runs"),
            [
                "calls_a_run",
                "ms_a_run",
                "ms_a_call",
                "rows_a_call",
                "wal_bytes_a_run",
                "statement",
            ],
        );
        for row in rows {
            let (calls, rows): (i64, i64) = (row.try_get("calls")?, row.try_get("rows")?);
            let (ms, wal): (f64, f64) = (row.try_get("total_exec_time")?, row.try_get("wal_bytes")?);
            let query: String = row.try_get("query")?;
            let calls = calls as f64;
            table.row([
                number(calls / runs, 3),
                number(ms / runs, 3),
                number(ms / calls, 3),
                number(rows as f64 / calls, 1),
                number(wal / runs, 0),
                text(brief(&query)),
            ]);
        }
        Ok(table)
    }
}

/// One line, not longer than fits.
fn brief(query: &str) -> String {
    let line = query.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "/");
    match line.char_indices().nth(QUERY_CHARS_MAX) {
        Some((at, _)) => format!("{} …", &line[..at]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_shown_on_one_line() {
        assert_eq!(brief("select 1\n   || x,\n 2"), "select 1 // x, 2");
        assert!(brief(&"x ".repeat(200)).ends_with(" …"));
    }
}
