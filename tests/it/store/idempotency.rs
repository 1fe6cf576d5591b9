//! Idempotency keys: stored with what they caused, or not at all.

use futures::future::join_all;
use sha2::{Digest, Sha256};
use steadfast::{
    run::{Command, TenantId},
    store::{Append, Idempotency, Loaded, Outcome, Session, StoredAnswer},
};

use crate::bed::*;

fn key(key: &str, body: &str) -> Idempotency {
    Idempotency {
        key: key.into(),
        fingerprint: Sha256::digest(body).into(),
        answer: StoredAnswer {
            status: 202,
            body: format!("{{\"for\":\"{body}\"}}"),
        },
    }
}

fn used(key: &Idempotency) -> Outcome {
    Outcome::KeyUsed {
        fingerprint: key.fingerprint,
        answer: key.answer.clone(),
    }
}

fn keyed(with: &Idempotency) -> Append {
    Append {
        idempotency: Some(with.clone()),
        ..accept("with a key")
    }
}

pub async fn the_same_key_gets_the_stored_answer(bed: &Bed) {
    let store = &bed.store;
    let first = key("k", "one");
    append(store, keyed(&first)).await;
    // The fingerprint tells the gateway whether it was the same request.
    for body in ["one", "two"] {
        let again = keyed(&key("k", body));
        let run_id = again.run_id;
        assert_eq!(try_append(store, again).await, used(&first));
        assert_eq!(
            store.reader.head(run_id).await.expect("reads"),
            None,
            "nothing was created"
        );
    }
    let stored = store
        .reader
        .idempotency(&TenantId::default(), "k")
        .await
        .expect("reads");
    assert_eq!(stored, Some(first));
    assert_eq!(
        store
            .reader
            .idempotency(&TenantId::default(), "other")
            .await
            .expect("reads"),
        None
    );
}

pub async fn fifty_requests_with_one_key_make_one_run(bed: &Bed) {
    let other = bed.other_process().await;
    let posts: Vec<Append> = (0..50).map(|at| keyed(&key("once", &format!("{at}")))).collect();
    let sent = posts.iter().enumerate().map(|(at, post)| {
        let store = if at % 2 == 0 { &bed.store } else { &other };
        try_append(store, post.clone())
    });
    let outcomes = join_all(sent).await;
    let won: Vec<usize> = (0..50)
        .filter(|at| matches!(outcomes[*at], Outcome::Appended(_)))
        .collect();
    assert_eq!(won.len(), 1, "{won:?}");
    let stored = used(&key("once", &format!("{}", won[0])));
    for (at, outcome) in outcomes.iter().enumerate() {
        let there = bed.store.reader.head(posts[at].run_id).await.expect("reads").is_some();
        assert_eq!(there, at == won[0]);
        assert!(there || *outcome == stored, "{at}: {outcome:?}");
    }
}

pub async fn a_key_belongs_to_its_tenant(bed: &Bed) {
    let store = &bed.store;
    for who in ["acme", "stranger"] {
        let order = Append {
            idempotency: Some(key("k", who)),
            ..accept_in(&tenant(who), new_session(), true, "hello")
        };
        append(store, order).await;
        let stored = store.reader.idempotency(&tenant(who), "k").await.expect("reads");
        assert_eq!(stored, Some(key("k", who)));
    }
}

pub async fn a_key_on_an_append_is_taken_with_it_or_not_at_all(bed: &Bed) {
    let store = &bed.store;
    let mut loaded = claimed(store, "w").await;
    let cancel = |l: &Loaded| {
        order(
            l,
            Command::Cancel {
                now: now(),
                reason: None,
            },
        )
    };
    let mut stale = cancel(&loaded);
    stale.expected_version += 1;
    stale.idempotency = Some(key("cancel", "stale"));
    assert_eq!(try_append(store, stale).await, Outcome::Conflict);
    let unused = store
        .reader
        .idempotency(&TenantId::default(), "cancel")
        .await
        .expect("reads");
    assert_eq!(unused, None, "what did not happen used no key");
    let with = key("cancel", "now");
    go(store, &mut loaded, |l| Append {
        idempotency: Some(with.clone()),
        ..cancel(l)
    })
    .await;
    let again = Append {
        idempotency: Some(with.clone()),
        events: vec![],
        ..order(&loaded, Command::ConfirmCancel { now: now() })
    };
    assert_eq!(try_append(store, again).await, used(&with));
    let refused = accept_in(&TenantId::default(), new_session(), false, "to nowhere");
    let refused = Append {
        idempotency: Some(key("nowhere", "x")),
        ..refused
    };
    assert_eq!(try_append(store, refused).await, Outcome::NoSuchSession);
    let unused = store
        .reader
        .idempotency(&TenantId::default(), "nowhere")
        .await
        .expect("reads");
    assert_eq!(unused, None);
}

pub async fn a_key_creates_a_session_once(bed: &Bed) {
    let reader = &bed.store.reader;
    let session = || Session {
        session_id: new_session(),
        tenant: tenant("acme"),
        runs: 0,
        metadata: "{}".into(),
        created_at: now(),
    };
    let with = key("s", "one");
    let sessions: Vec<Session> = (0..20).map(|_| session()).collect();
    let outcomes = join_all(
        sessions
            .iter()
            .map(|session| reader.create_session(session, Some(&with))),
    )
    .await;
    let mut made = 0;
    for (session, outcome) in sessions.iter().zip(outcomes) {
        let there = reader
            .session(&session.tenant, session.session_id)
            .await
            .expect("reads")
            .is_some();
        match outcome.expect("answered") {
            Outcome::Appended(_) => made += u32::from(there),
            outcome => assert!(!there && outcome == used(&with), "{outcome:?}"),
        }
    }
    assert_eq!(made, 1);
}
