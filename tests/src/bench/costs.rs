//! What processes cost: CPU and memory of each and all its children, from `/proc`.

use std::{
    fs,
    time::{Duration, Instant},
};

use crate::tree::families_of;

/// The unit of CPU times in `/proc`: the same on every Linux there is.
const TICKS_PER_SECOND: u64 = 100;

/// A process to watch, with its children: Postgres is a family.
#[derive(Debug, Clone)]
pub struct Watched {
    pub name: String,
    pub pid: u32,
}

/// CPU times at one moment.
#[derive(Debug, Clone)]
pub struct Reading {
    at: Instant,
    cpu: Vec<Duration>,
}

impl Reading {
    pub fn take(watched: &[Watched]) -> Self {
        let pids: Vec<u32> = watched.iter().map(|one| one.pid).collect();
        let families = families_of(&pids);
        Self {
            at: Instant::now(),
            // Nothing of a process that is gone.
            cpu: families
                .into_iter()
                .map(|family| family.into_iter().map(cpu_of).sum())
                .collect(),
        }
    }

    /// Of each process, in milliseconds, since an earlier reading.
    pub fn cpu_ms_since(&self, earlier: &Self) -> Vec<f64> {
        let both = self.cpu.iter().zip(&earlier.cpu);
        both.map(|(now, then)| now.saturating_sub(*then).as_secs_f64() * 1e3)
            .collect()
    }

    pub fn seconds_since(&self, earlier: &Self) -> f64 {
        (self.at - earlier.at).as_secs_f64()
    }
}

impl Watched {
    /// Bytes the family has for itself: neither programs nor shared buffers.
    pub fn own_bytes(&self) -> u64 {
        self.family().into_iter().filter_map(own_bytes_of).sum()
    }

    /// The process and its descendants.
    pub fn family(&self) -> Vec<u32> {
        families_of(&[self.pid]).concat()
    }
}

/// Of a process alone, and of its children that have ended.
fn cpu_of(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let (own, ended) = ticks(&stat).unwrap_or_default();
    let of_ticks = |ticks: u64| Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND);
    // Ticks are coarse; the sum over threads is fine, and knows nothing of threads that have ended.
    of_ticks(own).max(of_threads(pid)) + of_ticks(ended)
}

fn of_threads(pid: u32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task"));
    let nanos = threads.into_iter().flatten().flatten().filter_map(|thread| {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}

/// Of `/proc/PID/stat`: own user and system time, and that of children that were waited for.
fn ticks(stat: &str) -> Option<(u64, u64)> {
    // The name may hold anything, blanks and brackets included: what follows its last bracket is regular.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some((number(11)? + number(12)?, number(13)? + number(14)?))
}

fn own_bytes_of(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_may_be_called_anything() {
        let stat = "42 (a) b (c)) S 7 42 42 0 -1 4194304 1 2 3 4 100 20 3 1 20 0 8 0 12345";
        assert_eq!(ticks(stat), Some((120, 4)));
        assert_eq!(ticks("42 (cut"), None);
    }

    #[test]
    fn this_very_process_is_seen_to_work() {
        let me = [Watched {
            name: "me".into(),
            pid: std::process::id(),
        }];
        let before = Reading::take(&me);
        let mut sum = 0_u64;
        while Reading::take(&me).cpu_ms_since(&before)[0] < 2.0 {
            sum = sum.wrapping_mul(31).wrapping_add(1);
        }
        std::hint::black_box(sum);
        assert!(me[0].own_bytes() > 100_000 && Reading::take(&me).seconds_since(&before) > 0.0);
    }
}
