//! T6: connections to the database end right after an append was sent, so nobody knows whether it happened.

use futures::FutureExt;

use super::roles;
use crate::{
    Fault,
    chaos::{Case, Scenario},
    system::Edge,
};

pub const SCENARIO: Scenario = Scenario {
    name: "unknown-commit",
    about: "appends of gateway and worker whose answer never comes: each happened once or not at all (T6)",
    long_only: false,
    play: |case| play(case).boxed_local(),
};

const CLIENTS: usize = 30;
const EDGES: [Edge; 2] = [Edge::GatewayPostgres, Edge::WorkerPostgres];
/// Names of events: only an append says them to the database.
const APPENDS: [&str; 4] = ["run.requested", "model.replied", "tool_call.succeeded", "run.completed"];

async fn play(case: &mut Case) {
    let mut stack = roles().network().start().await;
    let load = case.load(&stack, CLIENTS, None).await;
    let enough = case.pick(150, 500);
    let mut cut = 0;
    while cut < enough {
        for edge in EDGES {
            stack.network().edge(edge).set(Fault::NoAnswerTo(APPENDS.to_vec()));
        }
        case.pause(800, 1_500).await;
        stack.network().heal();
        case.pause(100, 300).await;
        cut = EDGES.iter().map(|edge| stack.network().edge(*edge).struck()).sum();
        case.progress(&load);
    }
    case.faults_by_the_network(cut);
    for edge in EDGES {
        let struck = stack.network().edge(edge).struck();
        case.require(struck > 0, format!("no append over {edge:?} lost its answer"));
    }
    case.finish(&mut stack, load).await;
    // Nobody died: whoever appended finds out what became of it, and goes on.
    case.require_every_orphan_excused();
}
