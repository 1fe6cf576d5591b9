//! T17: many clients that let go of their streams all the time, some over slow lines, while workers die.

use std::sync::Arc;

use futures::FutureExt;

use super::{all_ready, roles};
use crate::{
    chaos::{Case, Load, Scenario},
    system::{Api, Throttle, sessions},
};

pub const SCENARIO: Scenario = Scenario {
    name: "streams",
    about: "many clients that drop their streams at random, some on slow lines, while workers die; each sees its run exactly (T17)",
    long_only: false,
    play: |case| play(case).boxed_local(),
};

/// A client lets go after 1 to this many frames.
const FRAMES_MAX: u64 = 30;
/// A run's stream of some 20 kB takes longer than the run.
const SLOW_BYTES_PER_SECOND: u64 = 8_000;

async fn play(case: &mut Case) {
    let mut stack = roles().gateways(2).workers(3).start().await;
    let mut slow_lines = vec![];
    for gateway in &stack.gateways {
        slow_lines.push(Throttle::slow(&gateway.url(), SLOW_BYTES_PER_SECOND).await);
    }
    let slow: Vec<Api> = slow_lines.iter().map(|line| Api::new(&line.url)).collect();
    let sessions = sessions(&stack.api(), 4).await;
    let slow = Load::on(Arc::new(slow), sessions, case.pick(8, 30), None);
    let load = case.load(&stack, case.pick(60, 300), Some(FRAMES_MAX)).await;
    let kills = case.pick(12, 40);
    while case.faults() < kills {
        case.pause(1_000, 2_500).await;
        let victim = case.chance.below(stack.workers.len() as u64) as usize;
        case.kill(&mut stack.workers[victim]);
        stack.workers[victim].launch();
        case.progress(&load);
    }
    all_ready(&mut stack).await;
    let (load, slow) = case.all_end(async { tokio::join!(load.finish(), slow.finish()) }).await;
    let drops: u64 = load.iter().map(|ride| ride.reconnects).sum();
    let inside: u64 = load.iter().map(|ride| ride.inside_steps).sum();
    case.note(format!(
        "{drops} drops, {inside} of them inside a step; {} runs were read over slow lines",
        slow.len()
    ));
    let rides: Vec<_> = load.into_iter().chain(slow).collect();
    case.settle(&mut stack, &rides, 0).await;
    case.require(inside > drops / 10, "too few drops fell inside a step to mean anything");
    case.require_every_orphan_excused();
}
