//! A server that dies between a commit and its answer. Whoever was told "appended" is right, exactly once.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use futures::future::join_all;
use steadfast::{
    run::{Event, RunId},
    store::{Append, GENESIS, Hash, Loaded, Outcome, Store, StoredEvent, chain},
};
use steadfast_tests::PrivatePostgres;

use crate::bed::*;

const WRITERS: usize = 50;
const KILLS: u64 = 5;
/// Appends answered between two kills.
const ANSWERS_BETWEEN: u64 = 150;

/// What a writer sent and what it was told.
enum Told {
    Appended(Vec<StoredEvent>),
    /// No answer in time: the writer knows nothing.
    Nothing {
        run_id: RunId,
        first: u64,
        events: Vec<Event>,
    },
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_loses_nothing_it_acknowledged_and_doubles_nothing() {
    let mut server = PrivatePostgres::start().await.expect("a Postgres of our own");
    let store = Store::open(&server.url("postgres")).await.expect("opens");
    store.db.migrate().await.expect("migrates");
    let answered = AtomicU64::new(0);
    let over = AtomicU64::new(0);
    let writers = join_all((0..WRITERS).map(|at| write(&store, at, &answered, &over)));
    let killer = async {
        for _ in 0..KILLS {
            let enough = answered.load(Ordering::SeqCst) + ANSWERS_BETWEEN;
            while answered.load(Ordering::SeqCst) < enough {
                tokio::task::yield_now().await;
            }
            server.kill9();
            server.restart().await.expect("recovers");
        }
        over.store(1, Ordering::SeqCst);
    };
    let (told, ()) = tokio::time::timeout(PATIENCE * 2, async { futures::join!(writers, killer) })
        .await
        .expect("the writers come to an end");
    let told: Vec<Told> = told.into_iter().flatten().collect();
    let unanswered = told.iter().filter(|told| matches!(told, Told::Nothing { .. })).count();
    println!("{} appends answered, {unanswered} not", told.len() - unanswered);
    // A connection that the last kill cut is tried before it is used once it was idle for a while (half a second).
    tokio::time::sleep(Duration::from_secs(1)).await;
    for told in &told {
        check(&store, told).await;
    }
    let runs = store
        .db
        .fetch("select run_id, version from runs", &[])
        .await
        .expect("reads");
    for row in runs {
        whole(
            &store,
            RunId(row.get("run_id").expect("an id")),
            row.count("version").expect("a number"),
        )
        .await;
    }
    let strays = "select 1 as one from events e where not exists (select 1 from runs r where r.run_id = e.run_id)";
    assert!(
        store.db.fetch(strays, &[]).await.expect("reads").is_empty(),
        "events without a head"
    );
}

/// Runs from the request to the end, one after the other. Every other writer is impatient: it takes no answer for an
/// answer and begins another run.
async fn write(store: &Store, at: usize, answered: &AtomicU64, over: &AtomicU64) -> Vec<Told> {
    let patience = if at.is_multiple_of(2) { PATIENCE } else { Duration::ZERO };
    let mut told = Vec::new();
    while over.load(Ordering::SeqCst) == 0 {
        let mut loaded: Option<Loaded> = None;
        for turn in 0..3 {
            let make = match (&loaded, turn) {
                (Some(loaded), 1) => claim(loaded, "w", Duration::ZERO),
                (Some(loaded), _) => order(loaded, answer(&loaded.run, "done")),
                (None, _) => accept("hello"),
            };
            let make = Append { patience, ..make };
            let (run_id, first, events) = (make.run_id, make.expected_version + 1, make.events.clone());
            match store.appender.append(make.clone()).await {
                Ok(Outcome::Appended(appended)) => {
                    answered.fetch_add(1, Ordering::SeqCst);
                    told.push(Told::Appended(appended.events.clone()));
                    loaded = Some(moved(loaded, &make, &events, &appended));
                }
                Ok(other) => panic!("nobody else writes to this run, yet {other:?}"),
                Err(_) => {
                    told.push(Told::Nothing { run_id, first, events });
                    break;
                }
            }
        }
    }
    told
}

/// The run after our append, without a read: the server may be away.
fn moved(loaded: Option<Loaded>, make: &Append, events: &[Event], appended: &steadfast::store::Appended) -> Loaded {
    let mut loaded = loaded.unwrap_or_else(|| Loaded {
        head: steadfast::store::Head {
            run_id: make.run_id,
            tenant: make.tenant.clone(),
            session_id: Default::default(),
            session_seq: 1,
            agent: String::new(),
            status: make.status,
            version: 0,
            epoch: 0,
            hash: GENESIS,
            lease_owner: None,
            lease_until: None,
            due_at: None,
            usage: make.usage,
            created_at: make.time,
            updated_at: make.time,
        },
        run: Default::default(),
        hash: GENESIS,
    });
    loaded.advance(events, appended);
    loaded
}

async fn check(store: &Store, told: &Told) {
    match told {
        Told::Appended(events) => {
            let Some(first) = events.first() else { return };
            let count = events.len() as u32;
            let read = store
                .reader
                .events(first.run_id, first.version - 1, count)
                .await
                .expect("reads");
            assert_eq!(&read, events, "acknowledged, and not there");
        }
        Told::Nothing { run_id, first, events } => {
            let read = store.reader.events(*run_id, first - 1, 100).await.expect("reads");
            let there: Vec<Event> = read.iter().map(|event| event.decode().expect("decodes")).collect();
            assert!(
                there.is_empty() || there == *events,
                "half of an append: {there:?} of {events:?}"
            );
        }
    }
}

async fn whole(store: &Store, run_id: RunId, head: u64) {
    let events = store.reader.events(run_id, 0, 100).await.expect("reads");
    assert_eq!(events.len() as u64, head, "{run_id}: the head and the stream differ");
    let mut prev: Hash = GENESIS;
    for (event, version) in events.iter().zip(1..) {
        assert_eq!(event.version, version, "{run_id}: a hole");
        let StoredEvent { name, schema, time, .. } = event;
        prev = chain(
            &prev,
            run_id,
            version,
            &event.tenant,
            name,
            *schema,
            *time,
            &event.payload,
        );
        assert_eq!(event.hash, prev, "{run_id}: the chain breaks at version {version}");
    }
}
