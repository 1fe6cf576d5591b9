//! T9: every edge of the network breaks in every way, one after the other. Only the first gateway and the first worker
//! are behind that network: the others go on, and take over.

use std::time::Duration;

use futures::FutureExt;

use super::roles;
use crate::{
    Fault, Towards,
    chaos::{Case, Scenario},
    system::Edge,
};

pub const SCENARIO: Scenario = Scenario {
    name: "network",
    about: "each edge cut, silent, deaf in one direction, slow, and resetting every second connection (T9)",
    long_only: false,
    play: |case| play(case).boxed_local(),
};

const CLIENTS: usize = 30;
/// Longer than a lease: what is cut off is taken over, and comes back to find out.
const BROKEN_MS: u64 = 4_000;

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
    for fault in &faults {
        for edge in Edge::ALL {
            let proxy = stack.network().edge(edge);
            let met = proxy.struck();
            proxy.set(fault.clone());
            // The other edges are whole: some run ends whatever is wrong here.
            let before = load.ended();
            case.pause(BROKEN_MS, BROKEN_MS + 1_000).await;
            case.require(
                stack.network().edge(edge).struck() > met,
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
