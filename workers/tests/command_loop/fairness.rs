//! Many runs of one tenant, and one of another.

use std::time::Duration;

use steadfast::{
    queue::CommandQueue,
    run::{RunId, TenantId},
};
use steadfast_workers::WorkerOptions;

use super::*;

const FLOOD: usize = 60;

fn options(slots: usize, runs_per_tenant_max: usize) -> WorkerOptions {
    WorkerOptions {
        slots,
        runs_per_tenant_max,
        ..House::options("w1")
    }
}

fn tenant(name: &str) -> TenantId {
    name.parse().expect("a tenant")
}

async fn posted(house: &House, tenant: &TenantId, count: usize, held: bool) -> Vec<RunId> {
    let mut runs = Vec::new();
    for _ in 0..count {
        let run_id = house.post_for(tenant, held).await;
        if !held {
            house.announce_for(run_id, tenant).await;
        }
        runs.push(run_id);
    }
    runs
}

async fn ended_among(house: &House, runs: &[RunId]) -> usize {
    let mut ended = 0;
    for run_id in runs {
        ended += usize::from(house.load(*run_id).await.run.outcome.is_some());
    }
    ended
}

#[tokio::test]
async fn a_tenant_never_has_more_than_its_share_and_all_its_runs_end() {
    let house = House::new().await;
    let flood = posted(&house, &tenant("flood"), FLOOD, false).await;
    let worker = house.worker_of(options(8, 3), Duration::from_millis(2));
    let running = async {
        let mut most = 0;
        loop {
            let demand = house.store.reader.demand(RunId::default()).await.expect("answered");
            most = most.max(demand.iter().map(|demand| demand.running).sum::<u64>());
            if demand.is_empty() {
                return most;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let most = tokio::time::timeout(PATIENCE, running).await.expect("all end");
    assert!((1..=3).contains(&most), "{most} at the same time");
    assert_eq!(ended_among(&house, &flood).await, FLOOD);
    assert_eq!(house.queue.depth().await.expect("answered"), 0);
    drop(worker);
}

#[tokio::test]
async fn the_next_free_place_goes_to_who_comes_new_and_not_to_the_end_of_a_long_line() {
    let house = House::new().await;
    // The flood may have every place: only the choice of the next one helps the other.
    let worker = house.worker_of(options(2, 2), Duration::from_millis(2));
    let flood = posted(&house, &tenant("flood"), FLOOD, false).await;
    let other = posted(&house, &tenant("other"), 1, false).await[0];
    house.ended(other).await;
    let ended = ended_among(&house, &flood).await;
    assert!(ended < FLOOD / 2, "{ended} of {FLOOD} came before it");
    for run_id in flood {
        house.ended(run_id).await;
    }
    drop(worker);
}

#[tokio::test]
async fn a_worker_that_finds_a_command_for_every_place_it_has_still_lets_who_comes_new_by() {
    let house = House::new().await;
    // A place is free again long before the worker would look at the queue for want of one.
    let flood = posted(&house, &tenant("flood"), 6 * FLOOD, false).await;
    let other = posted(&house, &tenant("other"), 1, false).await[0];
    let worker = house.worker_of(options(3, 3), Duration::from_millis(2));
    house.ended(other).await;
    let ended = ended_among(&house, &flood).await;
    assert!(ended < flood.len() / 2, "{ended} of {} came before it", flood.len());
    for run_id in flood {
        house.ended(run_id).await;
    }
    drop(worker);
}

#[tokio::test]
async fn runs_that_were_never_announced_are_taken_from_their_line_by_whichever_worker_has_a_place() {
    let house = House::new().await;
    let held = posted(&house, &tenant("flood"), FLOOD, true).await;
    let one = house.worker_of(options(2, 1), Duration::ZERO);
    let two = house.worker_of(
        WorkerOptions {
            id: "w2".into(),
            ..options(2, 1)
        },
        Duration::ZERO,
    );
    for run_id in &held {
        let loaded = house.ended(*run_id).await;
        assert_eq!(loaded.head.epoch, 1, "claimed once");
    }
    drop((one, two));
}
