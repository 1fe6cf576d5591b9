//! The check finds every kind of damage and names it.

use std::time::Duration;

use steadfast::run::RunId;
use steadfast_projections::{CheckReport, Options, check};

use crate::bed::{Bed, sql_id};

async fn furnished() -> (Bed, Vec<RunId>) {
    let bed = Bed::new().await;
    let runs = bed.furnish().await;
    bed.project().await;
    (bed, runs)
}

/// The report names this invariant for this run, and the words.
fn assert_found(report: &CheckReport, invariant: &str, run_id: Option<RunId>, words: &str) {
    let found = (report.violations.iter())
        .any(|v| v.invariant == invariant && (run_id.is_none() || v.run_id == run_id) && v.to_string().contains(words));
    assert!(
        found && !report.ok,
        "no {invariant} of {run_id:?} with {words:?} in {report:#?}"
    );
}

#[tokio::test]
async fn a_healthy_log_passes() {
    let (bed, runs) = furnished().await;
    let report = bed.check().await;
    assert!(report.ok && report.violations_total == 0, "{report:#?}");
    assert_eq!((report.runs, report.open_runs, report.blobs), (runs.len() as u64, 3, 1));
    assert!(report.events > 60 && report.rows > 40, "{report:#?}");
    assert!(report.not_checked.iter().any(|what| what.starts_with("I2")));
    assert!(serde_json::to_string(&report).expect("JSON").contains("\"ok\":true"));
}

#[tokio::test]
async fn a_log_without_read_models_is_checked_and_says_what_was_not() {
    let bed = Bed::new().await;
    bed.furnish().await;
    let report = bed.check().await;
    assert!(report.ok, "{report:#?}");
    assert!(
        report
            .not_checked
            .iter()
            .any(|what| what.contains("run_list: it has never been built")),
        "{report:#?}"
    );
}

#[tokio::test]
async fn an_empty_database_passes() {
    let report = Bed::new().await.check().await;
    assert!(report.ok && report.runs == 0);
}

#[tokio::test]
async fn read_models_behind_the_log_are_compared_up_to_their_checkpoint() {
    let (bed, _) = furnished().await;
    bed.furnish().await;
    let report = bed.check().await;
    assert!(report.ok, "{report:#?}");
}

#[tokio::test]
async fn open_runs_are_a_violation_of_a_settled_system_only() {
    let (bed, runs) = furnished().await;
    let options = Options {
        settled: Some(Duration::from_secs(10)),
        ..Options::default()
    };
    let report = check(&bed.store.db, &bed.store.reader, options)
        .await
        .expect("the check can be done");
    assert_eq!(report.violations_total, 3);
    assert_found(&report, "I4", Some(runs[4]), "waiting");
}

#[tokio::test]
async fn a_read_model_that_stays_behind_is_a_violation_of_a_settled_system_only() {
    let (bed, _) = furnished().await;
    let (_, at_rest) = (bed.furnish().await, Duration::from_millis(300));
    let report = check(
        &bed.store.db,
        &bed.store.reader,
        Options {
            settled: Some(at_rest),
            ..Options::default()
        },
    )
    .await
    .expect("the check can be done");
    for projection in ["run_list", "sessions", "usage"] {
        let what = format!("projection {projection} of a system at rest");
        assert!(
            report.violations.iter().any(|violation| violation.what == what),
            "{report:#?}"
        );
    }
    assert!(bed.check().await.ok);
}

#[tokio::test]
async fn progress_is_told() {
    let (bed, runs) = furnished().await;
    let told = std::sync::atomic::AtomicU64::new(0);
    let progress = |runs| told.store(runs, std::sync::atomic::Ordering::Relaxed);
    let options = Options {
        progress: Some(&progress),
        ..Options::default()
    };
    check(&bed.store.db, &bed.store.reader, options)
        .await
        .expect("the check can be done");
    assert_eq!(told.into_inner(), runs.len() as u64);
}

