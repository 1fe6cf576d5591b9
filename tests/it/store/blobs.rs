//! Large payloads: kept by content, whole again for whoever reads.

use sha2::{Digest, Sha256};
use steadfast::{
    run::Message,
    store::{BLOB_BYTES_MIN, Error, GENESIS, chain},
};

use crate::bed::*;

pub async fn a_large_payload_comes_back_whole_and_the_chain_covers_its_reference(bed: &Bed) {
    let store = &bed.store;
    let text = "ö".repeat(BLOB_BYTES_MIN);
    let order = accept(&text);
    let (run_id, who, payload) = (order.run_id, order.tenant.clone(), order.events[0].payload());
    let appended = append(store, order).await;
    assert_eq!(appended.events[0].payload, payload);
    let read = store.reader.events(run_id, 0, 9).await.expect("reads");
    assert_eq!(read, appended.events);
    let run = load(store, run_id).await.run;
    assert_eq!(run.messages.iter().next().map(|first| first.content()), Some(&*text));

    let rows = store
        .db
        .fetch("select payload from events where run_id = $1", &[run_id.0.into()])
        .await;
    let raw: String = rows.expect("reads")[0].get("payload").expect("a text");
    assert!(
        raw.len() < 200 && raw.contains("$blob"),
        "the raw table holds a reference: {} bytes",
        raw.len()
    );
    let event = &read[0];
    let link = |stored| chain(&GENESIS, run_id, 1, &who, &event.name, event.schema, event.time, stored);
    assert_eq!(link(&raw), event.hash, "the chain is over the bytes as they are stored");
    assert_ne!(link(&payload), event.hash);
    let content = store
        .reader
        .blob(&Sha256::digest(&payload).into())
        .await
        .expect("reads");
    assert_eq!(content, Some(payload.into_bytes()));
    let log = super::log::follow(store, 9, 1).await;
    assert_eq!(log[0].event, read[0]);

    // The same content twice is one blob; a payload just below the limit is none.
    let again = accept(&text);
    append(store, again.clone()).await;
    let again = load(store, again.run_id).await.run;
    assert_eq!(
        again.messages.iter().next().map(|first| &**first),
        Some(&Message::user(text))
    );
    let small = accept(&"x".repeat(BLOB_BYTES_MIN / 2));
    append(store, small.clone()).await;
    let rows = store
        .db
        .fetch("select payload from events where run_id = $1", &[small.run_id.0.into()])
        .await;
    let raw: String = rows.expect("reads")[0].get("payload").expect("a text");
    assert_eq!(raw, small.events[0].payload());
}

pub async fn a_missing_blob_is_named(bed: &Bed) {
    let store = &bed.store;
    let order = accept(&"x".repeat(BLOB_BYTES_MIN));
    let run_id = order.run_id;
    append(store, order).await;
    store.db.execute("delete from blobs", &[]).await.expect("deleted");
    let told = store.reader.load(run_id).await.expect_err("the payload is gone");
    assert!(matches!(&told, Error::Corrupt { version: 1, .. }), "{told}");
    assert!(told.to_string().contains("blob"), "{told}");
}
