//! The loop.

use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use steadfast::{
    health::Health,
    read::ReadModels,
    store::{Error, sql::Tx},
};
use steadfast_projections::{
    Projector,
    log::Entry,
    models::{RunList, UsageByDay},
    projection::{Names, Projection, Table},
};
use tokio_util::sync::CancellationToken;

use crate::bed::{Bed, sql_id};

#[tokio::test]
async fn two_projectors_apply_every_event_once() {
    let bed = Bed::new().await;
    let stop = CancellationToken::new();
    let projectors: Vec<_> = (0..2)
        .map(|_| {
            let projector = Projector::new(bed.store.db.clone(), bed.store.reader.clone(), Health::default());
            tokio::spawn(projector.run(stop.clone()))
        })
        .collect();
    for _ in 0..3 {
        bed.furnish().await;
    }
    bed.followed().await;
    stop.cancel();
    for projector in projectors {
        projector.await.expect("it stops");
    }
    let report = bed.check().await;
    assert!(report.ok, "{report:#?}");
    assert_eq!(report.runs, 27);
}

#[tokio::test]
async fn a_run_followed_event_by_event_ends_as_one_read_at_once() {
    let (slow, fast) = (Bed::new().await, Bed::new().await);
    let shown = |rows: Vec<String>| -> Vec<String> {
        rows.into_iter()
            .map(|row| row.split_once(' ').map_or(row.clone(), |(_, rest)| rest[36..].into()))
            .collect()
    };
    for (bed, often) in [(&slow, true), (&fast, false)] {
        let run_id = bed.request(None, "step by step").await;
        for step in 0..5 {
            if often {
                bed.project().await;
            }
            match step {
                0 => bed.claim(run_id).await,
                1 => {
                    bed.reply(
                        run_id,
                        1,
                        "",
                        vec![crate::bed::call("c1", "clock"), crate::bed::call("c2", "pay")],
                    )
                    .await
                }
                2 => bed.tool_result(run_id, "c1", Ok("noon".into())).await,
                3 => bed.tool_result(run_id, "c2", Err("no money".into())).await,
                _ => bed.reply(run_id, 2, "It is noon.", vec![]).await,
            }
        }
        bed.project().await;
        assert!(bed.check().await.ok);
    }
    let rows = |rows: Vec<String>| shown(rows.into_iter().filter(|row| !row.starts_with("usage")).collect());
    assert_eq!(rows(slow.rows().await), rows(fast.rows().await));
}

#[tokio::test]
async fn an_event_that_does_not_read_stops_the_projections_there_and_is_named() {
    let bed = Bed::new().await;
    let runs = bed.furnish().await;
    bed.sabotage(&format!(
        "update events set schema = 99 where run_id = {} and version = 3",
        sql_id(&bed, runs[1])
    ))
    .await;
    let health = Health::default();
    let stop = CancellationToken::new();
    let projector = Projector::new(bed.store.db.clone(), bed.store.reader.clone(), health.clone());
    let running = tokio::spawn(projector.run(stop.clone()));
    let trouble = wait_for_trouble(&health).await;
    assert!(
        trouble.contains(&runs[1].to_string()) && trouble.contains("version 3"),
        "{trouble}"
    );
    let end = bed.end().await;
    assert!(
        !bed.reads().wait_for(end).await.expect("checkpoints"),
        "an event was skipped"
    );
    stop.cancel();
    running.await.expect("it stops");
    // Readable again, it goes on, and nothing is missing.
    bed.sabotage(&format!(
        "update events set schema = 1 where run_id = {} and version = 3",
        sql_id(&bed, runs[1])
    ))
    .await;
    bed.project().await;
    assert!(bed.check().await.ok);
}

#[tokio::test]
async fn a_projection_that_fails_is_left_behind_and_the_others_go_on() {
    static REFUSES: AtomicBool = AtomicBool::new(true);
    /// Refuses replies.
    struct Picky;

    #[async_trait]
    impl Projection for Picky {
        fn name(&self) -> &'static str {
            "picky"
        }
        fn version(&self) -> i64 {
            1
        }
        fn tables(&self) -> &'static [Table] {
            &[Table {
                name: "picky",
                columns: "version bigint not null, run_id uuid not null",
                primary_key: "run_id, version",
                indexes: &[],
            }]
        }
        async fn apply(&self, tx: &mut Tx, names: Names, batch: &[Entry]) -> Result<(), Error> {
            for entry in batch {
                let event = &entry.log.event;
                if event.name == "model.replied" && REFUSES.load(Ordering::SeqCst) {
                    return Err(Error::Refused("no replies, please".into()));
                }
                let sql = format!("insert into {} (run_id, version) values ($1, $2)", names.of("picky"));
                tx.execute(&sql, &[event.run_id.0.into(), event.version.into()]).await?;
            }
            Ok(())
        }
    }

    let bed = Bed::new().await;
    let run_id = bed.whole_run(None, "first").await;
    let health = Health::default();
    let stop = CancellationToken::new();
    let mut projections = steadfast_projections::models::all();
    projections.push(&Picky);
    let projector = Projector::of(
        bed.store.db.clone(),
        bed.store.reader.clone(),
        health.clone(),
        projections.clone(),
    );
    let running = tokio::spawn(projector.run(stop.clone()));
    let trouble = wait_for_trouble(&health).await;
    assert!(
        trouble.contains(&format!("{run_id}, version 4")) && trouble.contains("no replies"),
        "{trouble}"
    );
    bed.followed().await;
    stop.cancel();
    running.await.expect("it stops");
    let count = bed
        .store
        .db
        .fetch("select count(*) as n from picky", &[])
        .await
        .expect("rows")[0]
        .count("n");
    assert_eq!(
        count.expect("a count"),
        3,
        "everything before the event it refused was applied, nothing after"
    );
    REFUSES.store(false, Ordering::SeqCst);
    let stop = CancellationToken::new();
    let health = Health::default();
    let projector = Projector::of(bed.store.db.clone(), bed.store.reader.clone(), health, projections);
    let running = tokio::spawn(projector.run(stop.clone()));
    let all = bed
        .store
        .reader
        .head(run_id)
        .await
        .expect("a head")
        .expect("the run")
        .version;
    wait_until(async || {
        bed.store
            .db
            .fetch("select count(*) as n from picky", &[])
            .await
            .expect("rows")[0]
            .count("n")
            .expect("n")
            == all
    })
    .await;
    stop.cancel();
    running.await.expect("it stops");
}

