//! The whole log by position: what projections follow. Nothing missed, nothing doubled, in an order that never changes.

use std::collections::HashMap;

use futures::future::join_all;
use sqlx::{Connection, PgConnection};
use steadfast::{
    run::RunId,
    store::{LogEntry, Position, Store},
};

use crate::bed::*;

const WRITERS: usize = 16;
const RUNS_EACH: usize = 12;
/// `run.requested`; `run.started` and the call; the reply and the end.
const EVENTS_PER_RUN: usize = 5;

async fn whole_run(store: &Store) {
    let mut loaded = claimed(store, "w").await;
    go(store, &mut loaded, |l| order(l, answer(&l.run, "done"))).await;
}

/// Follows the log until it has given so many events, and then looks whether there are more. Transactions of other
/// tests' databases hold the log back too, so it may take a moment.
pub async fn follow(store: &Store, page: u32, events: usize) -> Vec<LogEntry> {
    let read = async {
        let mut seen: Vec<LogEntry> = Vec::new();
        loop {
            let after = seen.last().map_or(Position::default(), |entry| entry.position);
            let entries = store.reader.log(after, page).await.expect("the log reads");
            if entries.is_empty() && seen.len() >= events {
                return seen;
            }
            seen.extend(entries);
        }
    };
    tokio::time::timeout(PATIENCE, read)
        .await
        .expect("the log holds what was written")
}

fn in_order_and_whole(seen: &[LogEntry]) {
    assert!(
        seen.is_sorted_by(|a, b| a.position < b.position),
        "positions do not grow"
    );
    let mut versions: HashMap<RunId, u64> = HashMap::new();
    for entry in seen {
        let last = versions.entry(entry.event.run_id).or_default();
        assert_eq!(
            entry.event.version,
            *last + 1,
            "an event of {} is missed or doubled",
            entry.event.run_id
        );
        *last += 1;
    }
}

pub async fn a_reader_sees_every_event_once_and_in_order_while_sixteen_write(bed: &Bed) {
    let (other, reading) = (bed.other_process().await, bed.other_process().await);
    let write = |at: usize| {
        let store = if at.is_multiple_of(2) { &bed.store } else { &other };
        async move {
            for _ in 0..RUNS_EACH {
                whole_run(store).await;
            }
        }
    };
    let all = WRITERS * RUNS_EACH * EVENTS_PER_RUN;
    let (_, seen) = futures::join!(join_all((0..WRITERS).map(write)), follow(&reading, 37, all));
    assert_eq!(seen.len(), all);
    in_order_and_whole(&seen);
}

pub async fn pages_of_one_event_are_as_good_as_one_page(bed: &Bed) {
    for _ in 0..4 {
        whole_run(&bed.store).await;
    }
    let all = 4 * EVENTS_PER_RUN;
    let (single, whole) = futures::join!(follow(&bed.store, 1, all), follow(&bed.store, 1000, all));
    assert_eq!(single, whole);
    assert_eq!(single.len(), all);
    let end = bed.store.reader.log_end().await.expect("the log reads");
    assert_eq!(whole.last().map(|entry| entry.position), Some(end));
}

/// A lower number can commit later than a higher one. The control reader shows that this test would see the loss.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_stays_open_hides_nothing_from_a_reader() {
    let bed = Bed::postgres().await;
    let Bed { store, .. } = &bed;
    whole_run(store).await;
    follow(store, 100, EVENTS_PER_RUN).await;
    let before = store.reader.log_end().await.expect("the log reads");

    // The slow writer takes its place in the log first, and commits last.
    let steadfast::store::Db::Postgres(pool) = &store.db else {
        panic!("a Postgres bed")
    };
    let mut slow = PgConnection::connect_with(&pool.connect_options())
        .await
        .expect("a connection");
    let mut open = slow.begin().await.expect("a transaction");
    let late = new_run();
    sqlx::query(
        "insert into events (run_id, version, tenant_id, type, schema, time, payload, hash)
         select $1, 1, tenant_id, type, schema, time, payload, hash from events where version = 1 limit 1",
    )
    .bind(late.0)
    .execute(&mut *open)
    .await
    .expect("written");

    whole_run(store).await;
    let mut control = Control::default();
    control.poll(store).await;
    let held_back = store.reader.log(before, 100).await.expect("the log reads");
    assert!(held_back.is_empty(), "read past an open transaction: {held_back:?}");
    assert_eq!(store.reader.log_end().await.expect("the log reads"), before);

    open.commit().await.expect("committed");
    control.poll(store).await;
    let seen = follow(store, 3, 2 * EVENTS_PER_RUN + 1).await;
    in_order_and_whole(&seen);
    assert_eq!(seen.len(), 2 * EVENTS_PER_RUN + 1);
    assert_eq!(
        seen[EVENTS_PER_RUN].event.run_id, late,
        "in the order of their transactions"
    );
    assert!(!control.seen.contains(&late), "the control reader was to miss this");
    assert_eq!(control.seen.len(), 2 * EVENTS_PER_RUN);
}

/// A run is read by its versions alone, so a stream never waits for somebody else's transaction.
#[tokio::test(flavor = "multi_thread")]
async fn one_runs_events_are_readable_at_once_whoever_holds_the_log_back() {
    let bed = Bed::postgres().await;
    let steadfast::store::Db::Postgres(pool) = &bed.store.db else {
        panic!("a Postgres bed")
    };
    let mut slow = PgConnection::connect_with(&pool.connect_options())
        .await
        .expect("a connection");
    let mut open = slow.begin().await.expect("a transaction");
    let sql = "select pg_current_xact_id()::text";
    sqlx::query_scalar::<_, String>(sql)
        .fetch_one(&mut *open)
        .await
        .expect("a transaction number");
    let loaded = claimed(&bed.store, "w").await;
    let events = bed.store.reader.events(loaded.head.run_id, 0, 9).await.expect("reads");
    assert_eq!(events.len() as u64, loaded.run.version);
    let whole = bed.store.reader.log(Position::default(), 9).await.expect("reads");
    assert!(whole.is_empty(), "{whole:?}");
    open.rollback().await.expect("rolled back");
    assert_eq!(follow(&bed.store, 9, 3).await.len(), 3);
}

/// What most event stores do: the position alone.
#[derive(Default)]
struct Control {
    last: i64,
    seen: Vec<RunId>,
}

impl Control {
    async fn poll(&mut self, store: &Store) {
        let sql = "select run_id, position from events where position > $1 order by position";
        for row in store.db.fetch(sql, &[self.last.into()]).await.expect("reads") {
            self.last = row.get("position").expect("a number");
            self.seen.push(RunId(row.get("run_id").expect("an id")));
        }
    }
}
