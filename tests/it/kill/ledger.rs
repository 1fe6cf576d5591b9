//! After a siege: what was promised, what is in the log, what the clients saw and what the model was asked.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use chrono::{DateTime, Utc};

use crate::support::{Ride, Stack, Transcript};

/// One line about a siege.
#[derive(Default)]
pub struct Figures {
    accepted: usize,
    lost: usize,
    doubled: usize,
    orphaned: usize,
    reconnects: u64,
    takeovers: usize,
    slowest_takeover_ms: i64,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            accepted,
            lost,
            doubled,
            orphaned,
            reconnects,
            takeovers,
            slowest_takeover_ms,
        } = self;
        write!(
            f,
            "{accepted} runs accepted, {lost} lost, {doubled} doubled, {orphaned} calls orphaned, {takeovers} takeovers \
             (the slowest after {slowest_takeover_ms} ms), {reconnects} reconnects"
        )
    }
}

/// Holds everything against everything. Panics at the first promise that was not kept.
pub async fn settle(stack: &Stack, rides: &[Ride]) -> Figures {
    let mut figures = Figures::default();
    let faults: Vec<_> = rides
        .iter()
        .filter_map(|ride| Some((&ride.key, ride.run.as_ref(), ride.fault.as_ref()?)))
        .collect();
    figures.lost = rides
        .iter()
        .filter(|ride| ride.run.is_some() && !ride.transcript.ended())
        .count();
    assert!(
        faults.is_empty(),
        "{} clients did not arrive, {} of them with an accepted run: {faults:#?}",
        faults.len(),
        figures.lost
    );

    let mut run_of_key: BTreeMap<&str, &str> = BTreeMap::new();
    for ride in rides {
        let run = ride.run.as_deref().expect("a client arrives with a run");
        run_of_key.insert(&ride.key, run);
        figures.reconnects += ride.reconnects;
        ride.transcript.assert_sound();
    }
    figures.accepted = run_of_key.len();
    let runs: BTreeSet<_> = run_of_key.values().collect();
    assert_eq!(runs.len(), rides.len(), "two keys got one run");

    // I1–I6 and I11, by the operator's own tool; and not one run more than there are keys.
    let report = stack.check_settled().await;
    let stored = report["runs"]
        .as_u64()
        .and_then(|runs| usize::try_from(runs).ok())
        .expect("a number of runs");
    figures.doubled = stored.saturating_sub(rides.len());
    assert_eq!(stored, rides.len(), "runs in the log against keys: {report}");

    let model = stack.model().stats();
    let api = stack.api();
    for ride in rides {
        let run = ride.run.as_deref().expect("asserted");
        let replay = api.replay(run).await;
        replay.assert_sound();
        assert_eq!(replay.count("step.reset"), 0, "a replay has nothing to take back");
        ride.transcript.assert_same(&replay);
        let calls = model.calls_for(ride.body["input"].as_str().expect("a text"));
        account(&replay, calls, &mut figures);
    }
    figures
}

/// The model's own count of a run's calls against what the log says.
fn account(replay: &Transcript, calls: u64, figures: &mut Figures) {
    let count = |name| replay.count(name) as u64;
    let (recorded, orphaned) = (count("model_call.requested"), count("model_call.orphaned"));
    let answered = count("model.replied") + count("model_call.failed");
    let run = &replay.0[0].json;
    assert!(
        calls <= recorded,
        "the model was asked {calls} times, {recorded} are in the log: {run}"
    );
    assert!(
        calls <= answered + orphaned,
        "{calls} calls, {answered} answered and {orphaned} orphaned: {run}"
    );
    figures.orphaned += replay.count("model_call.orphaned");
    let mut before: Option<DateTime<Utc>> = None;
    for event in replay.events() {
        let value = event.value();
        let time: DateTime<Utc> = value["time"]
            .as_str()
            .and_then(|text| text.parse().ok())
            .expect("a time");
        let taken_over = event.name == "run.resumed" && replay_cut(replay, event.cursor().version);
        if let (true, Some(before)) = (taken_over, before) {
            figures.takeovers += 1;
            figures.slowest_takeover_ms = figures.slowest_takeover_ms.max((time - before).num_milliseconds());
        }
        before = Some(time);
    }
}

/// Whether the claim at this version took the run from a worker, and did not only follow a client's output.
fn replay_cut(replay: &Transcript, version: u64) -> bool {
    let names = replay.names();
    let before = usize::try_from(version)
        .ok()
        .and_then(|version| names.get(version.checked_sub(2)?));
    before.is_some_and(|before| *before != "tool_call.succeeded" && *before != "tool_call.failed")
}
