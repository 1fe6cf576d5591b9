//! A Postgres cluster that can be killed.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use sqlx::{Connection, PgConnection};

use super::{Home, PATIENCE, free_port, program, unprivileged};
use crate::{
    Result,
    process::{Proc, send},
    tree::{any_alive, children_of},
};

/// A Postgres cluster of this test's own. Dropping it kills it and deletes its data.
#[derive(Debug)]
pub struct PrivatePostgres {
    // First, so that the server is dead before its directory goes.
    proc: Option<Proc>,
    home: Home,
    bin: PathBuf,
    port: u16,
    /// Beyond those every cluster has.
    settings: Vec<String>,
}

impl PrivatePostgres {
    pub async fn start() -> Result<Self> {
        Self::start_with(vec![]).await
    }

    /// With settings of its own, such as `shared_buffers=512MB`.
    pub async fn start_with(settings: Vec<String>) -> Result<Self> {
        let mut this = Self {
            proc: None,
            home: Home::new()?,
            bin: Self::programs().await?,
            port: free_port(),
            settings,
        };
        this.renew().await?;
        Ok(this)
    }

    /// The directory of `postgres`, `initdb` and the others.
    pub async fn programs() -> Result<PathBuf> {
        program("STEADFAST_PG_BIN").await
    }

    /// The postmaster; all other processes of the cluster are its children.
    pub fn pid(&self) -> Option<u32> {
        self.proc.as_ref().map(Proc::pid)
    }

    /// Another cluster on the same port, empty, with transaction numbers that begin again.
    pub async fn renew(&mut self) -> Result<()> {
        self.kill9();
        let data = self.home.path("data");
        std::fs::remove_dir_all(&data).ok();
        let data = data.display().to_string();
        let settings = ["-U", "postgres", "--auth=trust", "--encoding=UTF8", "--no-locale"];
        // Only the making of the cluster goes unsynced: it is not what a test is about.
        self.tool("initdb", &[&["-D", &data, "--no-sync"], &settings[..]].concat())
            .await?;
        self.restart().await
    }

    /// A backup of a database, as operators make them.
    pub async fn dump(&self, db: &str) -> Result<PathBuf> {
        let file = self.home.path("backup.dump");
        let path = file.display().to_string();
        self.tool("pg_dump", &["-d", &self.url(db), "--format=custom", "--file", &path])
            .await?;
        Ok(file)
    }

    /// Puts a backup into a database that is empty.
    pub async fn restore(&self, db: &str, dump: &Path) -> Result<()> {
        let (url, path) = (self.url(db), dump.display().to_string());
        self.tool(
            "pg_restore",
            &["-d", &url, "--exit-on-error", "--single-transaction", &path],
        )
        .await
    }

    async fn tool(&self, name: &str, args: &[&str]) -> Result<()> {
        let mut command = unprivileged(self.bin.join(name), &self.home.0);
        command.args(args);
        let ran = tokio::process::Command::from(command).output().await?;
        if ran.status.success() {
            Ok(())
        } else {
            Err(format!("{name} failed: {}", String::from_utf8_lossy(&ran.stderr)).into())
        }
    }

    /// `postgres` is always there; others are as `create database` made them.
    pub fn url(&self, db: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{db}", self.port)
    }

    /// SIGKILL to the postmaster and all its processes. Back when they are gone.
    pub fn kill9(&mut self) {
        let Some(mut proc) = self.proc.take() else { return };
        // Frozen first: a postmaster that sees a backend die would start to put things in order.
        proc.sigstop();
        let backends = children_of(proc.pid());
        backends.iter().for_each(|pid| send(*pid, Signal::SIGKILL));
        proc.kill9();
        let end = Instant::now() + Duration::from_secs(5);
        while any_alive(&backends) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(2));
        }
        // Every process is gone, so the file can only be stale; left there, a reused pid would block the restart.
        std::fs::remove_file(self.home.path("data/postmaster.pid")).ok();
    }

    /// Freezes all its processes: connections stay open and nothing answers.
    pub fn sigstop(&mut self) {
        self.signal_all(Signal::SIGSTOP);
    }

    pub fn sigcont(&mut self) {
        self.signal_all(Signal::SIGCONT);
    }

    fn signal_all(&mut self, signal: Signal) {
        if let Some(proc) = &self.proc {
            send(proc.pid(), signal);
            children_of(proc.pid()).into_iter().for_each(|pid| send(pid, signal));
        }
    }

    /// The same port and data. Back when recovery is over and it takes connections.
    pub async fn restart(&mut self) -> Result<()> {
        self.kill9();
        let mut command = unprivileged(self.bin.join("postgres"), &self.home.0);
        command
            .arg("-D")
            .arg(self.home.path("data"))
            .args(["-p", &self.port.to_string()]);
        for setting in [
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "max_connections=200",
            "fsync=on",
        ] {
            command.args(["-c", setting]);
        }
        for setting in &self.settings {
            command.args(["-c", setting]);
        }
        let log = self.home.path("postgres.log");
        self.proc = Some(Proc::launch(command, &log, Some(&self.home.0))?);
        let url = self.url("postgres");
        let end = Instant::now() + PATIENCE;
        loop {
            match PgConnection::connect(&url).await {
                Ok(conn) => return Ok(conn.close().await?),
                Err(e) if Instant::now() >= end || !self.proc.as_mut().is_some_and(Proc::is_running) => {
                    let log = std::fs::read_to_string(log).unwrap_or_default();
                    return Err(format!("Postgres does not answer: {e}\n{log}").into());
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        self.kill9();
    }
}

#[cfg(test)]
mod tests {
    use sqlx::Executor;

    use super::*;

    #[tokio::test]
    async fn what_postgres_acknowledged_survives_a_kill() {
        let mut pg = PrivatePostgres::start().await.unwrap();
        let mut conn = PgConnection::connect(&pg.url("postgres")).await.unwrap();
        conn.execute("create table kept (n int)").await.unwrap();
        for round in 1..=3_i64 {
            let mut conn = PgConnection::connect(&pg.url("postgres")).await.unwrap();
            let fsync: String = sqlx::query_scalar("show fsync").fetch_one(&mut conn).await.unwrap();
            assert_eq!(fsync, "on");
            conn.execute("insert into kept values (1)").await.unwrap();
            pg.kill9();
            assert!(conn.execute("select 1").await.is_err(), "a dead server answered");
            assert!(PgConnection::connect(&pg.url("postgres")).await.is_err());
            pg.restart().await.unwrap();
            let mut conn = PgConnection::connect(&pg.url("postgres")).await.unwrap();
            let rows: i64 = sqlx::query_scalar("select count(*) from kept")
                .fetch_one(&mut conn)
                .await
                .unwrap();
            assert_eq!(rows, round);
        }
        let home = pg.home.0.clone();
        drop(pg);
        assert!(!home.exists());
    }
}
