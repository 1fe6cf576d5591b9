//! Appends: bytes, versions, epochs, neighbours.

use futures::future::join_all;
use steadfast::{
    run::{Command, Run, Status},
    store::{GENESIS, Lease, Outcome, chain},
};

use crate::bed::*;

pub async fn what_is_appended_reads_back_byte_for_byte(bed: &Bed) {
    let store = &bed.store;
    let mut order = accept("zero \u{0} quote \" back\\slash ö 漢 👩‍🚀 \u{2028} tab\t");
    if let steadfast::run::Event::RunRequested(request) = &mut order.events[0] {
        request.metadata = serde_json::json!({"big": u64::MAX, "small": -1.5e-300, "": [null, true], "b": 1, "a": 2});
    }
    let written = order.events.clone();
    let run_id = order.run_id;
    let appended = append(store, order.clone()).await;
    let read = store.reader.events(run_id, 0, 10).await.expect("events");
    assert_eq!(read, appended.events);
    assert_eq!(read[0].payload, written[0].payload());
    assert_eq!(read[0].decode().expect("reads"), written[0]);

    let mut loaded = load(store, run_id).await;
    let claim = claim(&loaded, "w", MINUTE);
    let events = claim.events.clone();
    let appended = append(store, claim).await;
    loaded.advance(&events, &appended);
    go(store, &mut loaded, |l| order_of(l, "Sunny.")).await;
    let read = store.reader.events(run_id, 0, 10).await.expect("events");
    let mut prev = GENESIS;
    for (event, version) in read.iter().zip(1..) {
        assert_eq!((event.version, &event.tenant), (version, &order.tenant));
        let (name, schema, time) = (&event.name, event.schema, event.time);
        prev = chain(
            &prev,
            run_id,
            version,
            &event.tenant,
            name,
            schema,
            time,
            &event.payload,
        );
        assert_eq!(event.hash, prev, "the chain holds at version {version}");
    }
    let head = store.reader.head(run_id).await.expect("head").expect("is there");
    assert_eq!((head.version, head.hash), (read.len() as u64, prev));
    assert_eq!((head.status, head.epoch), (Status::Completed, 1));
    assert_eq!(head.usage, loaded.run.usage);
    let after_two = store.reader.events(run_id, 2, 1).await.expect("events");
    assert_eq!(after_two, read[2..3]);
}

fn order_of(loaded: &steadfast::store::Loaded, text: &str) -> steadfast::store::Append {
    let Command::RecordReply {
        now,
        step,
        attempt,
        mut reply,
    } = answer(&loaded.run, text)
    else {
        panic!("an answer is a reply")
    };
    (
        reply.usage.input_tokens,
        reply.usage.output_tokens,
        reply.usage.cost_microusd,
    ) = (7, 5, 3);
    order(
        loaded,
        Command::RecordReply {
            now,
            step,
            attempt,
            reply,
        },
    )
}

pub async fn a_stale_version_is_a_conflict_and_changes_nothing(bed: &Bed) {
    let store = &bed.store;
    let mut loaded = claimed(store, "w").await;
    let stale = loaded.clone();
    go(store, &mut loaded, |l| order(l, asks_for_tool(&l.run))).await;
    let before = store.reader.head(loaded.head.run_id).await.expect("head");
    let late = order(&stale, answer(&stale.run, "late"));
    let mut early = late.clone();
    early.expected_version = 99;
    for lost in [late, early] {
        assert_eq!(try_append(store, lost).await, Outcome::Conflict);
    }
    assert_eq!(store.reader.head(loaded.head.run_id).await.expect("head"), before);
    assert_eq!(load(store, loaded.head.run_id).await.run, loaded.run);
}

pub async fn an_old_epoch_never_writes(bed: &Bed) {
    let store = &bed.store;
    let mut zombie = accepted(store).await;
    go(store, &mut zombie, |l| claim(l, "old", std::time::Duration::ZERO)).await;
    let mut heir = zombie.clone();
    go(store, &mut heir, |l| claim(l, "new", MINUTE)).await;
    assert_eq!((zombie.head.epoch, heir.head.epoch), (1, 2));
    // Also where the version is the right one: the zombie has read on, but holds no claim.
    store.reader.refresh(&mut zombie).await.expect("refresh");
    zombie.head.epoch = 1;
    let paid = order(&zombie, answer(&zombie.run, "from the dead"));
    for lease in [
        paid.lease.clone(),
        Lease::Keep,
        Lease::Claim {
            owner: "old".into(),
            ttl: MINUTE,
        },
    ] {
        let mut late = paid.clone();
        late.lease = lease;
        late.status = Status::Running;
        assert_eq!(try_append(store, late).await, Outcome::Conflict);
    }
    go(store, &mut heir, |l| order(l, answer(&l.run, "alive"))).await;
    assert_eq!(load(store, heir.head.run_id).await.run.status(), Status::Completed);
}

