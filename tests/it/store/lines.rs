//! Runs that wait in their tenant's line, and what is asked of the workers as a whole.

use std::{collections::BTreeSet, time::Duration};

use futures::future::join_all;
use steadfast::{
    run::{Command, RunId, TenantId},
    store::{Accept, Demand, Due, Loaded, Store},
};

use crate::bed::*;

const PAUSE: Duration = Duration::from_secs(10);

async fn accepted_for(store: &Store, tenant: &TenantId, held: bool) -> Loaded {
    let mut first = accept_in(tenant, new_session(), true, "hello");
    let run_id = first.run_id;
    first.accept = first.accept.map(|accept| Accept { held, ..accept });
    append(store, first).await;
    load(store, run_id).await
}

async fn take(store: &Store, tenant: &TenantId, limit: u32) -> Vec<Due> {
    let taken = store.reader.take_held(tenant, limit, PAUSE).await;
    taken.expect("the store answers")
}

async fn lines(store: &Store) -> Vec<String> {
    let tenants = store.reader.held_tenants(None, 100).await.expect("answered");
    tenants.iter().map(ToString::to_string).collect()
}

fn ids(taken: &[Due]) -> BTreeSet<RunId> {
    taken.iter().map(|due| due.run_id).collect()
}

async fn overdue(store: &Store, run: &Loaded) {
    let sql = "update runs set due_at = $2 where run_id = $1";
    let ago = now() - chrono::TimeDelta::seconds(5);
    let moved = store.db.execute(sql, &[run.head.run_id.0.into(), ago.into()]).await;
    assert_eq!(moved.expect("moved"), 1);
}

pub async fn a_line_gives_its_oldest_runs_once_and_only_its_own(bed: &Bed) {
    let (store, a, b) = (&bed.store, tenant("a"), tenant("b"));
    let mut of_a = Vec::new();
    for _ in 0..5 {
        of_a.push(accepted_for(store, &a, true).await.head.run_id);
    }
    let of_b = accepted_for(store, &b, true).await;
    accepted_for(store, &tenant("c"), false).await;
    assert_eq!(lines(store).await, ["a", "b"]);
    assert_eq!(ids(&take(store, &a, 2).await), of_a[..2].iter().copied().collect());
    let takers = join_all((0..8).map(|_| take(store, &a, 1))).await.concat();
    assert_eq!(takers.len(), 3, "each was taken by one of them: {takers:?}");
    assert_eq!(ids(&takers), of_a[2..].iter().copied().collect());
    assert_eq!(lines(store).await, ["b"]);
    let taken = take(store, &b, 9).await;
    let expected = Due {
        run_id: of_b.head.run_id,
        tenant: b,
        version: 1,
        dispatch: 0,
    };
    assert_eq!(taken, [expected]);
    assert!(lines(store).await.is_empty());
}

pub async fn the_tenants_with_a_line_are_read_page_by_page(bed: &Bed) {
    let store = &bed.store;
    for name in ["d", "b", "a", "c", "b"] {
        accepted_for(store, &tenant(name), true).await;
    }
    let (mut after, mut seen) = (None, Vec::new());
    loop {
        let page = store.reader.held_tenants(after.as_ref(), 3).await.expect("answered");
        seen.extend(page.iter().map(ToString::to_string));
        match page.last() {
            Some(last) if page.len() == 3 => after = Some(last.clone()),
            _ => break,
        }
    }
    assert_eq!(seen, ["a", "b", "c", "d"]);
}

pub async fn a_held_run_is_not_due_before_it_is_taken_and_is_found_if_its_taker_dies(bed: &Bed) {
    let store = &bed.store;
    let run = accepted_for(store, &TenantId::default(), true).await;
    overdue(store, &run).await;
    let due = || async { store.reader.take_due(9, PAUSE).await.expect("answered") };
    assert!(due().await.is_empty(), "it waits, however long");
    store.reader.make_due(None).await.expect("answered");
    assert!(due().await.is_empty(), "also when the queue is new");
    assert_eq!(take(store, &TenantId::default(), 1).await.len(), 1);
    let due_at = load(store, run.head.run_id).await.head.due_at.expect("it is due");
    assert!(
        due_at > now() && due_at < now() + chrono::TimeDelta::seconds(11),
        "{due_at}"
    );
    overdue(store, &run).await;
    assert_eq!(ids(&due().await), BTreeSet::from([run.head.run_id]));
}

