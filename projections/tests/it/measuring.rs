//! How fast the read models follow. Run by hand, in release:
//! `cargo test --release -p steadfast-projections --test it -- --ignored --nocapture`

use std::{sync::Arc, time::Instant};

use steadfast::health::Health;
use steadfast_projections::{Projector, rebuild};
use tokio_util::sync::CancellationToken;

use crate::bed::Bed;

const RUNS: usize = 10_000;
const CALLERS: usize = 64;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: it proves nothing and takes a minute"]
async fn the_read_models_catch_up_follow_and_are_rebuilt() {
    let bed = Arc::new(Bed::new().await);
    fill(&bed).await;
    let events = bed
        .store
        .db
        .fetch("select count(*) as n from events", &[])
        .await
        .expect("rows")[0]
        .count("n")
        .expect("n");

    let meter = Meter::start();
    let stop = CancellationToken::new();
    let projector = Projector::new(bed.store.db.clone(), bed.store.reader.clone(), Health::default());
    let running = tokio::spawn(projector.run(stop.clone()));
    bed.followed().await;
    meter.tell("catching up with three projections", events, RUNS);

    let meter = Meter::start();
    fill(&bed).await;
    bed.followed().await;
    meter.tell("appending and following at once", events, RUNS);
    stop.cancel();
    running.await.expect("it stops");

    for name in ["run_list", "sessions", "usage"] {
        let meter = Meter::start();
        let applied = rebuild(&bed.store.db, &bed.store.reader, name, |_| {})
            .await
            .expect("rebuilt");
        meter.tell(&format!("rebuilding {name}"), applied, 2 * RUNS);
    }
    let meter = Meter::start();
    let report = bed.check().await;
    assert!(report.ok, "{report:#?}");
    meter.tell("checking", report.events, 2 * RUNS);
}

async fn fill(bed: &Arc<Bed>) {
    let callers = (0..CALLERS).map(|_| {
        let bed = bed.clone();
        tokio::spawn(async move {
            for _ in 0..RUNS / CALLERS {
                bed.whole_run(None, "what time is it?").await;
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.expect("a caller");
    }
}

/// Wall clock, and the CPU of this process and of Postgres.
struct Meter {
    started: Instant,
    ours_ms: u64,
    postgres_ms: u64,
}

impl Meter {
    fn start() -> Self {
        let own = std::process::id().to_string();
        Self {
            started: Instant::now(),
            ours_ms: cpu_ms(|pid, _| pid == own),
            postgres_ms: cpu_ms(|_, name| name == "postgres"),
        }
    }

    fn tell(self, what: &str, events: u64, runs: usize) {
        let seconds = self.started.elapsed().as_secs_f64();
        let now = Self::start();
        let per_run = |before: u64, after: u64| after.saturating_sub(before) as f64 / runs as f64;
        println!(
            "{what}: {events} events in {seconds:.2} s, {:.0} events/s; CPU per run: {:.3} ms ours, {:.3} ms Postgres",
            events as f64 / seconds,
            per_run(self.ours_ms, now.ours_ms),
            per_run(self.postgres_ms, now.postgres_ms),
        );
    }
}

/// User and system time of the processes chosen by id and name. Linux only; nothing elsewhere.
fn cpu_ms(choose: impl Fn(&str, &str) -> bool) -> u64 {
    const MS_PER_TICK: u64 = 10;
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return 0;
    };
    processes
        .flatten()
        .filter_map(|process| {
            let pid = process.file_name().into_string().ok()?;
            let stat = std::fs::read_to_string(process.path().join("stat")).ok()?;
            let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
            let fields: Vec<&str> = rest.split_whitespace().collect();
            let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
            choose(&pid, name).then_some(ticks * MS_PER_TICK)
        })
        .sum()
}
