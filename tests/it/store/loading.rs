//! From the log to a run: snapshots, holes, catching up.

use std::time::Duration;

use steadfast::{
    run::{Command, Event, Run, RunId, ToolResult, state::STATE_VERSION},
    store::{Error, Loaded, SNAPSHOT_EVERY, Store},
};

use crate::bed::*;

/// A run of at least so many events, none of them the last.
async fn long_run(store: &Store, events: u64, keep_snapshots: bool) -> Loaded {
    let mut loaded = claimed(store, "w").await;
    while loaded.run.version < events {
        let from = loaded.run.version;
        go(store, &mut loaded, |l| order(l, asks_for_tool(&l.run))).await;
        let result = ToolResult {
            tool_call_id: loaded.run.open_tools[0].call.id.clone(),
            outcome: Ok("found".into()),
            duration_ms: 1,
        };
        let results = Command::RecordToolResults {
            now: now(),
            results: vec![result],
        };
        go(store, &mut loaded, |l| order(l, results)).await;
        if keep_snapshots {
            store.reader.keep_snapshot(&loaded, from).await.expect("kept");
        }
    }
    loaded
}

async fn full_fold(store: &Store, run_id: RunId) -> Run {
    let events = store.reader.events(run_id, 0, 10_000).await.expect("reads");
    let events: Vec<Event> = events.iter().map(|event| event.decode().expect("decodes")).collect();
    Run::fold(&events)
}

async fn snapshots(store: &Store, run_id: RunId) -> Vec<u64> {
    let sql = "select version from snapshots where run_id = $1";
    let rows = store.db.fetch(sql, &[run_id.0.into()]).await.expect("reads");
    rows.iter().map(|row| row.count("version").expect("a number")).collect()
}

pub async fn a_long_run_loads_from_its_snapshot_and_equals_the_full_fold(bed: &Bed) {
    let store = &bed.store;
    let long = long_run(store, 600, true).await;
    let run_id = long.head.run_id;
    let kept = snapshots(store, run_id).await;
    assert!(kept.len() == 1 && kept[0] >= 2 * SNAPSHOT_EVERY, "{kept:?}");
    let loaded = load(store, run_id).await;
    assert_eq!(loaded.run, full_fold(store, run_id).await);
    assert_eq!((&loaded.run, loaded.hash), (&long.run, long.hash));
    // That the snapshot is what it was loaded from: what came before is not even looked at.
    let sql = "update events set payload = 'unreadable' where run_id = $1 and version <= $2";
    store
        .db
        .execute(sql, &[run_id.0.into(), kept[0].into()])
        .await
        .expect("spoilt");
    assert_eq!(load(store, run_id).await.run, long.run);
}

pub async fn a_snapshot_that_does_not_fit_is_ignored(bed: &Bed) {
    let store = &bed.store;
    let long = long_run(store, SNAPSHOT_EVERY + 10, true).await;
    let run_id = long.head.run_id;
    assert_eq!(snapshots(store, run_id).await.len(), 1);
    let lie = serde_json::to_string(&Run::default()).expect("JSON");
    let spoil = |column: &'static str, value: steadfast::store::sql::Value| {
        let sql = format!("update snapshots set {column} = $2 where run_id = $1");
        async move {
            let spoilt = store.db.execute(&sql, &[run_id.0.into(), value]).await;
            assert_eq!(spoilt.expect("spoilt"), 1);
            assert_eq!(
                load(store, run_id).await.run,
                full_fold(store, run_id).await,
                "{column}"
            );
        }
    };
    let sound = || store.reader.keep_snapshot(&long, 0);
    spoil("state_version", (STATE_VERSION + 1).into()).await;
    store
        .db
        .execute("delete from snapshots", &[])
        .await
        .expect("emptied: it is a cache");
    assert_eq!(load(store, run_id).await.run, long.run);
    sound().await.expect("kept");
    spoil("state", "{\"not\": \"a run\"}".into()).await;
    store.db.execute("delete from snapshots", &[]).await.expect("emptied");
    sound().await.expect("kept");
    spoil("state", lie.as_str().into()).await;
    store.db.execute("delete from snapshots", &[]).await.expect("emptied");
    sound().await.expect("kept");
    spoil("version", 1_u64.into()).await;
    // A log that was restored to an earlier day is the truth all the same.
    store.db.execute("delete from snapshots", &[]).await.expect("emptied");
    sound().await.expect("kept");
    let cut = "delete from events where run_id = $1 and version > $2";
    store
        .db
        .execute(cut, &[run_id.0.into(), (SNAPSHOT_EVERY + 2).into()])
        .await
        .expect("cut");
    let head = "update runs set version = $2 where run_id = $1";
    store
        .db
        .execute(head, &[run_id.0.into(), (SNAPSHOT_EVERY + 2).into()])
        .await
        .expect("cut");
    assert_eq!(load(store, run_id).await.run, full_fold(store, run_id).await);
}

