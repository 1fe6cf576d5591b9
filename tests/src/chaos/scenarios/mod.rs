//! Every scenario there is: one file each, listed here.

pub mod crash_points;
mod dev_restart;
mod disk_full;
mod gap_stress;
mod gateway_kill;
mod nats_adversary;
mod nats_wipe;
mod network;
mod overload;
mod postgres_kill;
mod rebuild_live;
mod soak;
mod streams;
mod unknown_commit;
mod worker_kill;
mod zombie;

use super::Scenario;
use crate::{
    Settings,
    system::{Layout, Stack},
};

pub static SCENARIOS: &[Scenario] = &[
    worker_kill::SCENARIO,
    gateway_kill::SCENARIO,
    nats_wipe::SCENARIO,
    postgres_kill::SCENARIO,
    zombie::SCENARIO,
    streams::SCENARIO,
    dev_restart::SCENARIO,
    rebuild_live::SCENARIO,
    gap_stress::SCENARIO,
    overload::SCENARIO,
    unknown_commit::SCENARIO,
    network::SCENARIO,
    nats_adversary::SCENARIO,
    disk_full::SCENARIO,
    crash_points::SCENARIO,
    soak::SCENARIO,
];

/// A run takes a second or so: long enough to be met in every state.
fn model() -> Settings {
    Settings {
        ttft_ms: 60,
        token_ms: 6,
        tokens: 40,
        ..Settings::default()
    }
}

/// What the agent costs makes the price of an orphaned call visible; and a suite that kills workers for its purposes
/// may take more of them, and more calls, from one run than the defaults allow before it fails.
const AGENT: &str = r#"
name = "assistant"
model = "default"
instructions = "You answer in plain words."
tools = ["clock", "calculator"]
[limits]
claims_max = 100
model_attempts_max = 100
[price]
input_usd_per_million = 1.0
output_usd_per_million = 4.0
"#;

/// Separate processes on a Postgres and a NATS of their own, all of which may be killed.
fn roles() -> Layout {
    Layout::distributed()
        .model(model())
        .agent("assistant", AGENT)
        .private_servers()
}

/// Workers are started again without waiting for them; some scenarios end before they are back.
async fn all_ready(stack: &mut Stack) {
    for role in stack.roles() {
        if role.pid().is_none() {
            role.launch();
        }
        role.ready().await;
    }
}
