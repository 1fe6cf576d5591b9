//! A log in another cluster than the one that wrote it.

use steadfast::{
    run::RunId,
    store::{LogEntry, Position, Store},
};

use super::log::follow;
use crate::bed::*;

const EVENTS_PER_RUN: usize = 5;

async fn whole_run(store: &Store) -> RunId {
    let mut loaded = claimed(store, "w").await;
    go(store, &mut loaded, |l| order(l, answer(&l.run, "done"))).await;
    loaded.head.run_id
}

async fn strange(store: &Store) -> Option<String> {
    store.db.log_is_strange().await.expect("the store answers")
}

/// What a dump and a restore make of the log: the same rows, under a counter that is not there yet.
async fn restore_into_a_younger_cluster(store: &Store) {
    let sql = "update events set txid = (txid::text::bigint + 1000000000000)::text::xid8";
    store.db.execute(sql, &[]).await.expect("restored");
}

fn runs_of(entries: &[LogEntry]) -> Vec<RunId> {
    let mut runs: Vec<RunId> = entries.iter().map(|entry| entry.event.run_id).collect();
    runs.dedup();
    runs
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_at_home_is_not_strange_and_neither_is_a_sqlite_file() {
    let (postgres, sqlite) = (Bed::postgres().await, Bed::sqlite().await);
    for bed in [&postgres, &sqlite] {
        assert_eq!(strange(&bed.store).await, None, "an empty log");
        whole_run(&bed.store).await;
        assert_eq!(strange(&bed.store).await, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_from_another_cluster_is_noticed_by_the_clusters_name_alone() {
    let bed = Bed::postgres().await;
    let elsewhere = "update log_generations set system_identifier = system_identifier + 1";
    assert_eq!(bed.store.db.execute(elsewhere, &[]).await.expect("written"), 1);
    let said = strange(&bed.store).await.expect("noticed");
    assert!(said.contains("cluster"), "{said}");
    // Migrating again does not hide it.
    bed.store.db.migrate().await.expect("nothing to do");
    assert!(strange(&bed.store).await.is_some());
    assert_eq!(bed.store.db.begin_generation().await.expect("told"), 2);
    assert_eq!(strange(&bed.store).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_log_is_whole_and_in_order_once_it_is_told_and_broken_before() {
    let bed = Bed::postgres().await;
    let Bed { store, .. } = &bed;
    let old = [whole_run(store).await, whole_run(store).await];
    follow(store, 100, 2 * EVENTS_PER_RUN).await;
    let checkpoint = Position {
        txid: store.reader.log_end().await.expect("reads").txid + 1_000_000_000_000,
        ..store.reader.log_end().await.expect("reads")
    };
    restore_into_a_younger_cluster(store).await;
    // Where the cluster cannot be told by its name, its counter tells.
    store
        .db
        .execute("update log_generations set system_identifier = null", &[])
        .await
        .expect("written");
    let said = strange(store).await.expect("noticed");
    assert!(said.contains("transaction numbers"), "{said}");
    // The control: untold, what was restored is hidden, and what is new goes unseen by whoever has seen the rest.
    let untold = store.reader.log(Position::default(), 100).await.expect("reads");
    assert!(untold.is_empty(), "{untold:?}");
    let lost = whole_run(store).await;
    assert_eq!(runs_of(&follow(store, 100, EVENTS_PER_RUN).await), [lost]);
    let behind = store.reader.log(checkpoint, 100).await.expect("reads");
    assert!(behind.is_empty(), "{behind:?}");

    assert_eq!(store.db.begin_generation().await.expect("told"), 2);
    assert_eq!(strange(store).await, None);
    // At once, before anything new is written, and in the order it had.
    let seen = follow(store, 3, 3 * EVENTS_PER_RUN).await;
    assert_eq!(runs_of(&seen), [lost, old[0], old[1]]);
    assert_eq!(store.reader.log_end().await.expect("reads"), checkpoint);
    // And what is new comes after the checkpoint of a reader that had seen all of it.
    let new = whole_run(store).await;
    let end = seen.last().expect("events").position;
    assert_eq!(end, checkpoint);
    let seen = follow(store, 100, 4 * EVENTS_PER_RUN).await;
    assert_eq!(runs_of(&seen).last(), Some(&new));
    let after = store.reader.log(end, 100).await.expect("reads");
    assert_eq!(runs_of(&after), [new]);
    assert!(after.iter().all(|entry| entry.position.generation == 2));
    // Told twice, by mistake: nothing is lost.
    assert_eq!(store.db.begin_generation().await.expect("told again"), 3);
    assert_eq!(follow(store, 7, 4 * EVENTS_PER_RUN).await, seen);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generation_is_not_begun_while_somebody_appends() {
    let bed = Bed::postgres().await;
    whole_run(&bed.store).await;
    let mut open = bed.store.db.begin().await.expect("a transaction");
    let sql = "insert into events (run_id, version, tenant_id, type, schema, time, payload, hash)
               select run_id, 99, tenant_id, type, schema, time, payload, hash from events limit 1";
    open.execute(sql, &[]).await.expect("written");
    let refused = bed.store.db.begin_generation().await.expect_err("refused");
    assert!(refused.to_string().contains("lock timeout"), "{refused}");
    open.rollback().await.expect("rolled back");
    assert_eq!(bed.store.db.begin_generation().await.expect("told"), 2);
}