pub async fn a_hole_in_the_log_is_corruption_wherever_it_is(bed: &Bed) {
    let store = &bed.store;
    for (missing, reported) in [(1, 2), (3, 4), (5, 5)] {
        let mut loaded = claimed(store, "w").await;
        go(store, &mut loaded, |l| order(l, asks_for_tool(&l.run))).await;
        assert_eq!(loaded.run.version, 5);
        let sql = "delete from events where run_id = $1 and version = $2";
        let args = [loaded.head.run_id.0.into(), u64::into(missing)];
        assert_eq!(store.db.execute(sql, &args).await.expect("deleted"), 1);
        match store.reader.load(loaded.head.run_id).await {
            Err(Error::Corrupt { version, reason, .. }) => assert_eq!(version, reported, "{reason}"),
            other => panic!("version {missing} is missing and {other:?} came back"),
        }
    }
    let mut spoilt = claimed(store, "w").await;
    let sql = "update events set type = 'run.exploded' where run_id = $1 and version = 2";
    store
        .db
        .execute(sql, &[spoilt.head.run_id.0.into()])
        .await
        .expect("spoilt");
    let told = store
        .reader
        .load(spoilt.head.run_id)
        .await
        .expect_err("not known to this build");
    assert!(told.to_string().contains("run.exploded"), "{told}");
    spoilt.run = Run::default();
    assert!(store.reader.refresh(&mut spoilt).await.is_err());
}

pub async fn a_loaded_run_catches_up_with_other_writers(bed: &Bed) {
    let other = bed.other_process().await;
    let mut mine = claimed(&bed.store, "w").await;
    let mut theirs = load(&other, mine.head.run_id).await;
    let cancel = Command::Cancel {
        now: now(),
        reason: Some("enough".into()),
    };
    go(&other, &mut theirs, |l| order(l, cancel)).await;
    let stale = order(&mine, answer(&mine.run, "paid for"));
    assert_eq!(try_append(&bed.store, stale).await, steadfast::store::Outcome::Conflict);
    bed.store.reader.refresh(&mut mine).await.expect("refreshed");
    assert_eq!((&mine.run, mine.hash, mine.head.epoch), (&theirs.run, theirs.hash, 1));
    go(&bed.store, &mut mine, |l| order(l, answer(&l.run, "paid for"))).await;
    assert_eq!(
        load(&other, mine.head.run_id).await.run.status(),
        steadfast::run::Status::Cancelled
    );
}

pub async fn an_unknown_run_is_none(bed: &Bed) {
    let reader = &bed.store.reader;
    let nobody = new_run();
    assert!(reader.load(nobody).await.expect("answered").is_none());
    assert!(reader.head(nobody).await.expect("answered").is_none());
    assert!(reader.events(nobody, 0, 9).await.expect("answered").is_empty());
    assert_eq!(reader.log_end().await.expect("answered"), Default::default());
}

/// A refresh reads the head, then the events. What is claimed in between is in the events alone.
pub async fn a_claim_that_the_head_does_not_show_yet_is_seen_in_the_events(bed: &Bed) {
    let store = &bed.store;
    let mut late = accepted(store).await;
    go(store, &mut late, |l| claim(l, "late", Duration::ZERO)).await;
    let mut heir = late.clone();
    go(store, &mut heir, |l| claim(l, "heir", MINUTE)).await;
    let head = "update runs set epoch = $2, version = $3 where run_id = $1";
    let args = [
        heir.head.run_id.0.into(),
        late.head.epoch.into(),
        late.head.version.into(),
    ];
    assert_eq!(store.db.execute(head, &args).await.expect("the head of before"), 1);
    store.reader.refresh(&mut late).await.expect("refreshed");
    assert_eq!((late.run.epoch, late.head.epoch), (2, 2));
}
