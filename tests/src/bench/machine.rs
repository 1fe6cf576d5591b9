//! What the figures were taken on: a figure without it cannot be compared with another.

use std::{fs, path::Path, process::Command};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::{Map, Value};

use super::{Build, Options};
use crate::{PrivateNats, PrivatePostgres, Result, system::Mode};

/// Versions and the machine, for the head of every report.
pub async fn versions(options: &Options, program: &Build) -> Map<String, Value> {
    let mut found = Map::new();
    let mut add = |name: &str, value: Option<String>| {
        found.insert(name.into(), value.unwrap_or_else(|| "unknown".into()).into());
    };
    add("program", Some(program.version.clone()));
    add("program_path", Some(program.path.display().to_string()));
    add("program_sha256", Some(program.sha256.clone()));
    // Where the sources are now: the program may have been built before.
    add("commit", git(&["rev-parse", "HEAD"]));
    let changed = git(&["status", "--porcelain"]).map(|files| !files.is_empty());
    add(
        "tree",
        changed.map(|changed| if changed { "changed" } else { "clean" }.into()),
    );
    add("rustc", said("rustc", &["--version"]));
    if options.mode == Mode::Distributed {
        let postgres = PrivatePostgres::programs().await.ok();
        add(
            "postgres",
            postgres.and_then(|bin| said(bin.join("postgres"), &["--version"])),
        );
        let nats = PrivateNats::program().await.ok();
        add("nats", nats.and_then(|program| said(program, &["--version"])));
    }
    add("kernel", read("/proc/sys/kernel/osrelease"));
    add("cpu", read("/proc/cpuinfo").and_then(|text| field(&text, "model name")));
    let cores = std::thread::available_parallelism().map(|cores| cores.to_string());
    add("cores", cores.ok());
    add(
        "memory",
        read("/proc/meminfo").and_then(|text| field(&text, "MemTotal")),
    );
    // Of the last minute, before the first scenario: others who use the machine are in every figure.
    add("load_average", read("/proc/loadavg").and_then(|text| first_word(&text)));
    // Of this process, and so of all that it starts.
    add("scheduling", read("/proc/self/stat").and_then(|text| scheduling(&text)));
    add("open_files_max", open_files().map(|(soft, _)| soft.to_string()));
    add("unix_time", Some(crate::since_epoch().as_secs().to_string()));
    found
}

fn git(args: &[&str]) -> Option<String> {
    let repository = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    said("git", &[&["-C", repository], args].concat())
}

pub fn said(program: impl AsRef<Path>, args: &[&str]) -> Option<String> {
    let output = Command::new(program.as_ref()).args(args).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    output.status.success().then_some(text)
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// `name : value`, as the files of `/proc` have it.
fn field(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn first_word(text: &str) -> Option<String> {
    text.split_whitespace().next().map(Into::into)
}

/// The class a process is scheduled in, from its line in `/proc` (proc_pid_stat(5): the 41st field, after a name in
/// parentheses that may hold anything).
fn scheduling(stat: &str) -> Option<String> {
    let policy = stat.rsplit_once(')')?.1.split_whitespace().nth(38)?;
    Some(match policy {
        "0" => "SCHED_OTHER".into(),
        "3" => "SCHED_BATCH".into(),
        other => format!("policy {other}"),
    })
}

fn open_files() -> Option<(u64, u64)> {
    getrlimit(Resource::RLIMIT_NOFILE).ok()
}

/// As many open files as this user may have, for this process and its children. Answers the number.
pub fn raise_open_files() -> Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_of_proc_is_found_by_its_name() {
        let text = "processor\t: 0\nmodel name\t: AMD EPYC\nmodel name\t: another\n";
        assert_eq!(field(text, "model name").as_deref(), Some("AMD EPYC"));
        assert_eq!(field(text, "MemTotal"), None);
    }

    #[test]
    fn the_class_of_a_process_is_read_behind_its_name() {
        let zeros = "0 ".repeat(37);
        assert_eq!(
            scheduling(&format!("7 (a b) c) S {zeros}3 0")).as_deref(),
            Some("SCHED_BATCH")
        );
    }

    #[test]
    fn the_limit_of_open_files_is_raised_to_what_is_allowed() {
        let limit = raise_open_files().unwrap();
        assert_eq!(open_files().map(|(soft, _)| soft), Some(limit));
    }
}
