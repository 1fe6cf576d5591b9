//! What processes cost, read from `/proc`: CPU and memory of a process and all its descendants.

use std::{collections::HashMap, fs, time::Duration};

use crate::error::{Context, Failure};

/// The unit of CPU times in `/proc`: the same on every Linux there is.
const TICKS_PER_SECOND: u64 = 100;

/// A process to watch, with its children: Postgres is a family.
pub struct Process {
    pub name: String,
    pid: u32,
}

/// The fields of `/proc/PID/stat` that matter here.
#[derive(Debug, PartialEq)]
struct Stat {
    parent: u32,
    /// Own time, and that of children that have ended.
    ticks: u64,
}

impl Process {
    /// `NAME=PID`.
    pub fn parse(pair: &str) -> Result<Self, Failure> {
        let bad = || Failure::new(format!("--pids: {pair:?} is not NAME=PID, such as gateway=4711"));
        let (name, pid) = pair.split_once('=').ok_or_else(bad)?;
        let process = Self {
            name: name.into(),
            pid: pid.trim().parse().map_err(|_| bad())?,
        };
        process.cpu()?;
        Ok(process)
    }

    /// CPU time so far.
    pub fn cpu(&self) -> Result<Duration, Failure> {
        let ticks: u64 = self.family()?.iter().map(|(_, stat)| stat.ticks).sum();
        Ok(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
    }

    /// Bytes in memory: what each of the family has for itself, and once the program they share. Shared buffers
    /// (Postgres') are left out.
    pub fn resident(&self) -> Result<u64, Failure> {
        let memories: Vec<Memory> = self.family()?.iter().filter_map(|(pid, _)| memory(*pid)).collect();
        let own: u64 = memories.iter().map(|memory| memory.own).sum();
        Ok(own + memories.iter().map(|memory| memory.of_files).max().unwrap_or(0))
    }

    /// The process and its descendants. One that ends while we look is not there.
    fn family(&self) -> Result<Vec<(u32, Stat)>, Failure> {
        let pids = fs::read_dir("/proc").context("--pids needs /proc, so it works on Linux only")?;
        let pids = pids.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
        let mut all: HashMap<u32, Stat> = pids.filter_map(|pid| Some((pid, stat(pid)?))).collect();
        let gone = || Failure::new(format!("--pids: process {} ({}) does not run", self.pid, self.name));
        let mut family = vec![(self.pid, all.remove(&self.pid).ok_or_else(gone)?)];
        let mut at = 0;
        while let Some((parent, _)) = family.get(at) {
            let parent = *parent;
            family.extend(all.extract_if(|_, stat| stat.parent == parent));
            at += 1;
        }
        Ok(family)
    }
}

fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(text: &str) -> Option<Stat> {
    // The name may hold anything, blanks and brackets included: what follows its last bracket is regular.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    let ticks = number(11)? + number(12)? + number(13)? + number(14)?;
    Some(Stat {
        parent: number(1)?.try_into().ok()?,
        ticks,
    })
}

/// Bytes in memory of one process.
struct Memory {
    own: u64,
    of_files: u64,
}

fn memory(pid: u32) -> Option<Memory> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
    };
    Some(Memory {
        own: bytes("RssAnon:")?,
        of_files: bytes("RssFile:")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_may_be_called_anything() {
        let text = "42 (a) b (c)) S 7 42 42 0 -1 4194304 1 2 3 4 100 20 3 1 20 0 8 0 12345";
        assert_eq!(parse_stat(text), Some(Stat { parent: 7, ticks: 124 }));
        assert_eq!(parse_stat("42 (cut"), None);
    }

    #[test]
    fn this_very_process_can_be_watched() {
        let process = Process::parse(&format!("me={}", std::process::id()));
        let resident = process.and_then(|process| process.resident());
        assert!(resident.is_ok_and(|bytes| bytes > 1024 * 1024));
        assert!(Process::parse("me").is_err() && Process::parse("me=4294967295").is_err());
    }
}
