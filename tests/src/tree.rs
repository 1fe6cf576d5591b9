//! Who is whose child: a server of many processes is killed as a whole only by someone who knows them all.

use std::{fs, process::Command};

/// The children of a process. Postgres makes each backend the leader of a process group of its own, so a signal to the
/// group of the postmaster does not reach them.
pub(crate) fn children_of(parent: u32) -> Vec<u32> {
    all()
        .into_iter()
        .filter(|p| p.parent == parent && !p.is_dead())
        .map(|p| p.pid)
        .collect()
}

/// Each of these processes with all its descendants, seen at one moment.
pub(crate) fn families_of(pids: &[u32]) -> Vec<Vec<u32>> {
    let all = all();
    let family = |pid: &u32| {
        let mut family = vec![*pid];
        let mut at = 0;
        while let Some(parent) = family.get(at).copied() {
            family.extend(all.iter().filter(|p| p.parent == parent && !p.is_dead()).map(|p| p.pid));
            at += 1;
        }
        family
    };
    pids.iter().map(family).collect()
}

/// Whether any of them still runs. A zombie does not: it holds no file, port or memory.
pub(crate) fn any_alive(pids: &[u32]) -> bool {
    all().iter().any(|p| pids.contains(&p.pid) && !p.is_dead())
}

struct Process {
    pid: u32,
    parent: u32,
    state: char,
}

impl Process {
    fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }

    /// `pid (command) state parent …`; the command may hold spaces and brackets itself.
    fn from_stat(stat: &str) -> Option<Self> {
        let (pid, rest) = stat.split_once(' ')?;
        let mut rest = rest.rsplit_once(')')?.1.split_whitespace();
        Some(Self {
            pid: pid.parse().ok()?,
            state: rest.next()?.chars().next()?,
            parent: rest.next()?.parse().ok()?,
        })
    }

    fn from_ps(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        Some(Self {
            pid: words.next()?.parse().ok()?,
            parent: words.next()?.parse().ok()?,
            state: words.next()?.chars().next()?,
        })
    }
}

fn all() -> Vec<Process> {
    // Small images have no ps, and other systems no /proc.
    if let Ok(dir) = fs::read_dir("/proc") {
        let stats = dir
            .flatten()
            .filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
        return stats.filter_map(|stat| Process::from_stat(&stat)).collect();
    }
    let Ok(out) = Command::new("ps").args(["-A", "-o", "pid=,ppid=,state="]).output() else {
        return vec![];
    };
    String::from_utf8_lossy(&out.stdout)
        .lines()
        .filter_map(Process::from_ps)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_with_brackets_does_not_confuse() {
        let p = Process::from_stat("42 (a (b) c) Z 7 42 42").unwrap();
        assert_eq!((p.pid, p.parent, p.is_dead()), (42, 7, true));
    }

    #[test]
    fn a_child_is_found() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        assert!(children_of(std::process::id()).contains(&child.id()));
        let family = &families_of(&[std::process::id()])[0];
        assert!(family[0] == std::process::id() && family.contains(&child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!any_alive(&[child.id()]));
    }
}
