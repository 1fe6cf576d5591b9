//! SIGKILL in the middle of two hundred runs: nothing accepted is lost, nothing happens twice, and every client sees
//! exactly its run.
//!
//! One body for all: clients ride through whatever happens, one part of the system is killed when a quarter of them has
//! arrived, and then the log, the clients' transcripts and the model's own counts are held against each other.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use sqlx::{Connection, PgConnection};
use steadfast_tests::{
    Settings, fresh_prefix,
    system::{Drops, Layout, Ride, Rider, Role, Settled, Stack, sessions, settle, task},
};
use tokio::sync::watch;

const RIDERS: usize = 200;
/// Every run ends within this of the kill.
const RIDE_MAX: Duration = Duration::from_secs(60);
/// Of these the earlier share the sessions, several to each.
const SESSIONS: usize = 8;

/// A run takes a second or so: long enough to be met in every state.
fn model() -> Settings {
    Settings {
        ttft_ms: 60,
        token_ms: 6,
        tokens: 40,
        ..Settings::default()
    }
}

/// How many clients have arrived.
type Arrived = watch::Receiver<usize>;

async fn until_arrived(arrived: &mut Arrived, share: usize) {
    let enough = RIDERS * share / 100;
    arrived
        .wait_for(|arrived| *arrived >= enough)
        .await
        .expect("the riders live");
}

/// The siege of one system: `strike` is told how many clients have arrived, does its damage and answers what it saw of
/// it; `struck` tells from that, and from what came of it, that it hit somebody.
async fn siege<Seen>(
    name: &str,
    mut stack: Stack,
    strike: impl AsyncFnOnce(&mut Stack, &mut Arrived) -> Seen,
    struck: impl AsyncFnOnce(&Stack, &Settled, Seen) -> bool,
) {
    let begun = Instant::now();
    let gateways = Arc::new(stack.apis());
    let sessions = sessions(&gateways[0], SESSIONS).await;
    let tag = fresh_prefix();
    let (arrive, mut arrived) = watch::channel(0);
    let arrive = Arc::new(arrive);
    let riders: Vec<_> = (0..RIDERS)
        .map(|n| {
            let (gateways, body, key) = (gateways.clone(), task(n, &tag, &sessions), format!("{tag}-{n}"));
            let rider = Rider {
                gateways,
                first: n,
                key,
                body,
                drops: Drops::Never,
            };
            let arrive = arrive.clone();
            tokio::spawn(async move {
                let ride = rider.ride(2 * RIDE_MAX).await;
                arrive.send_modify(|arrived| *arrived += 1);
                ride
            })
        })
        .collect();
    until_arrived(&mut arrived, 25).await;
    let strikes_at = Instant::now();
    let seen = strike(&mut stack, &mut arrived).await;
    let mut rides: Vec<Ride> = vec![];
    for rider in riders {
        rides.push(rider.await.expect("a rider"));
    }
    let took = strikes_at.elapsed();
    let settled = settle(&stack, &rides, 0, &[]).await;
    println!(
        "{name}: {settled}, {:.1} s from the kill to the last end, {:.1} s in all",
        took.as_secs_f64(),
        begun.elapsed().as_secs_f64()
    );
    assert!(settled.violations.is_empty(), "{name}: {:#?}", settled.violations);
    assert!(settled.failed.is_empty(), "{name}: {:#?}", settled.failed);
    let hit = struck(&stack, &settled, seen).await;
    assert!(hit, "{name}: the kill hit nobody: {settled}");
    assert!(took < RIDE_MAX, "{name}: the last run ended {took:?} after the kill");
}

/// A metric, summed over processes that were not killed.
async fn counted(roles: &[Role], metric: &str) -> f64 {
    counted_by(roles, metric, "").await
}

/// The same over those labels that hold `label`.
async fn counted_by(roles: &[Role], metric: &str, label: &str) -> f64 {
    let mut sum = 0.0;
    for role in roles {
        sum += role.metric(metric, label).await.unwrap_or_default();
    }
    sum
}

/// Runs the list of runs is behind with.
async fn behind(stack: &Stack) -> i64 {
    let url = stack.postgres.as_ref().expect("a Postgres of its own").url("postgres");
    let mut connection = PgConnection::connect(&url).await.expect("a connection");
    let sql = "select count(*) from runs left join run_list using (run_id) where run_list.version is distinct from runs.version";
    let behind = sqlx::query_scalar(sql).fetch_one(&mut connection).await;
    behind.expect("a number")
}

async fn distributed() -> Stack {
    Layout::distributed().model(model()).private_servers().start().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_gateway_loses_nothing() {
    siege(
        "gateway killed",
        distributed().await,
        async |stack, arrived| {
            stack.gateways[0].kill9();
            stack.gateways[0].restart().await;
            until_arrived(arrived, 60).await;
            stack.gateways[0].kill9();
            stack.gateways[0].restart().await;
        },
        async |_, settled, ()| settled.reconnects > 0,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_worker_loses_nothing() {
    siege(
        "worker killed",
        distributed().await,
        async |stack, arrived| {
            stack.workers[0].kill9();
            until_arrived(arrived, 60).await;
            stack.workers[0].restart().await;
            // Then the other one: the one that came back takes over.
            stack.workers[1].kill9();
        },
        async |_, settled, ()| settled.orphaned > 0,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_projector_loses_nothing() {
    siege(
        "projector killed",
        distributed().await,
        async |stack, arrived| {
            stack.projectors[0].kill9();
            until_arrived(arrived, 60).await;
            let behind = behind(stack).await;
            stack.projectors[0].restart().await;
            stack.projectors[0].kill9();
            stack.projectors[0].restart().await;
            behind
        },
        async |_, _, behind| behind > 0,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_nats_server_whose_files_are_wiped_loses_nothing() {
    siege(
        "nats-server killed and wiped",
        distributed().await,
        async |stack, _| {
            let nats = stack.nats.as_mut().expect("a NATS of its own");
            nats.wipe();
            nats.restart().await.expect("NATS is back");
        },
        // The new queue did not have the commands of those that waited for a worker.
        async |stack, _, ()| {
            let lined = counted_by(&stack.workers, "steadfast_runs_held_total", "by=\"redriver\"").await;
            lined + counted(&stack.workers, "steadfast_redriven_total").await > 0.0
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_postgres_loses_nothing() {
    siege(
        "Postgres killed",
        distributed().await,
        async |stack, _| {
            let postgres = stack.postgres.as_mut().expect("a Postgres of its own");
            postgres.kill9();
            postgres.restart().await.expect("Postgres is back");
        },
        async |stack, _, ()| {
            let appends = "steadfast_append_errors_total";
            counted(&stack.workers, appends).await + counted(&stack.gateways, appends).await > 0.0
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_dev_goes_on_from_its_data_directory() {
    siege(
        "dev killed",
        Layout::embedded().model(model()).start().await,
        async |stack, arrived| {
            stack.gateways[0].restart().await;
            until_arrived(arrived, 60).await;
            stack.gateways[0].restart().await;
        },
        async |_, settled, ()| settled.reconnects > 0,
    )
    .await;
}
