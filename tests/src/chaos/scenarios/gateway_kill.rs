//! T2: gateways die by SIGKILL while clients post and stream; each client posts again with its key and reconnects at
//! its cursor, at whichever gateway answers.

use futures::FutureExt;

use super::{all_ready, roles};
use crate::chaos::{Case, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "gateway-kill",
    about: "SIGKILL of a gateway of two, again and again, under streams and posts; nothing is lost, doubled or unseen (T2)",
    long_only: false,
    play: |case| play(case).boxed_local(),
};

const GATEWAYS: usize = 2;

async fn play(case: &mut Case) {
    let mut stack = roles().gateways(GATEWAYS).start().await;
    let load = case.load(&stack, case.pick(40, 200), None).await;
    let kills = case.pick(30, 200);
    while case.faults() < kills {
        case.pause(200, 900).await;
        let victim = case.chance.below(GATEWAYS as u64) as usize;
        case.kill(&mut stack.gateways[victim]);
        stack.gateways[victim].launch();
        case.progress(&load);
    }
    all_ready(&mut stack).await;
    case.finish(&mut stack, load).await;
    // No worker was touched: no call may have been made twice.
    case.require_every_orphan_excused();
}