#[tokio::test]
async fn every_kind_of_damage_is_found_and_named() {
    // What is done to the run that completed; which invariant must speak, and what it must say.
    const DAMAGE: [(&str, &str, &str); 21] = [
        (
            "update events set payload = replace(payload, 'noon', 'moon') where run_id = RUN and version = 8",
            "I14",
            "hash",
        ),
        (
            "update events set payload = replace(payload, '{', '{ ') where run_id = RUN and version = 2",
            "I14",
            "hash",
        ),
        (
            "update events set type = 'run.failed' where run_id = RUN and version = 12",
            "I14",
            "hash",
        ),
        (
            "update events set type = 'no.such' where run_id = RUN and version = 5",
            "I14",
            "hash",
        ),
        (
            "update events set payload = '7' where run_id = RUN and version = 5",
            "I16",
            "does not read",
        ),
        (
            "update events set tenant_id = 'acme' where run_id = RUN and version = 5",
            "I13",
            "acme",
        ),
        (
            "delete from events where run_id = RUN and version = 5",
            "I1",
            "expected 5, found 6",
        ),
        (
            "delete from events where run_id = RUN and version = (select max(version) from events where run_id = RUN)",
            "I1",
            "runs.version",
        ),
        ("delete from events where run_id = RUN", "I1", "the run's events"),
        ("delete from runs where run_id = RUN", "I1", "the head of the run"),
        (
            "update runs set version = version + 1 where run_id = RUN",
            "I1",
            "runs.version",
        ),
        (
            "update runs set status = 'failed' where run_id = RUN",
            "I1",
            "runs.status",
        ),
        ("update runs set epoch = 7 where run_id = RUN", "I5", "runs.epoch"),
        (
            "update runs set output_tokens = 1 where run_id = RUN",
            "I1",
            "runs.output_tokens",
        ),
        (
            "update runs set hash = (select hash from runs where run_id = OTHER) where run_id = RUN",
            "I14",
            "runs.hash",
        ),
        (
            "update run_list set status = 'running' where run_id = RUN",
            "I11",
            "the row of run_list",
        ),
        ("delete from run_list where run_id = RUN", "I11", "the row of run_list"),
        (
            "delete from messages where run_id = RUN and version = 1 and idx = 1",
            "I11",
            "message 1",
        ),
        (
            "update messages set message = replace(message, 'noon', 'moon') where run_id = RUN",
            "I11",
            "moon",
        ),
        (
            "insert into messages select tenant_id, session_id, run_id, 99, idx, message, time from messages where run_id = RUN and version = 1 and idx = 0",
            "I11",
            "no such message",
        ),
        (
            "insert into run_list select tenant_id, OTHER_ID, session_id, agent, status, input, output, error_code, input_tokens, output_tokens, cost_microusd, created_at, ended_at, version, fold from run_list where run_id = RUN",
            "I11",
            "a row of run_list",
        ),
    ];
    let (bed, runs) = furnished().await;
    let unknown = RunId(uuid::Uuid::from_u128(7));
    for (damage, invariant, words) in DAMAGE {
        let mut tables = Vec::new();
        for table in ["events", "runs", "run_list", "messages"] {
            tables.push(table);
            copy(&bed, table).await;
        }
        let sql = damage
            .replace("OTHER_ID", &sql_id(&bed, unknown))
            .replace("OTHER", &sql_id(&bed, runs[2]))
            .replace("RUN", &sql_id(&bed, runs[1]));
        bed.sabotage(&sql).await;
        let run_id = if sql.contains("insert into run_list") {
            unknown
        } else {
            runs[1]
        };
        let report = bed.check().await;
        assert_found(&report, invariant, Some(run_id), words);
        for table in tables {
            restore(&bed, table).await;
        }
        let report = bed.check().await;
        assert!(report.ok, "after the repair of {damage}: {report:#?}");
    }
}

#[tokio::test]
async fn two_events_swapped_are_found() {
    let (bed, runs) = furnished().await;
    let run = sql_id(&bed, runs[1]);
    for (from, to) in [(5, 1000), (6, 5), (1000, 6)] {
        bed.sabotage(&format!(
            "update events set version = {to} where run_id = {run} and version = {from}"
        ))
        .await;
    }
    assert_found(&bed.check().await, "I14", Some(runs[1]), "version 5");
}

