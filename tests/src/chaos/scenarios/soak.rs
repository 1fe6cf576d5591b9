//! T30: everything at once for minutes: workers, NATS and Postgres die in turn, and nothing grows (I18).

use std::time::{Duration, Instant};

use futures::FutureExt;
use sqlx::{Connection, PgConnection};

use super::{all_ready, roles};
use crate::{
    chaos::{Case, Scenario},
    system::Stack,
};

pub const SCENARIO: Scenario = Scenario {
    name: "soak",
    about: "workers, NATS and Postgres die in turn for minutes; memory, files, connections and tables stay bounded (T30)",
    long_only: true,
    play: |case| play(case).boxed_local(),
};

const CLIENTS: usize = 24;
/// The last one is spared, to see what grows in a worker that lives.
const WORKERS: usize = 4;
/// Of a process: pages it holds, as a debug build does after minutes of load.
const RSS_MAX_MB: u64 = 400;
/// A later sample may exceed an earlier one by so much and a quarter; what leaks goes on and on.
const RSS_SLACK_MB: u64 = 24;
const FILES_MAX: u64 = 1_000;
/// Of all roles together; the server takes 200.
const CONNECTIONS_MAX: i64 = 150;
/// Of all tables and indexes, for each run there is: later against earlier.
const BYTES_PER_RUN_GROWTH_MAX: f64 = 1.5;
/// Versions of rows that nobody sees any more, for each row there is; and what a small table may have beside. Kills of
/// Postgres make it forget what its autovacuum goes by.
const DEAD_PER_ROW_MAX: i64 = 10;
const DEAD_SLACK: i64 = 5_000;
const TABLES: &str = "
    select sum(pg_total_relation_size(oid))::float8 / (select greatest(count(*), 1) from runs)
    from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace";
const DEAD: &str = "
    select relname::text, n_dead_tup, n_live_tup from pg_stat_user_tables
    order by n_dead_tup desc";

async fn play(case: &mut Case) {
    let mut stack = roles().workers(WORKERS).start().await;
    let load = case.load(&stack, CLIENTS, None).await;
    let (begun, time) = (Instant::now(), Duration::from_secs(case.pick(60, 200)));
    let mut samples = vec![];
    while begun.elapsed() < time {
        for _ in 0..4 {
            case.pause(1_000, 3_000).await;
            let victim = case.chance.below(WORKERS as u64 - 1) as usize;
            case.kill(&mut stack.workers[victim]);
            stack.workers[victim].launch();
        }
        case.pause(1_000, 3_000).await;
        let nats = stack.nats.as_mut().expect("a NATS of its own");
        nats.wipe();
        nats.restart().await.expect("NATS is back");
        case.fault();
        case.pause(2_000, 4_000).await;
        let postgres = stack.postgres.as_mut().expect("a Postgres of its own");
        postgres.kill9();
        postgres.restart().await.expect("Postgres is back");
        case.fault();
        // Whoever lost a connection has opened another by then.
        case.pause(3_000, 4_000).await;
        samples.push(Sample::take(&stack).await);
        case.progress(&load);
    }
    all_ready(&mut stack).await;
    case.finish(&mut stack, load).await;
    case.checked.insert(18);
    judge(case, &samples);
    judge_dead_rows(case, &stack).await;
}

/// What the processes that are never killed hold, and how many connections and bytes all have in Postgres.
struct Sample {
    rss_mb: u64,
    files: u64,
    connections: i64,
    bytes_per_run: f64,
}