pub async fn only_a_run_that_nobody_has_claimed_can_be_put_into_its_line(bed: &Bed) {
    let store = &bed.store;
    let queued = accepted(store).await;
    let mut worked_on = accepted(store).await;
    go(store, &mut worked_on, |l| claim(l, "w", MINUTE)).await;
    let mut ended = accepted(store).await;
    go(store, &mut ended, |l| claim(l, "w", MINUTE)).await;
    go(store, &mut ended, |l| order(l, answer(&l.run, "done"))).await;
    let mut orphan = accepted(store).await;
    go(store, &mut orphan, |l| claim(l, "dead", Duration::ZERO)).await;
    let all = [&queued, &worked_on, &ended, &orphan].map(|run| run.head.run_id);
    assert_eq!(store.reader.hold(&all).await.expect("answered"), 2);
    assert_eq!(
        store.reader.hold(&all).await.expect("answered"),
        0,
        "they are there already"
    );
    assert_eq!(store.reader.hold(&[]).await.expect("answered"), 0);
    let taken = take(store, &TenantId::default(), 9).await;
    assert_eq!(ids(&taken), BTreeSet::from([queued.head.run_id, orphan.head.run_id]));
}

pub async fn a_claim_or_an_end_takes_a_run_out_of_its_line(bed: &Bed) {
    let (store, tenant) = (&bed.store, TenantId::default());
    let mut claimed = accepted_for(store, &tenant, true).await;
    let mut cancelled = accepted_for(store, &tenant, true).await;
    go(store, &mut claimed, |l| claim(l, "w", MINUTE)).await;
    let cancel = || Command::Cancel {
        now: now(),
        reason: None,
    };
    go(store, &mut cancelled, |l| order(l, cancel())).await;
    assert!(cancelled.run.outcome.is_some());
    assert!(take(store, &tenant, 9).await.is_empty());
}

pub async fn what_each_tenant_asks_of_the_workers_is_counted(bed: &Bed) {
    let (store, a, b) = (&bed.store, tenant("a"), tenant("b"));
    let demand = |than| async move { store.reader.demand(than).await.expect("answered") };
    assert!(demand(RunId::default()).await.is_empty());
    let waiting = accepted_for(store, &a, false).await;
    let vain = accepted_for(store, &a, false).await;
    for (run, column, value) in [(&waiting, "updated_at", 100), (&vain, "updated_at", 900)] {
        let sql = format!("update runs set {column} = $2 where run_id = $1");
        let ago = now() - chrono::TimeDelta::seconds(value);
        let moved = store.db.execute(&sql, &[run.head.run_id.0.into(), ago.into()]).await;
        assert_eq!(moved.expect("moved"), 1);
    }
    let sql = "update runs set dispatches = 3 where run_id = $1";
    store
        .db
        .execute(sql, &[vain.head.run_id.0.into()])
        .await
        .expect("moved");
    let mut running = accepted_for(store, &b, false).await;
    go(store, &mut running, |l| claim(l, "w", MINUTE)).await;
    let than = accepted_for(store, &b, true).await.head.run_id;
    accepted_for(store, &b, true).await;
    let mut ended = accepted_for(store, &b, false).await;
    go(store, &mut ended, |l| claim(l, "w", MINUTE)).await;
    go(store, &mut ended, |l| order(l, answer(&l.run, "done"))).await;
    // Waits for the one before it in its session, not for a place.
    let mut second = accept_in(&b, running.head.session_id, false, "and then?");
    second.time = now() - chrono::TimeDelta::seconds(9_000);
    append(store, second).await;

    let [of_a, of_b] = &demand(than).await[..] else {
        panic!("two tenants ask for something")
    };
    assert!((99..110).contains(&of_a.waited.as_secs()), "{of_a:?}");
    assert!(
        (899..910).contains(&of_a.oldest.as_secs()),
        "in vain is a wait too: {of_a:?}"
    );
    assert!(of_b.waited.as_secs() < 10 && of_b.oldest.as_secs() < 10, "{of_b:?}");
    let counts = |demand: &Demand| (demand.running, demand.held, demand.runnable, demand.older);
    assert_eq!((counts(of_a), counts(of_b)), ((0, 0, 2, 2), (1, 2, 0, 0)));
    let [_, of_b] = &demand(new_run()).await[..] else {
        panic!("two tenants ask for something")
    };
    assert_eq!(of_b.older, 2);

    // The worker of the one that runs is gone, and no other comes.
    let sql = "update runs set lease_until = $2 where run_id = $1";
    let ago = now() - chrono::TimeDelta::seconds(300);
    let moved = store.db.execute(sql, &[running.head.run_id.0.into(), ago.into()]).await;
    assert_eq!(moved.expect("moved"), 1);
    let [_, of_b] = &demand(than).await[..] else {
        panic!("two tenants ask for something")
    };
    assert_eq!(of_b.running, 0);
    assert!((299..310).contains(&of_b.oldest.as_secs()), "{of_b:?}");

    // Overdue, it goes into the line before all others; what it has waited for was no place.
    let sql = "update runs set updated_at = $2 where run_id = $1";
    let moved = store.db.execute(sql, &[running.head.run_id.0.into(), ago.into()]).await;
    assert_eq!(moved.expect("moved"), 1);
    let held = store.reader.hold(&[running.head.run_id]).await;
    assert_eq!(held.expect("answered"), 1);
    let [_, of_b] = &demand(than).await[..] else {
        panic!("two tenants ask for something")
    };
    assert!(of_b.held == 3 && of_b.waited.as_secs() < 20, "{of_b:?}");
}
