//! Where the clock, randomness and the machine's name come in. Everything else gets them as arguments.

use steadfast::run::Time;
use uuid::Uuid;

#[expect(clippy::disallowed_methods, reason = "the edge: time comes in here")]
pub fn now() -> Time {
    chrono::Utc::now()
}

#[expect(clippy::disallowed_methods, reason = "the edge: randomness comes in here")]
pub fn new_id() -> Uuid {
    Uuid::now_v7()
}

/// Names a worker among all that are alive: the machine, the process, and a suffix for when both come again.
pub fn worker_id() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let host = host.or_else(|| std::env::var("HOSTNAME").ok()).unwrap_or_default();
    let host: String = host.trim().chars().take(60).collect();
    let host = if host.is_empty() { "worker" } else { &host };
    // The last part of a version 7 id is random.
    format!("{host}-{}-{:08x}", std::process::id(), new_id().as_u128() as u32)
}
