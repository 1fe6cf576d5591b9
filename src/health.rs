//! Health is progress, not a constant: a part that stopped moving is not ready, however alive its process is.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::Instant;

/// The parts of one process and when each last did work, or looked for work and found none.
#[derive(Clone, Default)]
pub struct Health {
    parts: Arc<Mutex<BTreeMap<&'static str, Part>>>,
}

struct Part {
    last: Instant,
    silence_max: Duration,
    trouble: Option<String>,
}

/// One part's line in `/readyz`.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct PartReport {
    pub part: &'static str,
    pub ready: bool,
    pub silent_ms: u64,
    pub trouble: Option<String>,
}

impl Health {
    /// A part that promises a sign of progress at least this often.
    pub fn expect(&self, part: &'static str, silence_max: Duration) {
        let trouble = Some("has not done anything yet".into());
        self.lock().insert(
            part,
            Part {
                last: Instant::now(),
                silence_max,
                trouble,
            },
        );
    }

    pub fn progress(&self, part: &'static str) {
        if let Some(part) = self.lock().get_mut(part) {
            part.last = Instant::now();
            part.trouble = None;
        }
    }

    /// The part tried and failed. The reason is shown to operators: no secrets in it.
    pub fn trouble(&self, part: &'static str, reason: impl Into<String>) {
        if let Some(part) = self.lock().get_mut(part) {
            part.trouble = Some(reason.into());
        }
    }

    pub fn report(&self) -> Vec<PartReport> {
        (self.lock().iter())
            .map(|(name, part)| {
                let silent = part.last.elapsed();
                PartReport {
                    part: name,
                    ready: part.trouble.is_none() && silent <= part.silence_max,
                    silent_ms: silent.as_millis().try_into().unwrap_or(u64::MAX),
                    trouble: part.trouble.clone(),
                }
            })
            .collect()
    }

    pub fn is_ready(&self) -> bool {
        self.report().iter().all(|part| part.ready)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, Part>> {
        self.parts.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_ready_only_after_progress_and_only_for_a_while() {
        let health = Health::default();
        health.expect("worker", Duration::from_millis(30));
        assert!(!health.is_ready(), "nothing was done yet");
        health.progress("worker");
        assert!(health.is_ready());
        health.trouble("worker", "the queue is away");
        assert!(!health.is_ready());
        health.progress("worker");
        std::thread::sleep(Duration::from_millis(60));
        assert!(!health.is_ready(), "silent for too long");
    }
}
