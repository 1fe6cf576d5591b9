//! From facts to rows: versions, payload bytes, blobs and the hash chain.

use sha2::{Digest, Sha256};

use super::{Append, Hash, StoredEvent};
use crate::run::{
    Event, RunId, TenantId, Time,
    agent::{hex, unhex},
};

/// Payloads of this many bytes or more go to `blobs`; the event keeps a reference.
pub const BLOB_BYTES_MIN: usize = 64 * 1024;

/// Marks a payload that is only a reference. No event's data has such a field.
const REFERENCE: &str = "{\"$blob\":\"";

/// An append, ready to be written.
#[derive(Debug, Clone)]
pub struct Prepared {
    pub append: Append,
    /// As handed back to the caller: payloads whole.
    pub events: Vec<StoredEvent>,
    /// As written: large payloads replaced by references. Empty where nothing was replaced.
    references: Vec<Option<String>>,
    pub blobs: Vec<(Hash, String)>,
}

/// One link of the chain. Strings carry their length, so no two different events give the same bytes.
#[expect(
    clippy::too_many_arguments,
    reason = "a link is made of exactly these; a struct would only be taken apart here"
)]
pub fn chain(
    prev: &Hash,
    run_id: RunId,
    version: u64,
    tenant: &TenantId,
    name: &str,
    schema: u16,
    time: Time,
    stored_payload: &str,
) -> Hash {
    let mut hasher = Sha256::new();
    hasher.update(prev);
    hasher.update(run_id.0.as_bytes());
    hasher.update(version.to_be_bytes());
    hasher.update(schema.to_be_bytes());
    hasher.update(time.timestamp_micros().to_be_bytes());
    for text in [tenant.as_str(), name, stored_payload] {
        hasher.update((text.len() as u64).to_be_bytes());
        hasher.update(text);
    }
    hasher.finalize().into()
}

impl Prepared {
    pub fn new(append: Append) -> Self {
        let mut prev = append.prev_hash;
        let mut blobs = Vec::new();
        let mut references = Vec::with_capacity(append.events.len());
        let events = (append.events.iter().zip(append.expected_version + 1..))
            .map(|(event, version)| {
                let payload = event.payload();
                let reference = (payload.len() >= BLOB_BYTES_MIN).then(|| refer(&payload, &mut blobs));
                let written = reference.as_deref().unwrap_or(&payload);
                let (name, schema) = (event.name(), event.schema());
                let hash = chain(
                    &prev,
                    append.run_id,
                    version,
                    &append.tenant,
                    name,
                    schema,
                    append.time,
                    written,
                );
                prev = hash;
                references.push(reference);
                StoredEvent {
                    run_id: append.run_id,
                    version,
                    tenant: append.tenant.clone(),
                    name: name.into(),
                    schema,
                    time: append.time,
                    payload,
                    hash,
                }
            })
            .collect();
        Self {
            append,
            events,
            references,
            blobs,
        }
    }

    /// The payload as it is written.
    pub fn written(&self, at: usize) -> &str {
        self.references[at].as_deref().unwrap_or(&self.events[at].payload)
    }

    /// The head after the append.
    pub fn head_hash(&self) -> Hash {
        self.events.last().map_or(self.append.prev_hash, |event| event.hash)
    }

    pub fn new_version(&self) -> u64 {
        self.append.expected_version + self.events.len() as u64
    }

    pub fn is_terminal(&self) -> bool {
        self.append.events.last().is_some_and(Event::is_terminal)
    }
}

fn refer(payload: &str, blobs: &mut Vec<(Hash, String)>) -> String {
    let hash: Hash = Sha256::digest(payload).into();
    blobs.push((hash, payload.into()));
    format!("{REFERENCE}{}\",\"bytes\":{}}}", hex(&hash), payload.len())
}

/// The content hash in a payload that is only a reference.
pub(crate) fn referred(payload: &str) -> Option<Hash> {
    unhex(payload.strip_prefix(REFERENCE)?.get(..64)?)
}
