//! Who may work on a run, and what the head says about it.

use std::time::Duration;

use futures::future::join_all;
use steadfast::{
    run::{Command, Status},
    store::{Append, Head, Lease, Loaded, Outcome},
};

use crate::bed::*;

async fn head(bed: &Bed, loaded: &Loaded) -> Head {
    let head = bed.store.reader.head(loaded.head.run_id).await.expect("head");
    head.expect("the run is there")
}

/// Within two seconds of so far from now: the clocks are the same machine's.
fn about(time: Option<steadfast::run::Time>, from_now: Duration) -> bool {
    let Some(time) = time else { return false };
    let off = time - now() - chrono::TimeDelta::from_std(from_now).expect("a short time");
    off.abs() < chrono::TimeDelta::seconds(2)
}

pub async fn a_run_is_claimed_by_one_worker_until_its_lease_ends(bed: &Bed) {
    let mut loaded = accepted(&bed.store).await;
    go(&bed.store, &mut loaded, |l| claim(l, "one", MINUTE)).await;
    assert_eq!(loaded.head.epoch, 1);
    assert_eq!(
        try_append(&bed.store, claim(&loaded, "two", MINUTE)).await,
        Outcome::Conflict
    );
    assert_eq!(
        try_append(&bed.store, claim(&loaded, "one", MINUTE)).await,
        Outcome::Conflict,
        "not even by its owner: renewing is something else"
    );
    bed.store
        .reader
        .make_due(Some("one"))
        .await
        .expect("the lease is ended");
    go(&bed.store, &mut loaded, |l| claim(l, "two", MINUTE)).await;
    let head = head(bed, &loaded).await;
    assert_eq!((head.epoch, head.lease_owner.as_deref()), (2, Some("two")));
}

pub async fn one_of_many_claims_wins(bed: &Bed) {
    let other = bed.other_process().await;
    let loaded = accepted(&bed.store).await;
    let claims = (0..20).map(|at| {
        let store = if at % 2 == 0 { &bed.store } else { &other };
        try_append(store, claim(&loaded, &format!("w{at}"), MINUTE))
    });
    let outcomes = join_all(claims).await;
    let won: Vec<usize> = (0..20)
        .filter(|at| matches!(outcomes[*at], Outcome::Appended(_)))
        .collect();
    assert_eq!(won.len(), 1, "{won:?}");
    let head = head(bed, &loaded).await;
    assert_eq!((head.epoch, head.lease_owner), (1, Some(format!("w{}", won[0]))));
}

pub async fn keep_and_release_move_the_heads_columns(bed: &Bed) {
    let store = &bed.store;
    let mut loaded = accepted(store).await;
    let queued = head(bed, &loaded).await;
    assert_eq!(
        (queued.status, queued.lease_owner.clone(), queued.lease_until),
        (Status::Queued, None, None)
    );
    assert!(
        about(queued.due_at, MINUTE),
        "due when no worker has claimed it in time: {queued:?}"
    );

    let appended = go(store, &mut loaded, |l| claim(l, "w", Duration::from_secs(30))).await;
    assert_eq!(appended.epoch, 1);
    let held = head(bed, &loaded).await;
    assert_eq!((held.status, held.lease_owner.as_deref()), (Status::Running, Some("w")));
    assert!(about(held.lease_until, Duration::from_secs(30)), "{held:?}");
    assert_eq!(
        held.due_at, held.lease_until,
        "a dead worker's run is due when its lease ends"
    );

    go(store, &mut loaded, |l| order(l, asks_for_tool(&l.run))).await;
    let kept = head(bed, &loaded).await;
    let lease = |head: &Head| (head.epoch, head.lease_owner.clone(), head.lease_until, head.due_at);
    assert_eq!(lease(&kept), lease(&held));

    let wait = Lease::Release {
        due_in: Some(Duration::from_secs(10)),
    };
    let idle = Append {
        events: vec![],
        status: Status::Waiting,
        lease: wait,
        ..order(
            &loaded,
            Command::Cancel {
                now: now(),
                reason: None,
            },
        )
    };
    append(store, idle.clone()).await;
    let waiting = head(bed, &loaded).await;
    assert_eq!(
        (waiting.lease_owner, waiting.lease_until, waiting.epoch),
        (None, None, 1)
    );
    assert!(about(waiting.due_at, Duration::from_secs(10)));

    let for_a_person = Append {
        lease: Lease::Release { due_in: None },
        ..idle
    };
    append(store, for_a_person).await;
    assert_eq!(head(bed, &loaded).await.due_at, None);
}

