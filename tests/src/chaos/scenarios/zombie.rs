//! T7: workers are frozen for longer than their leases, their runs are taken over, and they wake up believing they hold
//! them.

use std::time::Duration;

use futures::FutureExt;

use super::roles;
use crate::chaos::{Case, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "zombie",
    about: "SIGSTOP of half of the workers for twice their lease, takeover, SIGCONT; nothing they say of those runs is written (T7)",
    long_only: false,
    play: |case| play(case).boxed_local(),
};

const CLIENTS: usize = 40;
const WORKERS: usize = 8;
/// At the same time: the others take over.
const FROZEN: usize = 4;
const LEASE: Duration = Duration::from_secs(2);

async fn play(case: &mut Case) {
    let mut stack = roles().workers(WORKERS).start().await;
    let load = case.load(&stack, CLIENTS, None).await;
    for _ in 0..case.pick(2, 50) {
        // Those that were frozen last have something to do again.
        case.pause(500, 1_500).await;
        let mut awake: Vec<usize> = (0..WORKERS).collect();
        let mut frozen = vec![];
        while frozen.len() < FROZEN {
            let at = awake.swap_remove(case.chance.below(awake.len() as u64) as usize);
            case.freeze(&mut stack.workers[at]);
            frozen.push(at);
        }
        tokio::time::sleep(2 * LEASE).await;
        frozen.iter().for_each(|at| stack.workers[*at].sigcont());
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
    case.require(
        fenced > 0.0,
        "no worker that woke up was refused: the scenario shows nothing of fencing",
    );
    case.require_every_orphan_excused();
}
