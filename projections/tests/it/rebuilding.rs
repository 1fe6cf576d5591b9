//! Read models built anew.

use async_trait::async_trait;
use steadfast::{
    health::Health,
    store::{Error, sql::Tx},
};
use steadfast_projections::{
    Projector,
    log::Entry,
    models::{self, RunList, Sessions},
    projection::{Names, Projection, Table},
    rebuild,
};
use tokio_util::sync::CancellationToken;

use crate::bed::Bed;

#[tokio::test]
async fn rebuilt_tables_equal_those_that_followed_the_log() {
    let bed = Bed::new().await;
    for _ in 0..3 {
        bed.furnish().await;
        bed.project().await;
    }
    let before = bed.rows().await;
    for projection in models::all() {
        // Twice: the second finds the names the first left.
        for _ in 0..2 {
            let mut heard = 0;
            let applied = rebuild(&bed.store.db, &bed.store.reader, projection.name(), |events| {
                heard = events
            })
            .await
            .expect("rebuilt");
            assert!(applied > 100 && heard == applied, "{applied} events, {heard} heard of");
            assert_eq!(bed.rows().await, before);
        }
    }
    // And go on from where they are.
    bed.furnish().await;
    bed.project().await;
    let report = bed.check().await;
    assert!(report.ok, "{report:#?}");
    let error = rebuild(&bed.store.db, &bed.store.reader, "rub_list", |_| {})
        .await
        .expect_err("no such projection");
    assert!(error.to_string().contains("run_list, sessions, usage"), "{error}");
}

#[tokio::test]
async fn a_log_of_many_pages_is_followed_and_rebuilt_whole() {
    const CALLERS: usize = 30;
    const EACH: usize = 40;
    let bed = std::sync::Arc::new(Bed::new().await);
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..CALLERS {
        let bed = bed.clone();
        callers.spawn(async move {
            for _ in 0..EACH {
                bed.request(None, "one of many").await;
            }
        });
    }
    callers.join_all().await;
    bed.project().await;
    let before = bed.rows().await;
    let applied = rebuild(&bed.store.db, &bed.store.reader, "run_list", |_| {})
        .await
        .expect("rebuilt");
    assert_eq!(applied, (CALLERS * EACH) as u64);
    assert_eq!(bed.rows().await, before);
    let report = bed.check().await;
    assert!(report.ok && report.runs == applied, "{report:#?}");
}

#[tokio::test]
async fn a_rebuild_repairs_what_was_damaged() {
    let bed = Bed::new().await;
    bed.furnish().await;
    bed.project().await;
    let before = bed.rows().await;
    bed.sabotage("delete from messages where version > 1").await;
    assert!(!bed.check().await.ok);
    rebuild(&bed.store.db, &bed.store.reader, "sessions", |_| {})
        .await
        .expect("rebuilt");
    assert_eq!(bed.rows().await, before);
}

#[tokio::test]
async fn a_rebuild_killed_anywhere_is_finished_by_the_next() {
    let bed = Bed::new().await;
    bed.furnish().await;
    bed.project().await;
    let before = bed.rows().await;
    // Polled a little further each time, then dropped, as a kill would.
    for polls in 1..200 {
        let mut rebuilding = Box::pin(rebuild(&bed.store.db, &bed.store.reader, "run_list", |_| {}));
        let mut left = polls;
        let finished = std::future::poll_fn(|context| {
            if left == 0 {
                return std::task::Poll::Ready(false);
            }
            left -= 1;
            rebuilding.as_mut().poll(context).map(|done| done.is_ok())
        })
        .await;
        drop(rebuilding);
        assert_eq!(bed.rows().await, before, "after {polls} polls");
        if finished {
            break;
        }
    }
    rebuild(&bed.store.db, &bed.store.reader, "run_list", |_| {})
        .await
        .expect("rebuilt");
    assert_eq!(bed.rows().await, before);
    assert!(bed.check().await.ok);
}

#[tokio::test]
async fn a_rebuild_beside_a_live_projector_loses_nothing() {
    let bed = Bed::new().await;
    bed.furnish().await;
    bed.project().await;
    let stop = CancellationToken::new();
    let projector = Projector::new(bed.store.db.clone(), bed.store.reader.clone(), Health::default());
    let running = tokio::spawn(projector.run(stop.clone()));
    let rebuilding = async {
        for _ in 0..3 {
            for projection in models::all() {
                rebuild(&bed.store.db, &bed.store.reader, projection.name(), |_| {})
                    .await
                    .expect("rebuilt");
            }
        }
    };
    let posting = async {
        for _ in 0..3 {
            bed.furnish().await;
        }
    };
    tokio::join!(rebuilding, posting);
    bed.followed().await;
    let report = bed.check().await;
    stop.cancel();
    running.await.expect("it stops");
    assert!(report.ok, "{report:#?}");
}

/// The list as a later build would make it: the same tables, in the next version.
struct NextRunList;

#[async_trait]
impl Projection for NextRunList {
    fn name(&self) -> &'static str {
        RunList.name()
    }
    fn version(&self) -> i64 {
        RunList.version() + 1
    }
    fn tables(&self) -> &'static [Table] {
        RunList.tables()
    }
    async fn apply(&self, tx: &mut Tx, names: Names, batch: &[Entry]) -> Result<(), Error> {
        RunList.apply(tx, names, batch).await
    }
}

#[tokio::test]
async fn a_new_version_builds_its_tables_anew_and_an_old_build_leaves_them_alone() {
    let bed = Bed::new().await;
    bed.furnish().await;
    bed.project().await;
    let before = bed.rows().await;
    bed.sabotage("update run_list set input = 'from the old version'").await;
    let stop = CancellationToken::new();
    let projector = Projector::of(
        bed.store.db.clone(),
        bed.store.reader.clone(),
        Health::default(),
        vec![&NextRunList, &Sessions],
    );
    let running = tokio::spawn(projector.run(stop.clone()));
    crate::projecting::wait_until(async || bed.rows().await == before).await;
    stop.cancel();
    running.await.expect("it stops");

    let health = Health::default();
    let stop = CancellationToken::new();
    bed.furnish().await;
    let projector = Projector::new(bed.store.db.clone(), bed.store.reader.clone(), health.clone());
    let running = tokio::spawn(projector.run(stop.clone()));
    crate::projecting::wait_until(async || {
        health.report().iter().any(|part| {
            part.trouble
                .as_ref()
                .is_some_and(|trouble| trouble.contains("newer build"))
        })
    })
    .await;
    stop.cancel();
    running.await.expect("it stops");
    let report = bed.check().await;
    assert!(
        report.not_checked.iter().any(|what| what.contains("run_list")),
        "{report:#?}"
    );
}
