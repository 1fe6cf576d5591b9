//! What is overdue, who takes it, and when it is looked at again.

use std::{collections::BTreeSet, time::Duration};

use futures::future::join_all;
use steadfast::{
    run::{Command, RunId, TenantId, Time},
    store::{Append, Due, Lease, Loaded, Store},
};

use crate::bed::*;

const PAUSE: Duration = Duration::from_secs(10);

/// Moves the time by which something must have happened, as if the clock had gone on.
async fn make_due_at(store: &Store, run_id: RunId, due_at: Time) {
    let sql = "update runs set due_at = $2 where run_id = $1";
    let moved = store.db.execute(sql, &[run_id.0.into(), due_at.into()]).await;
    assert_eq!(moved.expect("moved"), 1);
}

fn ago(seconds: i64) -> Time {
    now() - chrono::TimeDelta::seconds(seconds)
}

async fn take(store: &Store, limit: u32) -> Vec<Due> {
    store.reader.take_due(limit, PAUSE).await.expect("the store answers")
}

fn ids(taken: &[Due]) -> BTreeSet<RunId> {
    taken.iter().map(|due| due.run_id).collect()
}

pub async fn overdue_runs_are_taken_oldest_first_and_no_more_than_asked(bed: &Bed) {
    let store = &bed.store;
    let runs = join_all((0..40).map(|_| accepted(store))).await;
    assert!(take(store, 9).await.is_empty(), "none is due yet");
    for (run, age) in runs.iter().zip([5, 3, 9, 1, 7]) {
        make_due_at(store, run.head.run_id, ago(age)).await;
    }
    let id = |at: usize| runs[at].head.run_id;
    let oldest = take(store, 2).await;
    assert_eq!(ids(&oldest), BTreeSet::from([id(2), id(4)]));
    let mut due = oldest[0].clone();
    due.run_id = id(2);
    let expected = Due {
        run_id: id(2),
        tenant: TenantId::default(),
        version: 1,
        dispatch: 1,
    };
    assert_eq!(due, expected);
    assert_eq!(ids(&take(store, 9).await), BTreeSet::from([id(0), id(1), id(3)]));
    assert!(take(store, 9).await.is_empty(), "each was put off");
    for run in &runs {
        make_due_at(store, run.head.run_id, ago(1)).await;
    }
    let mut rest = 40;
    while rest > 0 {
        let taken = take(store, 7).await.len();
        assert_eq!(taken, rest.min(7));
        rest -= taken;
    }
}

pub async fn a_run_dispatched_in_vain_is_looked_at_less_and_less_often(bed: &Bed) {
    let store = &bed.store;
    let run = accepted(store).await;
    for (dispatch, pause) in (1..).zip([10, 20, 40, 80, 160, 300, 300]) {
        make_due_at(store, run.head.run_id, ago(1)).await;
        let before = now();
        let taken = take(store, 9).await;
        assert_eq!(taken.iter().map(|due| due.dispatch).collect::<Vec<_>>(), [dispatch]);
        let due_at = load(store, run.head.run_id)
            .await
            .head
            .due_at
            .expect("put off, not forgotten");
        let off = due_at - before - chrono::TimeDelta::seconds(pause);
        assert!(
            off.abs() < chrono::TimeDelta::seconds(2),
            "dispatch {dispatch}: {off} off"
        );
    }
    // A step forward clears the suspicion; and a run that a worker held is looked at again sooner.
    let mut run = load(store, run.head.run_id).await;
    go(store, &mut run, |l| claim(l, "w", MINUTE)).await;
    make_due_at(store, run.head.run_id, ago(1)).await;
    let before = now();
    assert_eq!(take(store, 9).await[0].dispatch, 1);
    let due_at = load(store, run.head.run_id).await.head.due_at.expect("put off");
    let off = due_at - before - chrono::TimeDelta::seconds(2);
    assert!(off.abs() < chrono::TimeDelta::seconds(2), "a held run: {off} off");
}

