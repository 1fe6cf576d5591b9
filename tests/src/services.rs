//! The Postgres and the NATS that tests share, and how a test gets a corner of its own in them.
//!
//! Starting servers costs a second or two, a database some 50 ms: tests share the servers and never the database.

use std::{collections::HashMap, path::PathBuf, time::Duration};

use futures::TryStreamExt;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tokio::sync::OnceCell;

use crate::Result;

/// No test process lives longer.
const TEST_MAX: Duration = Duration::from_secs(3600);

/// Shared servers, started once and left running for the next test run.
#[derive(Debug, Clone)]
pub struct Services {
    /// The maintenance database: for creating others, never for a test's own tables.
    pub database_url: String,
    pub nats_url: String,
}

/// The shared servers: those of `DATABASE_URL` and `NATS_URL` where both are set, else those of `tests/services.sh`.
///
/// Panics with the script's own words when they cannot be had, because no test can go on without them.
pub async fn services() -> &'static Services {
    static SERVICES: OnceCell<Services> = OnceCell::const_new();
    crate::init();
    SERVICES
        .get_or_init(|| async {
            let services = found().await;
            if let Err(e) = sweep_streams(&services.nats_url).await {
                println!("cannot sweep the streams that earlier tests left: {e}");
            }
            services
        })
        .await
}

async fn found() -> Services {
    if let (Ok(database_url), Ok(nats_url)) = (std::env::var("DATABASE_URL"), std::env::var("NATS_URL")) {
        return Services { database_url, nats_url };
    }
    let found = started()
        .await
        .unwrap_or_else(|e| panic!("the test services did not start: {e}"));
    Services {
        database_url: found["DATABASE_URL"].clone(),
        nats_url: found["NATS_URL"].clone(),
    }
}

/// Deletes the streams of tests that are over. A stream reserves its room on disk from the start, so a few dozen that
/// nobody deletes would leave none for the next.
async fn sweep_streams(nats_url: &str) -> Result<()> {
    let js = async_nats::jetstream::new(async_nats::connect(nats_url).await?);
    let names: Vec<String> = js.stream_names().try_collect().await?;
    // The processes of another machine cannot be looked up here.
    let here = ["127.0.0.1", "localhost", "[::1]"]
        .iter()
        .any(|host| nats_url.contains(host));
    for name in names {
        let over = birth(&name).is_some_and(|(born, process)| {
            crate::since_epoch().saturating_sub(born) > TEST_MAX || (here && !is_alive(process))
        });
        if over {
            // Another test process may have been quicker.
            js.delete_stream(&name).await.ok();
        }
    }
    Ok(())
}

/// When and by which process a name of [`fresh_prefix`] was made, in whatever case and whatever follows it.
fn birth(name: &str) -> Option<(Duration, u32)> {
    let name = name.to_ascii_lowercase();
    let (seconds, rest) = name.strip_prefix('t')?.split_once('_')?;
    let (process, _) = rest
        .split('_')
        .next()?
        .split_at_checked(rest.find('_')?.checked_sub(8)?)?;
    let process = u32::from_str_radix(process, 16).ok()?;
    Some((Duration::from_secs(seconds.parse().ok()?), process))
}

fn is_alive(process: u32) -> bool {
    let pid = i32::try_from(process).map(nix::unistd::Pid::from_raw);
    pid.is_ok_and(|pid| nix::sys::signal::kill(pid, None) != Err(nix::errno::Errno::ESRCH))
}

impl Services {
    /// The URL of an empty database nobody else uses. `tests/services.sh start` drops old ones; tests need not.
    pub async fn fresh_database(&self) -> String {
        let name = format!("t_{}", crate::unique());
        self.create_database(&name)
            .await
            .unwrap_or_else(|e| panic!("cannot create the database {name}: {e}"));
        with_database(&self.database_url, &name)
    }

    /// For tests that make databases in a loop; the others leave theirs for inspection.
    pub async fn drop_database(&self, url: &str) -> Result<()> {
        let name = database_of(url).ok_or("not a database URL")?;
        let mut conn = PgConnection::connect(&self.database_url).await?;
        conn.execute(AssertSqlSafe(format!(
            "drop database if exists \"{name}\" with (force)"
        )))
        .await?;
        Ok(conn.close().await?)
    }

    async fn create_database(&self, name: &str) -> Result<()> {
        let mut conn = PgConnection::connect(&self.database_url).await?;
        // template0 takes no connections and so is rarely busy, but two creations can still meet in it.
        let sql = format!("create database \"{name}\" template template0");
        for attempt in 1.. {
            match conn.execute(AssertSqlSafe(sql.clone())).await {
                Ok(_) => break,
                Err(e) if attempt < 50 && is_busy(&e) => tokio::time::sleep(Duration::from_millis(20 * attempt)).await,
                Err(e) => return Err(e.into()),
            }
        }
        Ok(conn.close().await?)
    }
}

