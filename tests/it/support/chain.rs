//! The hash chain, as somebody verifies it who has only what the API gives out and the page that describes it.

use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    name: String,
    run_id: String,
    version: u64,
    schema: u16,
    time: chrono::DateTime<chrono::Utc>,
    hash: String,
    #[serde(borrow)]
    data: &'a RawValue,
}

/// Each event's hash follows from the one before. (Data of 64 KiB and more is hashed by reference: not for those.)
#[track_caller]
pub fn assert_chained(tenant: &str, events: &[String]) {
    let mut before = vec![0; 32];
    for (at, text) in events.iter().enumerate() {
        let event: Event = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text}"));
        assert_eq!(event.version, at as u64 + 1, "the events are numbered without a gap");
        let mut hash = Sha256::new();
        hash.update(&before);
        hash.update(bytes(event.run_id.trim_start_matches("run_")));
        hash.update(event.version.to_be_bytes());
        hash.update(event.schema.to_be_bytes());
        hash.update(event.time.timestamp_micros().to_be_bytes());
        for text in [tenant, &event.name, event.data.get()] {
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text);
        }
        before = hash.finalize().to_vec();
        assert_eq!(bytes(&event.hash), before, "the chain is broken at {text}");
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex digits");
    (0..hex.len()).step_by(2).map(byte).collect()
}
