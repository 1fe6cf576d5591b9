//! T1: workers die by SIGKILL, one after another, at random moments, under load.

use std::time::Duration;

use futures::FutureExt;

use super::{all_ready, roles};
use crate::chaos::{Case, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "worker-kill",
    about: "SIGKILL of a random worker of four, again and again, under load; another takes over within 3 s (T1)",
    long_only: false,
    play: |case| play(case).boxed_local(),
};

const CLIENTS: usize = 40;
const WORKERS: usize = 4;
/// From the kill of the worker that held a run to its next claim, of all but a hundredth of them.
const TAKEOVER_MAX: Duration = Duration::from_secs(3);

async fn play(case: &mut Case) {
    let mut stack = roles().workers(WORKERS).start().await;
    let load = case.load(&stack, CLIENTS, None).await;
    let kills = case.pick(60, 200);
    while case.faults() < kills {
        case.pause(300, 1_200).await;
        let victim = case.chance.below(WORKERS as u64) as usize;
        case.kill(&mut stack.workers[victim]);
        stack.workers[victim].launch();
        case.progress(&load);
    }
    all_ready(&mut stack).await;
    case.finish(&mut stack, load).await;
    case.require_every_orphan_excused();
    case.require_takeovers_within(TAKEOVER_MAX);
}
