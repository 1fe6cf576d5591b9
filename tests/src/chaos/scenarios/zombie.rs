//! T7: a worker is frozen for longer than its lease, its runs are taken over, and it wakes up believing it holds them.

use std::time::Duration;

use futures::FutureExt;

use super::roles;
use crate::chaos::{Case, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "zombie",
    about: "SIGSTOP of a worker for twice its lease, takeover, SIGCONT; nothing it says about those runs is written (T7)",
    long_only: false,
    play: |case| play(case).boxed_local(),
};

const CLIENTS: usize = 24;
const LEASE: Duration = Duration::from_secs(2);

async fn play(case: &mut Case) {
    let mut stack = roles().start().await;
    let load = case.load(&stack, CLIENTS, None).await;
    let rounds = case.pick(4, 30);
    while case.faults() < rounds {
        case.pause(1_000, 2_000).await;
        let at = case.chance.below(stack.workers.len() as u64) as usize;
        case.freeze(&mut stack.workers[at]);
        tokio::time::sleep(2 * LEASE).await;
        stack.workers[at].sigcont();
        case.progress(&load);
    }
    case.finish(&mut stack, load).await;
    let mut fenced = 0.0;
    for worker in &stack.workers {
        fenced += worker
            .metric("steadfast_fenced_appends_total", "")
            .await
            .unwrap_or_default();
    }
    let taken = case.takeovers();
    case.note(format!(
        "{taken} runs were taken from frozen workers, which met a newer claim {fenced} times"
    ));
    case.require(
        taken > 0,
        "no run was taken from a frozen worker: the scenario shows nothing",
    );
    case.require_every_orphan_excused();
}
