//! The store as `cqrs-es` sees it.

use cqrs_es::{AggregateError, CqrsFramework, EventStore};
use steadfast::{
    run::{Command, Refusal, Status},
    store::RunStore,
};

use crate::bed::*;

pub async fn a_run_lives_through_the_seam(bed: &Bed) {
    let cqrs = CqrsFramework::new(RunStore::new(bed.store.clone()), vec![], ());
    let run_id = new_run();
    let id = run_id.to_string();
    let cancel = || Command::Cancel {
        now: now(),
        reason: Some("enough".into()),
    };
    let told = cqrs.execute(&id, cancel()).await;
    assert!(
        matches!(told, Err(AggregateError::UserError(Refusal::NotRequested))),
        "{told:?}"
    );
    let request = Command::Request(request(new_session(), "hello"));
    cqrs.execute(&id, request.clone()).await.expect("accepted");
    let told = cqrs.execute(&id, request).await;
    assert!(
        matches!(told, Err(AggregateError::UserError(Refusal::AlreadyRequested))),
        "{told:?}"
    );
    assert_eq!(load(&bed.store, run_id).await.run.status(), Status::Queued);

    // Two that loaded the same state: one of them commits.
    let store = RunStore::new(bed.store.clone());
    let contexts = [
        store.load_aggregate(&id).await.expect("loads"),
        store.load_aggregate(&id).await.expect("loads"),
    ];
    let mut outcomes = Vec::new();
    for mut context in contexts {
        use cqrs_es::{Aggregate, AggregateContext, event_sink::EventSink};
        let sink = EventSink::default();
        let advance = Command::Advance {
            now: now(),
            worker: "w".into(),
            epoch: 1,
            context: None,
        };
        context.aggregate().handle(advance, &(), &sink).await.expect("accepted");
        outcomes.push(store.commit(sink.collect().await, context, Default::default()).await);
    }
    let committed = outcomes[0].as_ref().expect("the first wins");
    let sequences: Vec<usize> = committed.iter().map(|event| event.sequence).collect();
    assert_eq!(sequences, [2, 3]);
    assert!(matches!(outcomes[1], Err(AggregateError::AggregateConflict)));

    let events = store.load_events(&id).await.expect("reads");
    let names: Vec<&str> = events.iter().map(|event| event.payload.name()).collect();
    assert_eq!(names, ["run.requested", "run.started", "model_call.requested"]);
    assert!(store.load_events("run_x").await.is_err());
    cqrs.execute(&id, cancel()).await.expect("accepted");
    cqrs.execute(&id, Command::ConfirmCancel { now: now() })
        .await
        .expect("accepted");
    let loaded = load(&bed.store, run_id).await;
    assert_eq!(
        (loaded.run.status(), loaded.head.status),
        (Status::Cancelled, Status::Cancelled)
    );
}
