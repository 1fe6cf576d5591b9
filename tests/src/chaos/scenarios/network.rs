//! T9: every edge of the network breaks in every way, one after the other. Only the first gateway and the first worker
//! are behind that network: the others go on, and take over.

use std::time::{Duration, Instant};

use futures::FutureExt;

use super::roles;
use crate::{
    Fault, Proxy, Towards,
    chaos::{Case, Scenario},
    system::Edge,
};

pub const SCENARIO: Scenario = Scenario {
    name: "network",
    about: "each edge cut, silent, deaf in one direction, slow, resetting every second connection; the short form draws two (T9)",
    long_only: false,
    play: |case| play(case).boxed_local(),
};

const CLIENTS: usize = 30;
/// Longer than a lease: what is cut off is taken over, and comes back to find out.
const BROKEN_SHORT_MS: u64 = 2_500;
const BROKEN_LONG_MS: u64 = 3_500;
/// Somebody comes by every edge.
const MET_WITHIN: Duration = Duration::from_secs(15);
/// Of each edge, in the short form: which, the seed says.
const WAYS_SHORT: usize = 2;

async fn play(case: &mut Case) {
    let mut stack = roles().gateways(2).network().start().await;
    let load = case.load(&stack, CLIENTS, None).await;
    let faults = [
        Fault::Cut,
        Fault::Silent,
        Fault::Deaf(Towards::Server),
        Fault::Deaf(Towards::Client),
        Fault::Late(case.pick(Duration::from_millis(400), Duration::from_secs(5))),
        Fault::Resets,
    ];
    let (ways, broken_ms) = case.pick((WAYS_SHORT, BROKEN_SHORT_MS), (faults.len(), BROKEN_LONG_MS));
    let mut left = Edge::ALL.map(|_| faults.to_vec());
    // One edge after the other: who was cut off on one is back before it is hurt there again.
    for _ in 0..ways {
        for (edge, left) in Edge::ALL.into_iter().zip(&mut left) {
            let fault = left.swap_remove(case.chance.below(left.len() as u64) as usize);
            let proxy = stack.network().edge(edge);
            let met = proxy.struck();
            proxy.set(fault.clone());
            // The other edges are whole: some run ends whatever is wrong here.
            let before = load.ended();
            case.pause(broken_ms, broken_ms + 1_000).await;
            case.require(
                is_met(proxy, met).await,
                format!("{edge:?} was {fault:?} and nothing met it"),
            );
            stack.network().heal();
            case.fault();
            load.until_ended(usize::from(load.ended() == before)).await;
            case.progress(&load);
        }
    }
    case.finish(&mut stack, load).await;
}

/// Whether the fault meets anything, now or soon.
async fn is_met(proxy: &Proxy, before: u64) -> bool {
    let begun = Instant::now();
    while proxy.struck() == before && begun.elapsed() < MET_WITHIN {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    proxy.struck() > before
}
