//! One scenario under way: what it has done, and what came of it.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use crate::system::{Chance, Kill, Ride, Role, SETTLE_MAX, Settled, Stack, now, settle};

use super::Load;

/// What a scenario works with. Its words, in the order a scenario uses them: [`Case::load`], faults ([`Case::kill`],
/// [`Case::fault`]) with [`Case::pause`] in between, [`Case::finish`], and [`Case::require`] for what is special to it.
///
/// It says of itself what was checked: whoever compares something adds the names of the invariants to it.
pub struct Case {
    pub name: &'static str,
    /// The long form: as many faults as the promise names, not as many as fit into minutes.
    pub long: bool,
    pub chance: Chance,
    strict: bool,
    begun: Instant,
    told: Instant,
    pub(super) faults: u64,
    pub(super) kills: Vec<Kill>,
    pub(super) settled: Settled,
    /// Deliveries of commands beyond those that led to a claim, in hundredths of these.
    pub(super) extra_deliveries: Option<f64>,
    /// Answers that told a client to come back later.
    pub refusals: u64,
    pub(super) violations: Vec<String>,
    /// Promises of this scenario's own that were held against what happened.
    pub(super) required: u64,
    pub(super) notes: Vec<String>,
    /// Invariants that were looked at.
    pub(super) checked: BTreeSet<u8>,
    pub(super) played: bool,
}

/// What `steadfast check` looks at in the log and the read models.
const BY_THE_LOG: [u8; 9] = [1, 4, 5, 6, 7, 8, 9, 11, 14];
/// What the clients' own notes and transcripts show.
const BY_THE_CLIENTS: [u8; 3] = [2, 3, 10];

impl Case {
    pub(super) fn new(name: &'static str, long: bool, strict: bool, seed: u64) -> Self {
        Self {
            name,
            long,
            strict,
            chance: Chance::new(seed),
            begun: Instant::now(),
            told: Instant::now(),
            faults: 0,
            kills: vec![],
            settled: Settled::default(),
            extra_deliveries: None,
            refusals: 0,
            violations: vec![],
            required: 0,
            notes: vec![],
            checked: BTreeSet::new(),
            played: true,
        }
    }

    /// One number for the short form, another for the long.
    pub fn pick<T>(&self, short: T, long: T) -> T {
        if self.long { long } else { short }
    }

    /// Clients at work; see [`Load::start`]. Back when the first runs have ended.
    pub async fn load(&mut self, stack: &Stack, clients: usize, drops: Option<u64>) -> Load {
        let drops = drops.map(|frames| (frames, &mut self.chance));
        let load = Load::start(stack, clients, drops).await;
        load.until_ended(clients / 2).await;
        load
    }

    pub fn orphaned(&self) -> usize {
        self.settled.orphaned
    }

    pub fn takeovers(&self) -> usize {
        self.settled.takeovers_ms.len()
    }

    pub fn faults(&self) -> u64 {
        self.faults
    }

    /// A fault was done that is no kill of a worker.
    pub fn fault(&mut self) {
        self.faults += 1;
    }

    /// SIGKILL, remembered: whoever it held runs of must be replaced in time.
    pub fn kill(&mut self, role: &mut Role) {
        if let Some(pid) = role.pid() {
            let at = now();
            role.kill9();
            self.kills.push(Kill { pid, at, done: now() });
            self.faults += 1;
        }
    }

    /// SIGSTOP, remembered as a kill: what it holds must be taken over all the same.
    pub fn freeze(&mut self, role: &mut Role) {
        if let Some(pid) = role.pid() {
            let at = now();
            role.sigstop();
            self.kills.push(Kill { pid, at, done: now() });
            self.faults += 1;
        }
    }

    /// So many faults were done by the network.
    pub fn faults_by_the_network(&mut self, faults: u64) {
        self.faults += faults;
    }

    /// A process has died by itself, as it was told to.
    pub fn died(&mut self, pid: u32) {
        let at = now();
        self.kills.push(Kill { pid, at, done: at });
        self.faults += 1;
    }

    /// A while by chance.
    pub async fn pause(&mut self, from_ms: u64, to_ms: u64) {
        let pause = from_ms + self.chance.below(to_ms.saturating_sub(from_ms) + 1);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }

    /// Says now and then how far the scenario is.
    pub fn progress(&mut self, load: &Load) {
        const EVERY: Duration = Duration::from_secs(10);
        if self.told.elapsed() >= EVERY {
            self.told = Instant::now();
            let (at, faults, ended) = (self.begun.elapsed().as_secs(), self.faults, load.ended());
            println!("  {} at {at} s: {faults} faults, {ended} runs ended", self.name);
        }
    }

