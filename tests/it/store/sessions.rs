//! Sessions: one open run at a time, in the order they were accepted.

use futures::future::join_all;
use steadfast::{
    run::{Command, SessionId, TenantId},
    store::{Append, Loaded, Outcome, Session, Store},
};

use crate::bed::*;

async fn accepted_in(store: &Store, session: SessionId, new: bool, text: &str) -> Loaded {
    let order = accept_in(&TenantId::default(), session, new, text);
    let run_id = order.run_id;
    append(store, order).await;
    load(store, run_id).await
}

/// Claims the run and has the model answer; what the last append says of the session.
async fn finish(store: &Store, loaded: &mut Loaded, text: &str) -> steadfast::store::Appended {
    go(store, loaded, |l| claim(l, "w", MINUTE)).await;
    go(store, loaded, |l| order(l, answer(&l.run, text))).await
}

pub async fn a_session_has_one_open_run_at_a_time(bed: &Bed) {
    let store = &bed.store;
    let session = new_session();
    let mut first = accepted_in(store, session, true, "1").await;
    let mut second = accepted_in(store, session, false, "2").await;
    let third = accepted_in(store, session, false, "3").await;
    let seqs = [&first, &second, &third].map(|loaded| loaded.head.session_seq);
    assert_eq!(seqs, [1, 2, 3]);
    let held = |loaded: &Loaded| try_append(store, claim(loaded, "w", MINUTE));
    assert_eq!(held(&second).await, Outcome::Conflict);
    assert_eq!(held(&third).await, Outcome::Conflict);
    assert!(store.reader.open_before(session, 2).await.expect("reads"));

    go(store, &mut first, |l| claim(l, "w", MINUTE)).await;
    assert_eq!(held(&second).await, Outcome::Conflict);
    let end = go(store, &mut first, |l| order(l, answer(&l.run, "done"))).await;
    assert_eq!(end.next_in_session, Some(second.head.run_id));
    assert!(!store.reader.open_before(session, 2).await.expect("reads"));
    assert_eq!(held(&third).await, Outcome::Conflict);
    let end = finish(store, &mut second, "done").await;
    assert_eq!(end.next_in_session, Some(third.head.run_id));
    let mut third = third;
    assert_eq!(finish(store, &mut third, "done").await.next_in_session, None);
}

pub async fn runs_of_a_session_keep_their_order_under_fifty_gateways(bed: &Bed) {
    let other = bed.other_process().await;
    let session = new_session();
    let first = accepted_in(&bed.store, session, true, "first").await;
    let posts = (0..50).map(|at| {
        let store = if at % 2 == 0 { &bed.store } else { &other };
        accepted_in(store, session, false, "more")
    });
    let mut runs = join_all(posts).await;
    runs.insert(0, first);
    runs.sort_by_key(|loaded| loaded.head.session_seq);
    let seqs: Vec<u64> = runs.iter().map(|loaded| loaded.head.session_seq).collect();
    assert_eq!(seqs, (1..=51).collect::<Vec<u64>>());
    let known = bed
        .store
        .reader
        .session(&TenantId::default(), session)
        .await
        .expect("reads");
    assert_eq!(known.map(|session| session.runs), Some(51));
    // Each end names the next, to the last.
    for at in 0..runs.len() {
        let end = finish(&bed.store, &mut runs[at], "done").await;
        assert_eq!(end.next_in_session, runs.get(at + 1).map(|next| next.head.run_id));
    }
}

/// Neither may wait for the other in a circle: a deadlock would cost a second and, without patience, the answer.
pub async fn gateways_that_post_to_the_same_sessions_at_once_disturb_nobody(bed: &Bed) {
    let other = bed.other_process().await;
    let sessions: Vec<SessionId> = (0..24).map(|_| new_session()).collect();
    for session in &sessions {
        accepted_in(&bed.store, *session, true, "first").await;
    }
    let post = |store, session| async move {
        let order = accept_in(&TenantId::default(), session, false, "more");
        let impatient = Append {
            patience: std::time::Duration::ZERO,
            ..order
        };
        append(store, impatient).await;
    };
    for _ in 0..10 {
        let here = sessions.iter().map(|session| post(&bed.store, *session));
        let there = sessions.iter().rev().map(|session| post(&other, *session));
        futures::join!(join_all(here), join_all(there));
    }
    for session in sessions {
        let known = bed
            .store
            .reader
            .session(&TenantId::default(), session)
            .await
            .expect("reads");
        assert_eq!(known.map(|session| session.runs), Some(21));
    }
}

