//! Servers of a test's own, to be killed, wiped and started again without hurting anybody else's test.
//!
//! A kill here is as hard as a power cut short of losing the page cache: SIGKILL to every process at once, nothing
//! flushed, nothing said to clients. Postgres keeps fsync on, so what it acknowledged must be there after `restart`.

mod nats;
mod postgres;

use std::{
    collections::HashMap,
    net::{Ipv4Addr, TcpListener},
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use nix::unistd::geteuid;
use tokio::sync::OnceCell;

pub use self::{nats::PrivateNats, postgres::PrivatePostgres};
use crate::{Result, services::started};

const NOBODY: u32 = 65534;
const PATIENCE: Duration = Duration::from_secs(60);

/// A loopback port that is free now, and that no other call of this process was given.
///
/// It lies below the ephemeral range: no outgoing connection can take it while its server is down between a kill and
/// a restart.
pub fn free_port() -> u16 {
    const FIRST: u16 = 12_000;
    const COUNT: u16 = 8_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Processes begin at different places, or test binaries run side by side would take each other's.
    let start = (std::process::id() % u32::from(COUNT)) as u16;
    loop {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + ((u32::from(start) * 37 + u32::from(n)) % u32::from(COUNT)) as u16;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// Where the servers' programs are: from the environment, else installed by `tests/services.sh`.
async fn program(name: &str) -> Result<PathBuf> {
    static STARTED: OnceCell<HashMap<String, String>> = OnceCell::const_new();
    crate::init();
    if let Ok(path) = std::env::var(name) {
        return Ok(path.into());
    }
    Ok(STARTED.get_or_try_init(started).await?[name].clone().into())
}

/// A directory that goes when the fixture goes, owned by the user the server runs as.
#[derive(Debug)]
struct Home(PathBuf);

impl Home {
    fn new() -> Result<Self> {
        // Not TMPDIR for root: it may be a directory of root's own, which nobody cannot enter.
        let base = if geteuid().is_root() {
            PathBuf::from("/tmp")
        } else {
            std::env::temp_dir()
        };
        let home = Self(base.join(format!("steadfast_{}", crate::unique())));
        std::fs::create_dir_all(&home.0)?;
        if geteuid().is_root() {
            chown(&home.0, Some(NOBODY), Some(NOBODY))?;
        }
        Ok(home)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

/// Postgres refuses to run as root.
fn unprivileged(program: impl AsRef<Path>, dir: &Path) -> Command {
    let mut command = Command::new(program.as_ref());
    command.current_dir(dir);
    if geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_not_given_twice() {
        assert_ne!(free_port(), free_port());
    }
}