impl Sample {
    async fn take(stack: &Stack) -> Self {
        let (mut rss_mb, mut files) = (0, 0);
        for pid in stack
            .gateways
            .iter()
            .chain(&stack.projectors)
            .chain(stack.workers.last())
            .filter_map(|role| role.pid())
        {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let kb = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            let kb = kb.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
            rss_mb = rss_mb.max(kb.unwrap_or_default() / 1024);
            let open = std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |dir| dir.count() as u64);
            files = files.max(open);
        }
        let counted = async {
            let mut connection = connect(stack).await?;
            let sql = "select count(*) from pg_stat_activity where application_name = 'steadfast'";
            let count: i64 = sqlx::query_scalar(sql).fetch_one(&mut connection).await?;
            let bytes: f64 = sqlx::query_scalar(TABLES).fetch_one(&mut connection).await?;
            connection.close().await?;
            Ok::<_, sqlx::Error>((count, bytes))
        };
        let (connections, bytes_per_run) = counted.await.unwrap_or_default();
        Self {
            rss_mb,
            files,
            connections,
            bytes_per_run,
        }
    }
}

async fn connect(stack: &Stack) -> sqlx::Result<PgConnection> {
    let url = stack.postgres.as_ref().expect("a Postgres of its own").url("postgres");
    PgConnection::connect(&url).await
}

async fn judge_dead_rows(case: &mut Case, stack: &Stack) {
    let counted = async {
        let mut connection = connect(stack).await?;
        // A Postgres that was killed has forgotten its counts, and counts anew here.
        sqlx::raw_sql("analyze").execute(&mut connection).await?;
        sqlx::query_as(DEAD).fetch_all(&mut connection).await
    };
    let tables: Vec<(String, i64, i64)> = counted.await.unwrap_or_default();
    case.require(!tables.is_empty(), "I18: nothing was counted in the tables");
    if let Some((table, dead, live)) = tables.first() {
        case.note(format!("most dead rows: {dead} in {table}, beside {live} that live"));
    }
    for (table, dead, live) in &tables {
        case.require(
            *dead <= DEAD_PER_ROW_MAX * live + DEAD_SLACK,
            format!("I18: {dead} dead rows in {table}, beside {live} that live"),
        );
    }
}

fn judge(case: &mut Case, samples: &[Sample]) {
    let most = |of: fn(&Sample) -> u64, samples: &[Sample]| samples.iter().map(of).max().unwrap_or_default();
    // The first third is warming up.
    let (early, late) = samples[samples.len() / 3..].split_at(samples.len() / 3);
    let (rss_early, rss_late) = (most(|sample| sample.rss_mb, early), most(|sample| sample.rss_mb, late));
    let files = most(|sample| sample.files, samples);
    let connections = samples
        .iter()
        .map(|sample| sample.connections)
        .max()
        .unwrap_or_default();
    let per_run = |samples: &[Sample]| samples.iter().map(|sample| sample.bytes_per_run).fold(0.0, f64::max);
    let (bytes_early, bytes_late) = (per_run(early), per_run(late));
    case.note(format!(
        "{} samples: at most {rss_early} MB in the middle and {rss_late} MB at the end, {files} open files, {connections} \
         connections to Postgres; {bytes_early:.0} bytes in tables for each run in the middle and {bytes_late:.0} at the end",
        samples.len()
    ));
    case.require(
        bytes_late > 0.0 && bytes_late <= BYTES_PER_RUN_GROWTH_MAX * bytes_early,
        format!("I18: tables grew from {bytes_early:.0} to {bytes_late:.0} bytes for each run"),
    );
    case.require(!early.is_empty(), "too few samples to tell what grows");
    case.require(
        rss_late <= RSS_MAX_MB,
        format!("I18: a process holds {rss_late} MB, more than {RSS_MAX_MB}"),
    );
    case.require(
        rss_late <= rss_early + rss_early / 4 + RSS_SLACK_MB,
        format!("I18: memory grew from {rss_early} to {rss_late} MB"),
    );
    case.require(
        files > 0 && files <= FILES_MAX,
        format!("I18: {files} open files in a process"),
    );
    case.require(
        (1..=CONNECTIONS_MAX).contains(&connections),
        format!("I18: {connections} connections to Postgres"),
    );
}