    /// There is something this scenario needs and does not have: the table says so, and nothing else about it.
    pub fn not_played(&mut self, why: &str) {
        self.played = false;
        self.note(format!("not played: {why}"));
    }

    pub(super) fn verdict(&self) -> &'static str {
        match (self.violations.is_empty(), self.played) {
            (false, _) => "FAILED",
            (true, false) => "not played",
            (true, true) => "ok",
        }
    }

    /// Something worth a line under the table.
    pub fn note(&mut self, note: impl Into<String>) {
        let note = note.into();
        println!("  {}: {note}", self.name);
        self.notes.push(note);
    }

    /// What must be true in this scenario beside what is true in all.
    pub fn require(&mut self, holds: bool, what: impl Into<String>) {
        self.required += 1;
        if !holds {
            self.violations.push(what.into());
        }
    }

    /// The faults are over: every run ends, and everything is held against everything.
    pub async fn finish(&mut self, stack: &mut Stack, load: Load) {
        let rides = self.all_end(load.finish()).await;
        self.settle(stack, &rides, 0).await;
    }

    /// The faults are over: whatever is waited for here, it takes no longer than runs may take to end.
    pub async fn all_end<T>(&mut self, ends: impl Future<Output = T>) -> T {
        let begun = Instant::now();
        let ended = ends.await;
        let took = begun.elapsed();
        self.require(
            took <= SETTLE_MAX,
            format!("I4: the last run ended {took:?} after the last fault"),
        );
        ended
    }

    /// As [`Case::finish`], for a scenario with clients of its own. `others`: runs in the log that no ride is about.
    pub async fn settle(&mut self, stack: &mut Stack, rides: &[Ride], others: usize) {
        self.refusals = rides.iter().map(|ride| ride.refusals).sum();
        self.checked.extend(BY_THE_CLIENTS.iter().chain(&BY_THE_LOG));
        let mut settled = settle(stack, rides, others, &self.kills).await;
        self.violations.append(&mut settled.violations);
        self.settled = settled;
        let failed = std::mem::take(&mut self.settled.failed);
        let some = failed.first().map(String::as_str).unwrap_or_default();
        self.require(
            failed.is_empty(),
            format!(
                "{} runs should have completed and did not, such as {some}",
                failed.len()
            ),
        );
        if !self.violations.is_empty() {
            let kept = stack.keep().display().to_string();
            self.notes.push(format!("logs and data are kept in {kept}"));
            self.notes.append(&mut stack.states().await);
        }
    }

    /// The operator's own check of the whole database, for a scenario whose clients keep no transcripts.
    pub async fn check_log(&mut self, stack: &Stack) {
        self.checked.extend(BY_THE_LOG);
        let report = stack.check().await;
        self.require(report["ok"] == true, format!("check: {report}"));
    }

    /// Which deliveries of commands led to nothing, by the workers' own counts: for scenarios that spare the workers.
    /// None: nothing was counted.
    pub async fn count_deliveries(&mut self, stack: &Stack) -> Option<f64> {
        let (mut claimed, mut extra) = (0.0, 0.0);
        for worker in &stack.workers {
            let count = async |outcome| {
                let label = format!("outcome=\"{outcome}\"");
                worker
                    .metric("steadfast_deliveries_total", &label)
                    .await
                    .unwrap_or_default()
            };
            claimed += count("claimed").await;
            extra += count("in_vain").await + count("in_hand").await;
        }
        self.extra_deliveries = (claimed > 0.0).then(|| 100.0 * extra / claimed);
        self.extra_deliveries
    }

    /// Calls were repeated only where a killed worker had one in flight, and each is in the log.
    pub fn require_every_orphan_excused(&mut self) {
        let (orphaned, excused) = (self.settled.orphaned, self.settled.excused);
        self.require(
            orphaned == excused,
            format!("I7: {orphaned} calls orphaned, only {excused} of them in the hands of a killed process"),
        );
    }

    /// A time that was promised. On a machine that is busy with other things it says little: it fails a case only where
    /// the suite was asked to be strict.
    pub fn require_in_time(&mut self, holds: bool, what: impl Into<String>) {
        if self.strict {
            self.require(holds, what);
        } else if !holds {
            self.note(format!("SLOWER THAN PROMISED {}", what.into()));
        }
    }

    pub fn require_takeovers_within(&mut self, limit: Duration) {
        let p99 = self.settled.takeover_ms(0.99);
        self.require(p99.is_some(), "no run was taken over: the scenario shows nothing");
        self.require_in_time(
            p99.is_some_and(|p99| u128::from(p99) <= limit.as_millis()),
            format!("takeover: p99 {p99:?} ms, promised within {limit:?}"),
        );
    }
}
