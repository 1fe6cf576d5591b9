//! What the check of a database cannot know: what really left, held against the log.

use std::collections::BTreeMap;

use steadfast::{
    run::Event,
    store::{GENESIS, Loaded, StoredEvent, chain},
};

use super::play::House;

pub async fn run(house: &House, loaded: &Loaded, what: &str) {
    let run_id = loaded.head.run_id;
    let stored = house.reader().events(run_id, 0, 1000).await.expect("the log reads");
    let events: Vec<Event> = (stored.iter())
        .map(|event| event.decode().expect("an event reads"))
        .collect();
    let story = || {
        let names: Vec<&str> = stored.iter().map(|event| event.name.as_str()).collect();
        format!("{what}: {names:#?}")
    };
    assert!(
        (stored.iter().zip(1..)).all(|(event, version)| event.version == version),
        "{}",
        story()
    );
    let mut last = GENESIS;
    for event in &stored {
        let StoredEvent {
            version,
            tenant,
            name,
            schema,
            time,
            payload,
            ..
        } = event;
        last = chain(&last, run_id, *version, tenant, name, *schema, *time, payload);
        assert_eq!(last, event.hash, "the chain breaks at version {version}; {}", story());
    }
    assert_eq!(loaded.head.hash, last, "{}", story());
    assert!(loaded.head.lease_owner.is_none(), "an ended run is held; {}", story());

    // Each call that is recorded ends once; each that left is recorded, and left once.
    let mut calls: BTreeMap<String, u32> = BTreeMap::new();
    for event in &events {
        match event {
            Event::ModelCallRequested(e) => drop(calls.insert(format!("{}-{}", e.step, e.attempt), 0)),
            Event::ModelReplied(e) => *calls.entry(format!("{}-{}", e.step, e.attempt)).or_default() += 1,
            Event::ModelCallFailed(e) => *calls.entry(format!("{}-{}", e.step, e.attempt)).or_default() += 1,
            Event::ModelCallOrphaned(e) => *calls.entry(format!("{}-{}", e.step, e.attempt)).or_default() += 1,
            _ => {}
        }
    }
    assert!(
        calls.values().all(|outcomes| *outcomes == 1),
        "outcomes {calls:?}; {}",
        story()
    );
    for (call, left) in house.ledger.calls_of(&run_id.to_string()) {
        assert!(
            left == 1 && calls.contains_key(&call),
            "{call} left {left} times; {}",
            story()
        );
    }

    let allowed = (events.iter())
        .filter(|event| matches!(event, Event::ApprovalGranted(e) if e.output.is_none()))
        .count() as u64;
    let paid = house.ledger.paid_by(&run_id.to_string());
    assert!(
        paid <= 1 + allowed,
        "paid {paid} times, allowed {allowed} times; {}",
        story()
    );
}
