//! When a system is at rest again: what was promised, what is in the log, what the clients saw and what the model was
//! asked, held against each other.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use chrono::{DateTime, Utc};
use futures::{StreamExt, stream};
use serde_json::Value;

use super::{Ride, Stack, Transcript};

/// Streams replayed at the same time.
const REPLAYS: usize = 8;

/// A process that was killed or frozen, and when.
#[derive(Debug, Clone, Copy)]
pub struct Kill {
    pub pid: u32,
    /// Right before.
    pub at: DateTime<Utc>,
    /// From then on it surely did nothing.
    pub done: DateTime<Utc>,
}

/// The time of day, as the processes under test have it.
pub fn now() -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + crate::since_epoch()
}

/// What came of some runs.
#[derive(Debug, Default)]
pub struct Settled {
    pub accepted: usize,
    /// Accepted, and their clients have not seen an end.
    pub lost: usize,
    /// Runs in the log beyond one for each key.
    pub doubled: usize,
    /// Ended otherwise than completed.
    pub failed: Vec<String>,
    /// Model calls the model saw beyond those whose outcome is in the log.
    pub repeated: u64,
    /// Model calls the log holds as orphaned.
    pub orphaned: usize,
    /// Of these, in the hands of a process that was killed.
    pub excused: usize,
    pub reconnects: u64,
    /// From the kill of the worker that held a run to the next claim of it, where both are known.
    pub takeovers_ms: Vec<u64>,
    /// Every promise that was not kept.
    pub violations: Vec<String>,
}

impl fmt::Display for Settled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            accepted,
            lost,
            doubled,
            orphaned,
            repeated,
            reconnects,
            ..
        } = self;
        let slowest = self.takeovers_ms.iter().max().unwrap_or(&0);
        write!(
            f,
            "{accepted} runs accepted, {lost} lost, {doubled} doubled, {orphaned} calls orphaned ({repeated} of them \
             repeated), {} takeovers (the slowest after {slowest} ms), {reconnects} reconnects",
            self.takeovers_ms.len()
        )
    }
}

/// Holds everything against everything. `others`: runs in the log that no ride is about.
pub async fn settle(stack: &Stack, rides: &[Ride], others: usize, kills: &[Kill]) -> Settled {
    let mut settled = Settled::default();
    settled.clients(rides);
    settled.log(&stack.check().await, rides, others);

    let model = stack.model().stats();
    let api = stack.api();
    let replays = stream::iter(
        rides
            .iter()
            .filter(|ride| ride.run.is_some() && ride.transcript.ended()),
    )
    .map(|ride| {
        let api = api.clone();
        async move { (ride, api.replay(ride.run.as_deref().unwrap_or_default()).await) }
    })
    .buffer_unordered(REPLAYS);
    let mut replays = std::pin::pin!(replays);
    while let Some((ride, replay)) = replays.next().await {
        let run = ride.run.as_deref().unwrap_or_default();
        if let Err(fault) = replay.judge() {
            settled.violations.push(format!("I10 {run}: its replay: {fault}"));
        }
        if replay.count(super::RESET) > 0 {
            let fault = format!("I10 {run}: a replay has nothing to take back, and took something back");
            settled.violations.push(fault);
        }
        if let Err(fault) = ride.transcript.same(&replay) {
            settled.violations.push(format!("I10 {run}: {fault}"));
        }
        let calls = model.calls_for(ride.body["input"].as_str().unwrap_or_default());
        settled.account(run, &replay, calls);
        settled.takeovers(&replay, kills);
    }
    settled
}

impl Settled {
    /// Of the takeovers, the time that this share of them (0 to 1) did not exceed.
    pub fn takeover_ms(&self, share: f64) -> Option<u64> {
        let mut sorted = self.takeovers_ms.clone();
        sorted.sort_unstable();
        let rank = (share * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.max(1) - 1).copied()
    }

    /// I2, I3 and I10, by what the clients saw.
    fn clients(&mut self, rides: &[Ride]) {
        let mut run_of_key: BTreeMap<&str, &str> = BTreeMap::new();
        for ride in rides {
            self.reconnects += ride.reconnects;
            let Some(run) = ride.run.as_deref() else {
                let fault = ride.fault.as_deref().unwrap_or("it was not accepted");
                self.violations.push(format!("I2 key {}: {fault}", ride.key));
                continue;
            };
            run_of_key.insert(&ride.key, run);
            if !ride.transcript.ended() {
                self.lost += 1;
            }
            if let Some(fault) = &ride.fault {
                self.violations.push(format!("I4 {run}: {fault}"));
            } else if let Err(fault) = ride.transcript.judge() {
                self.violations.push(format!("I10 {run}: {fault}"));
            }
            let end = ride.transcript.0.last().map_or("", |last| last.name.as_str());
            if ride.transcript.ended() && end != "run.completed" {
                let why = ride.transcript.0.last().map(|last| last.data()["error"].to_string());
                let why = why.unwrap_or_default();
                self.failed.push(format!("{run}: {why}"));
            }
        }
        self.accepted = run_of_key.len();
        let runs: BTreeSet<_> = run_of_key.values().collect();
        if runs.len() != run_of_key.len() {
            self.violations.push("I3: two keys got one run".into());
        }
    }