#[tokio::test]
async fn tables_that_were_deleted_come_back_from_the_log() {
    let bed = Bed::new().await;
    bed.furnish().await;
    bed.project().await;
    let before = bed.rows().await;
    bed.store.db.execute("drop table usage", &[]).await.expect("dropped");
    bed.store.db.execute("drop table run_list", &[]).await.expect("dropped");
    bed.project_with(vec![&RunList, &UsageByDay]).await;
    assert_eq!(bed.rows().await, before);
}

#[tokio::test]
async fn tables_deleted_under_a_running_projector_come_back_too() {
    let bed = Bed::new().await;
    let stop = CancellationToken::new();
    let projector = Projector::new(bed.store.db.clone(), bed.store.reader.clone(), Health::default());
    let running = tokio::spawn(projector.run(stop.clone()));
    bed.furnish().await;
    bed.followed().await;
    bed.store.db.execute("drop table messages", &[]).await.expect("dropped");
    bed.furnish().await;
    bed.followed().await;
    stop.cancel();
    running.await.expect("it stops");
    let report = bed.check().await;
    assert!(
        report.ok && report.not_checked.iter().all(|what| !what.contains("sessions")),
        "{report:#?}"
    );
}

async fn wait_for_trouble(health: &Health) -> String {
    let found = async || {
        health
            .report()
            .iter()
            .any(|part| part.trouble.as_ref().is_some_and(|t| t.contains("stopped at")))
    };
    wait_until(found).await;
    health
        .report()
        .iter()
        .find_map(|part| part.trouble.clone())
        .unwrap_or_default()
}

/// Looks until it is so; gives up after a minute.
pub async fn wait_until(holds: impl AsyncFn() -> bool) {
    let looking = async {
        while !holds().await {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), looking)
        .await
        .expect("it becomes so within a minute");
}

/// SQLite has one writer: nobody holds its readers back.
#[tokio::test]
async fn a_transaction_left_open_anywhere_shows_in_the_metrics_and_hides_nothing_for_ever() {
    let bed = Bed::new().await;
    if !bed.store.db.is_postgres() {
        println!("skipped: DATABASE_URL names no Postgres");
        return;
    }
    bed.furnish().await;
    let stop = CancellationToken::new();
    let projector = Projector::new(bed.store.db.clone(), bed.store.reader.clone(), Health::default());
    let running = tokio::spawn(projector.run(stop.clone()));
    bed.followed().await;
    // Another database of the same cluster will do.
    let elsewhere = Bed::new().await;
    let mut open = elsewhere.store.db.begin().await.expect("a transaction");
    open.fetch("select pg_current_xact_id()::text as number", &[])
        .await
        .expect("its number");
    let age = || steadfast::metrics::flow().xmin_age.get();
    wait_until(async || age() > 1.5).await;
    bed.furnish().await;
    let end = bed.end().await;
    assert!(
        !bed.reads().wait_for(end).await.expect("checkpoints"),
        "it was not held back"
    );
    open.rollback().await.expect("rolled back");
    bed.followed().await;
    wait_until(async || age() < 1.5).await;
    stop.cancel();
    running.await.expect("it stops");
    assert!(bed.check().await.ok);
}

#[tokio::test]
async fn a_log_restored_under_a_running_projector_is_reported() {
    let bed = Bed::new().await;
    if !bed.store.db.is_postgres() {
        println!("skipped: DATABASE_URL names no Postgres");
        return;
    }
    let health = Health::default();
    let stop = CancellationToken::new();
    let projector = Projector::new(bed.store.db.clone(), bed.store.reader.clone(), health.clone());
    let running = tokio::spawn(projector.run(stop.clone()));
    bed.furnish().await;
    bed.followed().await;
    bed.sabotage("update log_generations set system_identifier = system_identifier + 1")
        .await;
    let trouble = async || health.report().iter().find_map(|part| part.trouble.clone());
    wait_until(async || trouble().await.is_some_and(|said| said.contains("cluster"))).await;
    bed.store.db.begin_generation().await.expect("told");
    wait_until(async || trouble().await.is_none()).await;
    bed.furnish().await;
    bed.followed().await;
    stop.cancel();
    running.await.expect("it stops");
    assert!(bed.check().await.ok);
}