pub async fn letting_go_needs_no_fact(bed: &Bed) {
    let store = &bed.store;
    let mut loaded = claimed(store, "w").await;
    let before = loaded.clone();
    let let_go = |l: &Loaded| Append {
        events: vec![],
        status: l.run.status(),
        lease: Lease::Release {
            due_in: Some(Duration::ZERO),
        },
        ..order(
            l,
            Command::Cancel {
                now: now(),
                reason: None,
            },
        )
    };
    go(store, &mut loaded, let_go).await;
    assert_eq!((loaded.head.version, loaded.hash), (before.head.version, before.hash));
    let head = head(bed, &loaded).await;
    assert_eq!(
        (head.version, head.hash, head.lease_owner),
        (before.run.version, before.hash, None)
    );
    go(store, &mut loaded, |l| claim(l, "next", MINUTE)).await;
    assert_eq!(load(store, loaded.head.run_id).await.run, loaded.run);
}

pub async fn a_lease_is_renewed_by_its_owner_alone(bed: &Bed) {
    let reader = &bed.store.reader;
    let one = claimed(&bed.store, "one").await;
    let two = claimed(&bed.store, "two").await;
    let gone = claimed(&bed.store, "one").await;
    let mut ended = gone.clone();
    go(&bed.store, &mut ended, |l| order(l, answer(&l.run, "done"))).await;
    let all = [
        (one.head.run_id, 1),
        (two.head.run_id, 1),
        (gone.head.run_id, 1),
        (new_run(), 1),
    ];
    let long = Duration::from_secs(600);
    assert_eq!(reader.renew("one", &all, long).await.expect("renew"), [one.head.run_id]);
    let head_of_one = head(bed, &one).await;
    assert!(
        about(head_of_one.lease_until, long) && about(head_of_one.due_at, long),
        "{head_of_one:?}"
    );
    assert!(about(head(bed, &two).await.lease_until, MINUTE));
    assert_eq!(head(bed, &gone).await.lease_until, None, "an ended run has no lease");
    let old_epoch = [(one.head.run_id, 0)];
    assert!(reader.renew("one", &old_epoch, long).await.expect("renew").is_empty());
    assert!(reader.renew("one", &[], long).await.expect("renew").is_empty());
}

pub async fn a_lease_is_renewed_after_its_end_until_someone_takes_over(bed: &Bed) {
    let mut loaded = accepted(&bed.store).await;
    go(&bed.store, &mut loaded, |l| claim(l, "slow", Duration::ZERO)).await;
    let mine = [(loaded.head.run_id, 1)];
    assert_eq!(
        bed.store.reader.renew("slow", &mine, MINUTE).await.expect("renew"),
        [loaded.head.run_id]
    );
    assert_eq!(
        try_append(&bed.store, claim(&loaded, "heir", MINUTE)).await,
        Outcome::Conflict
    );
    bed.store
        .reader
        .make_due(Some("slow"))
        .await
        .expect("the lease is ended");
    go(&bed.store, &mut loaded, |l| claim(l, "heir", MINUTE)).await;
    assert!(
        bed.store
            .reader
            .renew("slow", &mine, MINUTE)
            .await
            .expect("renew")
            .is_empty()
    );
    assert_eq!(head(bed, &loaded).await.lease_owner.as_deref(), Some("heir"));
}

/// Renewals lock many heads at once, appends too: neither may ever wait for the other in a circle.
pub async fn renewing_many_while_they_are_written_to_disturbs_nobody(bed: &Bed) {
    let store = &bed.store;
    let runs = join_all((0..64).map(|_| claimed(store, "w"))).await;
    // In an order that is not theirs.
    let mut leases: Vec<_> = runs.iter().map(|loaded| (loaded.head.run_id, 1)).collect();
    leases.reverse();
    let write = |mut loaded: Loaded| async move {
        for _ in 0..8 {
            go(store, &mut loaded, |l| order(l, asks_for_tool(&l.run))).await;
            let id = loaded.run.open_tools[0].call.id.clone();
            let result = Command::RecordToolResults {
                now: now(),
                results: vec![steadfast::run::ToolResult {
                    tool_call_id: id,
                    outcome: Ok("x".into()),
                    duration_ms: 1,
                }],
            };
            go(store, &mut loaded, |l| order(l, result)).await;
        }
    };
    let renewing = async {
        for _ in 0..40 {
            let renewed = store.reader.renew("w", &leases, MINUTE).await.expect("no deadlock");
            assert_eq!(renewed.len(), runs.len());
        }
    };
    futures::join!(join_all(runs.iter().cloned().map(write)), renewing);
}