    /// I1 and I4 to I14 by the operator's own tool; and not one run more than there are keys.
    fn log(&mut self, report: &Value, rides: &[Ride], others: usize) {
        for violation in report["violations"].as_array().into_iter().flatten() {
            self.violations.push(format!("check: {violation}"));
        }
        if report["ok"] != true && self.violations.is_empty() {
            self.violations.push(format!("check: {report}"));
        }
        for item in report["not_checked"].as_array().into_iter().flatten() {
            if item.as_str().is_some_and(|item| item.starts_with("I11 for projection")) {
                self.violations.push(format!("check: {item}"));
            }
        }
        let stored = report["runs"].as_u64().and_then(|runs| usize::try_from(runs).ok());
        let promised = rides.len() + others;
        let stored = stored.unwrap_or_default();
        self.doubled = stored.saturating_sub(promised);
        if stored != promised {
            self.violations
                .push(format!("I3: {stored} runs in the log, {promised} were asked for"));
        }
    }

    /// I6 and I7: the model's own count of a run's calls against what the log says.
    fn account(&mut self, run: &str, replay: &Transcript, calls: u64) {
        let count = |name| replay.count(name) as u64;
        let (recorded, orphaned) = (count("model_call.requested"), count("model_call.orphaned"));
        let answered = count("model.replied") + count("model_call.failed");
        if calls > recorded {
            self.violations.push(format!(
                "I6 {run}: the model was asked {calls} times, {recorded} are in the log"
            ));
        }
        if calls > answered + orphaned {
            self.violations.push(format!(
                "I7 {run}: {calls} calls, {answered} answered and {orphaned} orphaned"
            ));
        }
        self.repeated += calls.saturating_sub(answered);
    }

    /// Who held the run when, and how long it lay after each of them was killed.
    fn takeovers(&mut self, replay: &Transcript, kills: &[Kill]) {
        let mut holder: Option<(Option<u32>, DateTime<Utc>)> = None;
        let (mut before, mut from_killed) = ("", false);
        for event in replay.events() {
            let value = event.value();
            let time: Option<DateTime<Utc>> = value["time"].as_str().and_then(|text| text.parse().ok());
            let Some(time) = time else {
                self.violations
                    .push(format!("I1: an event without time: {}", event.json));
                return;
            };
            let killed = holder.and_then(|(pid, since)| {
                let hers =
                    |kill: &&Kill| pid.is_none_or(|pid| pid == kill.pid) && kill.done >= since && kill.at <= time;
                kills.iter().find(hers)
            });
            match event.name.as_str() {
                "model_call.orphaned" => {
                    self.orphaned += 1;
                    self.excused += usize::from(from_killed);
                    if value["data"]["charged_output_tokens"].as_u64().unwrap_or_default() == 0 {
                        self.violations
                            .push(format!("I6: an orphaned call was not charged: {}", event.json));
                    }
                }
                "run.started" | "run.resumed" => {
                    // After a client's output or a timer nobody held the run: that claim takes it from no one.
                    let held = !matches!(before, "tool_call.succeeded" | "tool_call.failed" | "model_call.parked");
                    // What the claim finds cut off is said right after it.
                    from_killed = killed.is_some();
                    if let (Some(kill), true) = (killed, held) {
                        self.takeovers_ms
                            .push((time - kill.at).num_milliseconds().unsigned_abs());
                    }
                    holder = Some((pid_of(value["data"]["worker"].as_str().unwrap_or_default()), time));
                }
                _ => {}
            }
            before = event.name.as_str();
        }
    }
}

/// Workers are called `host-pid-chance`; the one of `dev` has the same name in every life.
fn pid_of(worker: &str) -> Option<u32> {
    worker.rsplit('-').nth(1)?.parse().ok()
}

/// How long runs may take to end when nothing is wrong any more (I4).
pub const SETTLE_MAX: Duration = Duration::from_secs(60);
