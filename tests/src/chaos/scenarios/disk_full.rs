//! T10: the disk under the database's tables is full for a while.

use std::{
    fs::File,
    io::Write,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use futures::FutureExt;
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use super::roles;
use crate::{
    Result,
    chaos::{Case, Scenario},
    fresh_prefix,
    system::Stack,
};

pub const SCENARIO: Scenario = Scenario {
    name: "disk-full",
    about: "no space for the database's tables: 503 with Retry-After, no broken run, and it recovers by itself (T10)",
    long_only: false,
    play: |case| play(case).boxed_local(),
};

const CLIENTS: usize = 20;
const SIZE: &str = "48m";
const NOBODY: u32 = 65534;
/// A task of so many characters does not fit into what is left of a page.
const TASK_CHARS: usize = 20_000;

async fn play(case: &mut Case) {
    let Some(disk) = SmallDisk::mount() else {
        case.not_played("only root may mount a small file system to fill");
        return;
    };
    let mut stack = roles().start().await;
    move_tables(&stack, &disk).await.expect("the tables are moved");
    let load = case.load(&stack, CLIENTS, None).await;
    let mut posted = 0;
    for _ in 0..case.pick(2, 6) {
        disk.fill().expect("a disk that can be filled");
        case.fault();
        let (refused, accepted) = until_refused(&stack).await;
        posted += accepted;
        case.require(
            refused.as_deref() == Some("503, to be tried again"),
            format!("a full disk was answered with {refused:?}"),
        );
        case.pause(2_000, 4_000).await;
        disk.free();
        // It recovers by itself.
        load.until_ended(CLIENTS).await;
        case.progress(&load);
    }
    let api = stack.api();
    let ending = async {
        let rides = load.finish().await;
        for run in api.listed_runs().await {
            api.ended(&run).await;
        }
        rides
    };
    let rides = case.all_end(ending).await;
    case.settle(&mut stack, &rides, posted).await;
}

/// Posts until an answer is not 202. Answers it, and how many were.
async fn until_refused(stack: &Stack) -> (Option<String>, usize) {
    let api = stack.api();
    for accepted in 0..2_000 {
        let text = format!("{} [[say:ok]] {}", fresh_prefix(), "x".repeat(TASK_CHARS));
        let answer = api.post("/v1/runs", &json!({"input": text})).await;
        match (answer.status, answer.header("retry-after")) {
            (202, _) => {}
            (503, Some(_)) => return (Some("503, to be tried again".into()), accepted),
            (status, _) => return (Some(format!("{status}: {}", answer.text)), accepted),
        }
    }
    (None, 2_000)
}

/// Everything the installation keeps lies on the small disk from now on.
async fn move_tables(stack: &Stack, disk: &SmallDisk) -> Result<()> {
    let postgres = stack.postgres.as_ref().ok_or("a Postgres of its own")?;
    let mut connection = PgConnection::connect(&postgres.url("postgres")).await?;
    let place = disk.0.display();
    for sql in [
        format!("create tablespace small location '{place}'"),
        "alter table all in tablespace pg_default set tablespace small".into(),
        "alter index all in tablespace pg_default set tablespace small".into(),
    ] {
        connection.execute(AssertSqlSafe(sql)).await?;
    }
    Ok(connection.close().await?)
}

/// A file system in memory.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let place = PathBuf::from("/tmp").join(fresh_prefix());
        std::fs::create_dir_all(&place).ok()?;
        let options = format!("size={SIZE}");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(&place)
            .status();
        if !mounted.is_ok_and(|status| status.success()) {
            let _ = std::fs::remove_dir(&place);
            return None;
        }
        let disk = Self(place);
        chown(&disk.0, Some(NOBODY), Some(NOBODY)).ok()?;
        Some(disk)
    }

    fn ballast(&self) -> PathBuf {
        Path::new(&self.0).join("ballast")
    }

    /// Writes until nothing more fits.
    fn fill(&self) -> std::io::Result<()> {
        let mut file = File::create(self.ballast())?;
        for piece in [vec![1; 64 * 1024], vec![1; 4096]] {
            while file.write_all(&piece).is_ok() {}
        }
        Ok(())
    }

    fn free(&self) {
        let _ = std::fs::remove_file(self.ballast());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the server may still be about to close its files.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        std::thread::sleep(Duration::from_millis(10));
        let _ = std::fs::remove_dir(&self.0);
    }
}
