//! The one process of `steadfast dev` dies by SIGKILL under load and goes on from its data directory.

use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::FutureExt;

use super::{AGENT, model};
use crate::{
    Settings,
    chaos::{Case, Scenario},
    system::{Layout, now},
};

pub const SCENARIO: Scenario = Scenario {
    name: "dev-restart",
    about: "SIGKILL of `steadfast dev` under load, and a start on its data; a run ends within 0.5 s of the start",
    long_only: false,
    play: |case| play(case).boxed_local(),
};

const CLIENTS: usize = 16;
/// From the start of the process to the first run it brings to its end.
const FIRST_END_MAX: Duration = Duration::from_millis(500);

/// What a restart costs must not hide behind a slow model.
fn quick() -> Settings {
    Settings {
        ttft_ms: 20,
        token_ms: 2,
        ..model()
    }
}

async fn play(case: &mut Case) {
    let layout = Layout::embedded().model(quick()).agent("assistant", AGENT);
    let mut stack = layout.start().await;
    let load = case.load(&stack, CLIENTS, None).await;
    let (kills, mut starts) = (case.pick(5, 30), vec![]);
    while case.faults() < kills {
        case.pause(1_500, 3_000).await;
        case.kill(&mut stack.gateways[0]);
        starts.push(now());
        stack.gateways[0].launch();
        stack.gateways[0].ready().await;
        case.progress(&load);
    }
    case.pause(1_000, 1_000).await;
    let rides = case.all_end(load.finish()).await;
    let mut ends: Vec<DateTime<Utc>> = (rides.iter())
        .filter_map(|ride| ride.transcript.0.last()?.value()["time"].as_str()?.parse().ok())
        .collect();
    ends.sort_unstable();
    let first_ends: Vec<u64> = (starts.iter())
        .filter_map(|start| {
            ends.iter()
                .find(|end| *end > start)
                .map(|end| (*end - *start).num_milliseconds())
        })
        .map(i64::unsigned_abs)
        .collect();
    let slowest = first_ends.iter().max().copied().unwrap_or_default();
    case.note(format!("from a start to the first end of a run: {first_ends:?} ms"));
    case.settle(&mut stack, &rides, 0).await;
    case.require(first_ends.len() == starts.len(), "no run ended after a restart");
    case.require_every_orphan_excused();
    case.require_in_time(
        u128::from(slowest) <= FIRST_END_MAX.as_millis(),
        format!("first end {slowest} ms after a start, promised within {FIRST_END_MAX:?}"),
    );
}
