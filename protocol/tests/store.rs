//! The model's append is the store's own: to every head that a few appends make, every append that could be tried next,
//! the right ones and the stale ones, given to both.

use std::{path::PathBuf, time::Duration};

use futures::future::join_all;
use steadfast::{
    run::{AgentRef, Event, Limits, Message, RunId, SessionId, Status, TenantId, Time, Usage, event},
    store::{self, Accept, Append, GENESIS, Outcome, Store},
};
use steadfast_protocol::ownership::{
    decide::Fact,
    store::{Change, Lease, Run, Statement},
};
use uuid::Uuid;

/// Appends in a row.
const DEPTH: usize = 3;

/// An append, and whether the lease it takes ends at once.
#[derive(Clone)]
struct Try {
    statement: Statement,
    lapses: bool,
}

fn tries(run: &Run) -> Vec<Try> {
    let leases = [
        (Change::Keep, false),
        (Change::Claim, false),
        (Change::Claim, true),
        (Change::Release { due: true }, false),
        (Change::Release { due: false }, false),
    ];
    let mut tries = Vec::new();
    for version in run.version - 1..=run.version + 1 {
        for epoch in run.epoch.saturating_sub(1)..=run.epoch + 1 {
            for (lease, lapses) in leases {
                for facts in [vec![], vec![Fact::CancelRequested]] {
                    let statement = Statement {
                        run: 0,
                        worker: Some(0),
                        version,
                        epoch,
                        facts,
                        lease,
                        again: false,
                    };
                    tries.push(Try { statement, lapses });
                }
            }
        }
    }
    tries
}

/// In the model: did it happen?
fn model(run: &mut Run, tried: &Try) -> bool {
    let won = run.execute(&tried.statement, &[]);
    if won && tried.lapses {
        run.lease = Lease::Held {
            worker: 0,
            running: false,
        };
    }
    won
}

fn append(run_id: RunId, tried: &Try) -> Append {
    let Statement {
        version,
        epoch,
        facts,
        lease,
        ..
    } = &tried.statement;
    let minute = Duration::from_secs(60);
    Append {
        run_id,
        tenant: TenantId::default(),
        expected_version: (*version).into(),
        expected_epoch: (*epoch).into(),
        prev_hash: GENESIS,
        time: Time::from_timestamp(1_750_000_000, 0).expect("a second of the year 2025"),
        events: facts
            .iter()
            .map(|_| Event::CancelRequested(event::CancelRequested { reason: None }))
            .collect(),
        status: Status::Running,
        usage: Usage::default(),
        lease: match lease {
            Change::Keep => store::Lease::Keep,
            Change::Claim => {
                let ttl = if tried.lapses { Duration::ZERO } else { minute };
                store::Lease::Claim { owner: "w".into(), ttl }
            }
            Change::Release { due } => store::Lease::Release {
                due_in: due.then_some(minute),
            },
        },
        accept: None,
        idempotency: None,
        patience: minute,
    }
}

async fn accepted(store: &Store, number: u128) -> RunId {
    let (run_id, session_id) = (RunId(Uuid::from_u128(number)), SessionId(Uuid::from_u128(number)));
    let tried = Try {
        statement: Statement {
            run: 0,
            worker: None,
            version: 0,
            epoch: 0,
            facts: vec![],
            lease: Change::Keep,
            again: false,
        },
        lapses: false,
    };
    let append = append(run_id, &tried);
    let requested = event::RunRequested {
        fallbacks: Vec::new(),
        terms: Default::default(),
        agent: AgentRef {
            name: "a".into(),
            version: "f00d".into(),
        },
        model: "m".into(),
        session_id,
        input: vec![Message::user("?")],
        continues_session: false,
        server_tools: vec![],
        client_tools: vec![],
        limits: Limits::default(),
        deadline: append.time,
        metadata: serde_json::Value::Null,
        idempotency_key: None,
    };
    let claim_within = Duration::from_secs(60);
    let accept = Some(Accept {
        session_id,
        new_session: true,
        agent: "a".into(),
        claim_within,
        held: false,
    });
    let first = Append {
        events: vec![requested.into()],
        status: Status::Queued,
        accept,
        ..append
    };
    assert!(
        matches!(store.appender.append(first).await, Ok(Outcome::Appended(_))),
        "accepted"
    );
    run_id
}

/// What can be read of a run. Whether its lease still runs shows in what is let through.
async fn head(store: &Store, run_id: RunId) -> (u64, u64, bool, bool, Vec<u64>) {
    let head = store.reader.head(run_id).await.expect("the head").expect("a run");
    let versions = store.reader.events(run_id, 0, 100).await.expect("the log");
    let versions = versions.iter().map(|event| event.version).collect();
    (
        head.version,
        head.epoch,
        head.lease_owner.is_some(),
        head.due_at.is_some(),
        versions,
    )
}

fn same(run: &Run) -> (u64, u64, bool, bool, Vec<u64>) {
    let versions = run.log.iter().map(|(version, _)| u64::from(*version)).collect();
    let held = run.lease != Lease::Free;
    (run.version.into(), run.epoch.into(), held, run.due, versions)
}

async fn won(store: &Store, run_id: RunId, tried: &Try) -> bool {
    match store.appender.append(append(run_id, tried)).await {
        Ok(Outcome::Appended(_)) => true,
        Ok(Outcome::Conflict) => false,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_store_and_its_model_let_the_same_appends_through() {
    let folder = Folder::new();
    let store = Store::open(&format!("sqlite://{}", folder.0.join("store.db").display()))
        .await
        .expect("opens");
    store.db.migrate().await.expect("migrates");
    let mut first = Run::default();
    (first.log, first.version, first.due) = (vec![(1, Fact::Requested)], 1, true);
    let mut level: Vec<Vec<Try>> = vec![vec![]];
    let (mut number, mut lost, mut through) = (0, 0, 0);
    for _ in 0..DEPTH {
        let walks = level.iter().enumerate().map(|(at, path)| {
            let (first, store) = (&first, &store);
            async move {
                let mut run = first.clone();
                let run_id = accepted(store, number + at as u128 + 1).await;
                for tried in path {
                    assert!(
                        model(&mut run, tried) && won(store, run_id, tried).await,
                        "{:?}",
                        tried.statement
                    );
                }
                assert_eq!(head(store, run_id).await, same(&run));
                let mut on = Vec::new();
                let mut lost = 0;
                for tried in tries(&run) {
                    let mut after = run.clone();
                    if model(&mut after, &tried) {
                        on.push(path.iter().cloned().chain([tried]).collect::<Vec<_>>());
                    } else {
                        lost += 1;
                        assert!(!won(store, run_id, &tried).await, "{:?} on {run:?}", tried.statement);
                    }
                }
                assert_eq!(head(store, run_id).await, same(&run), "a conflict changes nothing");
                (on, lost)
            }
        });
        let walked = join_all(walks).await;
        number += level.len() as u128;
        lost += walked.iter().map(|(_, lost)| lost).sum::<usize>();
        level = walked.into_iter().flat_map(|(on, _)| on).collect();
        through += level.len();
    }
    println!("{number} heads, {lost} appends lost in both, {through} won in the model");
    assert!(lost > 3_000 && through > 300, "{lost}, {through}");
    store.db.close().await;
}

struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("steadfast-protocol-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        Self(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
