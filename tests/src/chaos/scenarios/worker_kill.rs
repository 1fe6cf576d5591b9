//! T1: workers die by SIGKILL, one after another, at random moments, under load.

use std::time::{Duration, Instant};

use futures::FutureExt;

use super::{all_ready, roles};
use crate::{
    chaos::{Case, Scenario},
    system::Stack,
};

pub const SCENARIO: Scenario = Scenario {
    name: "worker-kill",
    about: "SIGKILL of a random worker of four, again and again, under load; another takes over within 3 s (T1)",
    long_only: false,
    play: |case| play(case).boxed_local(),
};

const CLIENTS: usize = 24;
const WORKERS: usize = 4;
/// From the kill of the worker that held a run to its next claim, of all but a hundredth of them.
const TAKEOVER_MAX: Duration = Duration::from_secs(3);

/// Workers that are left when one is killed.
const STANDING_MIN: usize = 2;
/// A machine that is too slow for all kills does fewer in this time, and the table says how many.
const SHORT_MAX: Duration = Duration::from_secs(40);
const LONG_MAX: Duration = Duration::from_secs(500);

async fn play(case: &mut Case) {
    let mut stack = roles().workers(WORKERS).start().await;
    let load = case.load(&stack, CLIENTS, None).await;
    let begun = Instant::now();
    // 200 kills without a loss bound a kill's chance of one to 1.5 % at 95 % confidence.
    let (kills, kills_min) = case.pick((60, 20), (220, 200));
    while case.faults() < kills {
        case.pause(300, 700).await;
        // Takeover needs somebody to take over, and a start takes its time on a slow machine.
        let victim = case.chance.below(WORKERS as u64) as usize;
        if begun.elapsed() > case.pick(SHORT_MAX, LONG_MAX) {
            break;
        }
        if others_ready(&stack, victim).await < STANDING_MIN {
            continue;
        }
        case.kill(&mut stack.workers[victim]);
        stack.workers[victim].launch();
        case.progress(&load);
    }
    all_ready(&mut stack).await;
    case.finish(&mut stack, load).await;
    case.require(
        case.faults() >= kills_min,
        format!("fewer than {kills_min} kills: the machine is too slow"),
    );
    case.require_every_orphan_excused();
    case.require_takeovers_within(TAKEOVER_MAX);
}

async fn others_ready(stack: &Stack, victim: usize) -> usize {
    let mut ready = 0;
    for (at, worker) in stack.workers.iter().enumerate() {
        ready += usize::from(at != victim && worker.is_ready().await);
    }
    ready
}