pub async fn an_unknown_session_and_another_tenants_are_refused_alike(bed: &Bed) {
    let store = &bed.store;
    let mine = new_session();
    accepted_in(store, mine, true, "mine").await;
    let unknown = accept_in(&TenantId::default(), new_session(), false, "to nowhere");
    let foreign = accept_in(&tenant("stranger"), mine, false, "into yours");
    for refused in [unknown, foreign] {
        let run_id = refused.run_id;
        assert_eq!(try_append(store, refused).await, Outcome::NoSuchSession);
        assert_eq!(store.reader.head(run_id).await.expect("reads"), None);
        assert!(store.reader.events(run_id, 0, 9).await.expect("reads").is_empty());
    }
    let session = store.reader.session(&TenantId::default(), mine).await.expect("reads");
    assert_eq!(
        session.map(|session| session.runs),
        Some(1),
        "a refused run takes no number"
    );
}

pub async fn a_cancelled_run_frees_its_session_before_its_turn(bed: &Bed) {
    let store = &bed.store;
    let session = new_session();
    let mut first = accepted_in(store, session, true, "1").await;
    let mut second = accepted_in(store, session, false, "2").await;
    let mut third = accepted_in(store, session, false, "3").await;
    let cancel = |l: &Loaded| {
        order(
            l,
            Command::Cancel {
                now: now(),
                reason: None,
            },
        )
    };
    go(store, &mut second, cancel).await;
    assert_eq!(
        finish(store, &mut first, "done").await.next_in_session,
        Some(third.head.run_id)
    );
    finish(store, &mut third, "done").await;
}

pub async fn turns_and_exchanges_are_the_ended_runs_before(bed: &Bed) {
    let store = &bed.store;
    let session = new_session();
    let mut runs = Vec::new();
    for at in 0..4 {
        let mut run = accepted_in(store, session, at == 0, &format!("question {at}")).await;
        if at == 1 {
            go(store, &mut run, |l| {
                order(
                    l,
                    Command::Cancel {
                        now: now(),
                        reason: None,
                    },
                )
            })
            .await;
        } else {
            finish(store, &mut run, &format!("answer {at}")).await;
        }
        runs.push(run.head.run_id);
    }
    let turns = |before, limit| store.reader.turns(session, before, limit);
    assert_eq!(
        turns(5, 9).await.expect("reads"),
        [runs[3], runs[2], runs[0]],
        "newest first, answered ones only"
    );
    assert_eq!(turns(4, 1).await.expect("reads"), [runs[2]]);
    assert!(turns(1, 9).await.expect("reads").is_empty());
    let said = store.reader.exchanges(&[runs[0], runs[2]]).await.expect("reads");
    let told: Vec<_> = said.iter().map(|event| (event.run_id, &*event.name)).collect();
    let (asked, answered) = ("run.requested", "run.completed");
    assert_eq!(
        told,
        [
            (runs[0], asked),
            (runs[0], answered),
            (runs[2], asked),
            (runs[2], answered)
        ]
    );
    assert!(store.reader.exchanges(&[]).await.expect("reads").is_empty());
}

pub async fn a_session_is_seen_by_its_tenant_only(bed: &Bed) {
    let reader = &bed.store.reader;
    let session = Session {
        session_id: new_session(),
        tenant: tenant("acme"),
        runs: 0,
        metadata: "{\"a\":\"ö\"}".into(),
        created_at: now(),
    };
    let made = reader.create_session(&session, None).await.expect("created");
    assert!(matches!(made, Outcome::Appended(_)));
    let seen = |who: &str| {
        let who = tenant(who);
        let id = session.session_id;
        async move { reader.session(&who, id).await.expect("reads") }
    };
    assert_eq!(seen("acme").await, Some(session.clone()));
    assert_eq!(seen("stranger").await, None);
    let first: Append = accept_in(&session.tenant, session.session_id, false, "hello");
    append(&bed.store, first).await;
    assert_eq!(seen("acme").await.map(|session| session.runs), Some(1));
}