pub async fn held_runs_and_runs_that_wait_for_people_are_left_alone(bed: &Bed) {
    let store = &bed.store;
    let session = new_session();
    let mut in_session = Vec::new();
    for at in 0..2 {
        let order = accept_in(&TenantId::default(), session, at == 0, "x");
        let run_id = order.run_id;
        append(store, order).await;
        make_due_at(store, run_id, ago(9)).await;
        in_session.push(load(store, run_id).await);
    }
    let mut for_a_person = claimed(store, "w").await;
    let ask = |l: &Loaded| Append {
        lease: Lease::Release { due_in: None },
        ..order(l, asks_for_tool(&l.run))
    };
    go(store, &mut for_a_person, ask).await;
    let mut ended = claimed(store, "w").await;
    go(store, &mut ended, |l| order(l, answer(&l.run, "done"))).await;

    let first = in_session[0].head.run_id;
    assert_eq!(
        ids(&take(store, 9).await),
        BTreeSet::from([first]),
        "the second is held by the first"
    );
    let cancel = |l: &Loaded| {
        order(
            l,
            Command::Cancel {
                now: now(),
                reason: None,
            },
        )
    };
    let end = go(store, &mut in_session[0], cancel).await;
    assert_eq!(end.next_in_session, Some(in_session[1].head.run_id));
    assert_eq!(ids(&take(store, 9).await), BTreeSet::from([in_session[1].head.run_id]));
}

pub async fn two_redrivers_never_take_one_run_twice(bed: &Bed) {
    let other = bed.other_process().await;
    let runs = join_all((0..200).map(|_| accepted(&bed.store))).await;
    for run in &runs {
        make_due_at(&bed.store, run.head.run_id, ago(1)).await;
    }
    let redrive = |at: usize| {
        let store = if at.is_multiple_of(2) { &bed.store } else { &other };
        async move {
            let mut mine = Vec::new();
            // Rows another redriver holds at this moment are skipped, so nothing found is not nothing left.
            for _ in 0..30 {
                mine.extend(take(store, 10).await);
            }
            mine
        }
    };
    let taken: Vec<Due> = join_all((0..6).map(redrive)).await.concat();
    assert_eq!(taken.len(), runs.len(), "some were taken twice or not at all");
    assert_eq!(ids(&taken).len(), runs.len());
    assert!(taken.iter().all(|due| due.dispatch == 1));
}

pub async fn a_wiped_queue_makes_every_queued_run_due(bed: &Bed) {
    let store = &bed.store;
    let queued = [accepted(store).await, accepted(store).await];
    let held = claimed(store, "w").await;
    assert_eq!(store.reader.make_due(None).await.expect("answered"), 2);
    let taken = take(store, 9).await;
    assert_eq!(ids(&taken), queued.iter().map(|run| run.head.run_id).collect());
    assert!(
        taken.iter().all(|due| due.dispatch == 2),
        "a message id that was used is swallowed: {taken:?}"
    );
    assert!(load(store, held.head.run_id).await.head.lease_until > Some(now()));
}

pub async fn the_leases_of_a_dead_process_end_at_once(bed: &Bed) {
    let store = &bed.store;
    let mut dead = claimed(store, "dead").await;
    let alive = claimed(store, "alive").await;
    store.reader.make_due(Some("dead")).await.expect("answered");
    assert_eq!(ids(&take(store, 9).await), BTreeSet::from([dead.head.run_id]));
    go(store, &mut dead, |l| claim(l, "heir", MINUTE)).await;
    assert!(load(store, alive.head.run_id).await.head.lease_until > Some(now()));
}

/// The queue swallows a message id it knows, and the id is made of run, version and dispatch.
pub async fn a_run_let_go_of_without_a_fact_is_dispatched_under_a_new_number(bed: &Bed) {
    let store = &bed.store;
    let loaded = claimed(store, "w").await;
    let mut numbers = BTreeSet::new();
    for _ in 0..3 {
        let let_go = Append {
            events: vec![],
            status: loaded.run.status(),
            lease: Lease::Release {
                due_in: Some(Duration::ZERO),
            },
            ..order(
                &loaded,
                Command::Cancel {
                    now: now(),
                    reason: None,
                },
            )
        };
        append(store, let_go).await;
        let due = take(store, 1).await.remove(0);
        assert_eq!((due.run_id, due.version), (loaded.head.run_id, loaded.head.version));
        assert!(numbers.insert(due.dispatch), "{} was used before", due.dispatch);
    }
}