pub async fn a_stale_neighbour_loses_alone(bed: &Bed) {
    let store = &bed.store;
    let runs = join_all((0..120).map(|_| claimed(store, "w"))).await;
    let writes = runs.iter().enumerate().map(|(at, loaded)| {
        let mut order = order(loaded, answer(&loaded.run, &format!("answer {at}")));
        match at % 3 {
            1 => order.expected_version += 1,
            2 => order.expected_epoch -= 1,
            _ => {}
        }
        try_append(store, order)
    });
    for (at, outcome) in join_all(writes).await.into_iter().enumerate() {
        let won = matches!(outcome, Outcome::Appended(_));
        assert_eq!(won, at % 3 == 0, "run {at}: {outcome:?}");
        let run = load(store, runs[at].head.run_id).await.run;
        assert_eq!(run.status() == Status::Completed, won);
        if won {
            assert_eq!(
                run.messages.last().map(|message| message.content()),
                Some(&*format!("answer {at}"))
            );
        }
    }
}

pub async fn one_of_a_hundred_racing_writers_wins(bed: &Bed) {
    let loaded = claimed(&bed.store, "w").await;
    let other = bed.other_process().await;
    let racers = (0..100).map(|at| {
        let store = if at % 2 == 0 { &bed.store } else { &other };
        try_append(store, order(&loaded, answer(&loaded.run, &format!("writer {at}"))))
    });
    let outcomes = join_all(racers).await;
    let winners: Vec<usize> = (outcomes.iter().enumerate())
        .filter(|(_, outcome)| matches!(outcome, Outcome::Appended(_)))
        .map(|(at, _)| at)
        .collect();
    assert_eq!(winners.len(), 1, "{winners:?} all won");
    assert_eq!(
        outcomes.iter().filter(|outcome| **outcome == Outcome::Conflict).count(),
        99
    );
    let run = load(&bed.store, loaded.head.run_id).await.run;
    let text = format!("writer {}", winners[0]);
    assert_eq!(
        run.messages.last().map(|message| message.content()),
        Some(&*text),
        "the one who was told so"
    );
    assert_eq!(run.version, loaded.run.version + 2);
}

/// The same first append from many hands: a client's library that retries, a gateway that does.
pub async fn one_of_many_racing_gateways_creates_a_run(bed: &Bed) {
    let other = bed.other_process().await;
    let first = accept("once");
    let neighbours: Vec<_> = (0..20).map(|_| accept("a neighbour")).collect();
    let racers = (0..20).map(|at| try_append(if at % 2 == 0 { &bed.store } else { &other }, first.clone()));
    let beside = neighbours
        .iter()
        .map(|neighbour| try_append(&bed.store, neighbour.clone()));
    let (outcomes, beside) = futures::join!(join_all(racers), join_all(beside));
    let won = outcomes
        .iter()
        .filter(|outcome| matches!(outcome, Outcome::Appended(_)))
        .count();
    assert_eq!(won, 1, "{outcomes:?}");
    let others = outcomes.iter().filter(|outcome| **outcome == Outcome::Conflict).count();
    assert_eq!(others, 19, "{outcomes:?}");
    assert!(
        beside.iter().all(|outcome| matches!(outcome, Outcome::Appended(_))),
        "{beside:?}"
    );
    let loaded = load(&bed.store, first.run_id).await;
    assert_eq!((loaded.run, loaded.head.session_seq), (Run::fold(&first.events), 1));
}

pub async fn a_run_that_ended_refuses_a_stale_writer(bed: &Bed) {
    let store = &bed.store;
    let mut loaded = claimed(store, "w").await;
    let stale = loaded.clone();
    go(store, &mut loaded, |l| order(l, answer(&l.run, "done"))).await;
    let late = order(
        &stale,
        Command::Cancel {
            now: now(),
            reason: None,
        },
    );
    assert_eq!(try_append(store, late).await, Outcome::Conflict);
    let head = store
        .reader
        .head(loaded.head.run_id)
        .await
        .expect("head")
        .expect("is there");
    assert_eq!((head.lease_owner, head.lease_until, head.due_at), (None, None, None));
}