/// A lower-case token of [a-z0-9_] for names in NATS: streams, subjects, buckets.
pub fn fresh_prefix() -> String {
    format!("t{}", crate::unique())
}

/// 55006, object_in_use: "source database is being accessed by other users".
fn is_busy(e: &sqlx::Error) -> bool {
    e.as_database_error()
        .and_then(|e| e.code())
        .is_some_and(|code| code == "55006")
}

fn with_database(url: &str, name: &str) -> String {
    let (base, query) = url
        .split_once('?')
        .map_or((url, None), |(base, query)| (base, Some(query)));
    let base = base.rsplit_once('/').map_or(base, |(server, _)| server);
    query.map_or_else(|| format!("{base}/{name}"), |query| format!("{base}/{name}?{query}"))
}

fn database_of(url: &str) -> Option<&str> {
    let name = url.split('?').next()?.rsplit('/').next()?;
    name.chars()
        .all(|c| c.is_ascii_alphanumeric() || c == '_')
        .then_some(name)
}

/// Runs `tests/services.sh start` and reads what it wrote. Cheap when they run: the script only looks.
pub(crate) async fn started() -> Result<HashMap<String, String>> {
    let tests = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let script = tests.join("services.sh");
    let out = tokio::process::Command::new(&script).arg("start").output().await?;
    if !out.status.success() {
        return Err(String::from_utf8_lossy(&out.stderr).trim().to_owned().into());
    }
    let env = tokio::fs::read_to_string(tests.join("../.services/env")).await?;
    let found: HashMap<_, _> = env.lines().filter_map(parse_export).collect();
    for name in ["DATABASE_URL", "NATS_URL", "STEADFAST_PG_BIN", "STEADFAST_NATS_SERVER"] {
        if !found.contains_key(name) {
            return Err(format!("{} does not say {name}", script.display()).into());
        }
    }
    Ok(found)
}

/// `export NAME=value`, the value as bash's `printf %q` writes it: a backslash before what the shell would eat.
fn parse_export(line: &str) -> Option<(String, String)> {
    let (name, value) = line.strip_prefix("export ")?.split_once('=')?;
    Some((name.to_owned(), value.replace('\\', "")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn two_tests_never_share_a_database() {
        let services = services().await;
        let (one, two) = (services.fresh_database().await, services.fresh_database().await);
        assert_ne!(one, two);
        let mut a = PgConnection::connect(&one).await.unwrap();
        a.execute("create table only_here (n int)").await.unwrap();
        let mut b = PgConnection::connect(&two).await.unwrap();
        assert!(b.execute("select * from only_here").await.is_err());
        services.drop_database(&one).await.unwrap();
        assert!(PgConnection::connect(&one).await.is_err());
        services.drop_database(&two).await.unwrap();
    }

    #[tokio::test]
    async fn the_shared_nats_has_jetstream() {
        let client = async_nats::connect(&services().await.nats_url).await.unwrap();
        let stream = fresh_prefix();
        assert!(
            stream.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9' | '_')),
            "{stream}"
        );
        let js = async_nats::jetstream::new(client);
        js.create_stream(async_nats::jetstream::stream::Config {
            name: stream.clone(),
            subjects: vec![format!("{stream}.>")],
            ..Default::default()
        })
        .await
        .unwrap();
        js.delete_stream(stream).await.unwrap();
    }

    #[test]
    fn a_streams_name_tells_whose_it_was() {
        let (born, process) = birth(&format!("{}_COMMANDS", fresh_prefix().to_uppercase())).unwrap();
        assert!(is_alive(process) && process == std::process::id());
        assert!(crate::since_epoch() - born < TEST_MAX);
        assert!(!is_alive(u32::MAX) && !is_alive(i32::MAX as u32));
        for other in [
            "",
            "t",
            "COMMANDS",
            "t_x",
            "T12_COMMANDS",
            "t1_2_3",
            "trace_events_COMMANDS",
        ] {
            assert_eq!(birth(other), None, "{other}");
        }
    }

    #[test]
    fn a_database_url_keeps_its_query() {
        assert_eq!(
            with_database("postgres://u@h:1/postgres?sslmode=disable", "x"),
            "postgres://u@h:1/x?sslmode=disable"
        );
        assert_eq!(database_of("postgres://u@h:1/x?sslmode=disable"), Some("x"));
    }
}