#[tokio::test]
async fn sums_that_do_not_add_up_are_found() {
    let (bed, _) = furnished().await;
    bed.sabotage("update usage set output_tokens = output_tokens + 1 where tenant_id = 'acme'")
        .await;
    bed.sabotage("update session_list set messages = 3 where runs = 2")
        .await;
    let report = bed.check().await;
    assert_eq!(report.violations_total, 2, "{report:#?}");
    assert_found(
        &report,
        "I11",
        None,
        "usage of tenant acme, day 2026-11-22, agent assistant, model small",
    );
    assert_found(&report, "I11", None, "2 runs, 12 messages");
}

#[tokio::test]
async fn a_blob_that_is_missing_or_changed_is_found() {
    let (bed, runs) = furnished().await;
    copy(&bed, "blobs").await;
    bed.sabotage("delete from blobs").await;
    assert_found(&bed.check().await, "I14", Some(runs[8]), "no such blob");
    restore(&bed, "blobs").await;
    bed.sabotage("update blobs set bytes = (select hash from runs limit 1)")
        .await;
    assert_found(&bed.check().await, "I14", Some(runs[8]), "the blob");
}

#[tokio::test]
async fn a_flood_of_violations_is_counted_whole_and_shown_in_part() {
    let (bed, _) = furnished().await;
    for _ in 0..15 {
        bed.furnish().await;
    }
    bed.sabotage("update events set schema = 2").await;
    let report = bed.check().await;
    assert_eq!(
        report.violations.len(),
        steadfast_projections::check::VIOLATIONS_SHOWN_MAX
    );
    assert!(
        report.violations_total > 1000 && report.runs == 16 * 9,
        "{}",
        report.violations_total
    );
}

async fn copy(bed: &Bed, table: &str) {
    bed.store
        .db
        .execute(&format!("drop table if exists saved_{table}"), &[])
        .await
        .expect("dropped");
    bed.store
        .db
        .execute(&format!("create table saved_{table} as select * from {table}"), &[])
        .await
        .expect("saved");
}

async fn restore(bed: &Bed, table: &str) {
    let db = &bed.store.db;
    let over = if table == "events" && db.is_postgres() {
        "overriding system value"
    } else {
        ""
    };
    db.execute(&format!("delete from {table}"), &[]).await.expect("emptied");
    db.execute(&format!("insert into {table} {over} select * from saved_{table}"), &[])
        .await
        .expect("restored");
}

#[tokio::test]
async fn what_a_newer_build_recorded_is_no_damage_and_is_listed_as_not_checked() {
    let (bed, runs) = furnished().await;
    let run_id = runs[0];
    let head = bed
        .store
        .reader
        .head(run_id)
        .await
        .expect("reads")
        .expect("the run exists");
    let (version, payload, time) = (head.version + 1, "{}", bed.now());
    let hash = steadfast::store::chain(
        &head.hash,
        run_id,
        version,
        &head.tenant,
        "warp.engaged",
        1,
        time,
        payload,
    );
    let event = "insert into events (run_id, version, tenant_id, type, schema, time, payload, hash)
                 values ($1, $2, $3, 'warp.engaged', 1, $4, $5, $6)";
    let (id, hash) = (run_id.0, hash.to_vec());
    let args = [
        id.into(),
        version.into(),
        head.tenant.as_str().into(),
        time.into(),
        payload.into(),
        hash.clone().into(),
    ];
    bed.store.db.execute(event, &args).await.expect("written");
    let sql = "update runs set version = $2, hash = $3 where run_id = $1";
    let args = [id.into(), version.into(), hash.into()];
    bed.store.db.execute(sql, &args).await.expect("written");
    let report = bed.check().await;
    assert!(report.ok, "{report:#?}");
    assert!(
        report.not_checked.iter().any(|what| what.contains("warp.engaged")),
        "{report:#?}"
    );
    // Its chain is verified all the same.
    bed.sabotage("update events set payload = '{ }' where type = 'warp.engaged'")
        .await;
    assert_found(&bed.check().await, "I14", Some(run_id), "hash");
}
