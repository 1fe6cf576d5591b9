//! An event from the future: recorded by a newer build, refused by name, and never lost.

use std::time::Duration;

use steadfast::{
    run::RunId,
    store::{Error, Position, SNAPSHOT_EVERY, chain},
};

use super::log::follow;
use crate::bed::*;

/// Adds an event no build of today knows, the way a newer one would: at the end of the chain, with its head.
pub async fn from_the_future(bed: &Bed, run_id: RunId, name: &str, schema: u16) {
    let store = &bed.store;
    let head = store.reader.head(run_id).await.expect("reads").expect("the run exists");
    let (version, payload) = (head.version + 1, r#"{"warp":9}"#);
    let time = now();
    let hash = chain(&head.hash, run_id, version, &head.tenant, name, schema, time, payload);
    let mut tx = store.db.begin().await.expect("a transaction");
    let event = "insert into events (run_id, version, tenant_id, type, schema, time, payload, hash)
                 values ($1, $2, $3, $4, $5, $6, $7, $8)";
    let args = [
        run_id.0.into(),
        version.into(),
        head.tenant.as_str().into(),
        name.into(),
        u32::from(schema).into(),
        time.into(),
        payload.into(),
        hash.to_vec().into(),
    ];
    tx.execute(event, &args).await.expect("written");
    let args = [run_id.0.into(), version.into(), hash.to_vec().into()];
    let sql = "update runs set version = $2, hash = $3 where run_id = $1";
    assert_eq!(tx.execute(sql, &args).await.expect("written"), 1);
    tx.commit().await.expect("committed");
}

pub async fn an_event_from_the_future_is_refused_by_name_and_read_as_it_was_stored(bed: &Bed) {
    let store = &bed.store;
    for (name, schema) in [("warp.engaged", 1), ("run.completed", 2)] {
        let mut loaded = claimed(store, "w").await;
        let run_id = loaded.head.run_id;
        from_the_future(bed, run_id, name, schema).await;
        let refused = |error: Error| match error {
            Error::Newer {
                event,
                version,
                schema: at,
                ..
            } => assert_eq!((event.as_str(), version, at), (name, 4, schema)),
            other => panic!("{other}"),
        };
        refused(store.reader.load(run_id).await.expect_err("not known to this build"));
        // Nor can a worker that holds the run go past it.
        let stale = order(&loaded, answer(&loaded.run, "done"));
        assert_eq!(try_append(store, stale).await, steadfast::store::Outcome::Conflict);
        refused(
            store
                .reader
                .refresh(&mut loaded)
                .await
                .expect_err("not known to this build"),
        );
        // Streams and lists of events need not understand it.
        let stored = store.reader.events(run_id, 3, 9).await.expect("reads");
        assert_eq!((stored[0].name.as_str(), stored[0].schema), (name, schema));
        assert_eq!(stored[0].payload, r#"{"warp":9}"#);
    }
    let log = follow(store, 3, 8).await;
    assert_eq!(
        log.iter()
            .filter(|entry| entry.event.payload == r#"{"warp":9}"#)
            .count(),
        2
    );
    assert!(store.reader.log(Position::default(), 100).await.expect("reads").len() == 8);
}

/// Its head says when to look again, less and less often; nobody marks it as failed.
pub async fn a_run_from_the_future_stays_due_and_is_offered_again(bed: &Bed) {
    let store = &bed.store;
    let loaded = accepted(store).await;
    let run_id = loaded.head.run_id;
    from_the_future(bed, run_id, "warp.engaged", 1).await;
    store.reader.make_due(None).await.expect("due");
    let due = store.reader.take_due(9, Duration::from_secs(60)).await.expect("reads");
    assert_eq!(due.iter().map(|due| due.run_id).collect::<Vec<_>>(), [run_id]);
    assert!(
        store
            .reader
            .take_due(9, Duration::from_secs(60))
            .await
            .expect("reads")
            .is_empty()
    );
    let head = store.reader.head(run_id).await.expect("reads").expect("the run exists");
    assert_eq!(head.status, steadfast::run::Status::Queued);
    assert!(head.due_at.is_some(), "nobody would look at it again");
    // A newer worker has just started, and asks for whatever was dispatched in vain.
    assert_eq!(store.reader.make_due(None).await.expect("due"), 1);
    let again = store.reader.take_due(9, Duration::from_secs(60)).await.expect("reads");
    assert_eq!(again.len(), 1);
}

/// A newer build's snapshot may hold what this build cannot have folded.
pub async fn a_snapshot_of_a_build_that_knows_more_events_is_ignored(bed: &Bed) {
    let store = &bed.store;
    let mut loaded = claimed(store, "w").await;
    while loaded.run.version < SNAPSHOT_EVERY {
        let before = loaded.run.version;
        go(store, &mut loaded, |l| order(l, asks_for_tool(&l.run))).await;
        let results = steadfast::run::Command::RecordToolResults {
            now: now(),
            results: vec![steadfast::run::ToolResult {
                tool_call_id: format!("c{}", loaded.run.step),
                outcome: Ok("fine".into()),
                duration_ms: 1,
            }],
        };
        go(store, &mut loaded, |l| order(l, results)).await;
        store.reader.keep_snapshot(&loaded, before).await.expect("kept");
    }
    let run_id = loaded.head.run_id;
    let events = loaded.run.version;
    from_the_future(bed, run_id, "warp.engaged", 1).await;
    // It folded its own event, and kept what came out.
    let ahead = "update snapshots set version = $2, state_version = state_version + 1,
                        hash = (select hash from runs where run_id = $1) where run_id = $1";
    let args = [run_id.0.into(), (events + 1).into()];
    assert_eq!(store.db.execute(ahead, &args).await.expect("written"), 1);
    match store.reader.load(run_id).await {
        Err(Error::Newer { version, .. }) => assert_eq!(version, events + 1),
        other => panic!("{other:?}"),
    }
}

/// An upgrade that is taken back: the old build starts with what it always starts with.
pub async fn a_schema_a_newer_build_has_added_to_is_migrated_without_complaint(bed: &Bed) {
    let db = &bed.store.db;
    let sql = "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
               select 9999, 'of the future', success, checksum, 0 from _sqlx_migrations where version = 1";
    assert_eq!(db.execute(sql, &[]).await.expect("added"), 1);
    db.migrate().await.expect("nothing to do");
    assert_eq!(db.missing_migrations().await.expect("asked"), Vec::<String>::new());
    claimed(&bed.store, "w").await;
}
