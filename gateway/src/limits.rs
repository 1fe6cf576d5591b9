//! Every number that bounds what a client may ask of the gateway. Each has a name, and errors say that name.

use std::time::Duration;

use serde::Deserialize;

use crate::identity::Identity;

/// The limits an installation may set, as a table of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GatewayLimits {
    /// Bytes of a request body.
    pub body_bytes_max: usize,
    /// Bytes of text in the messages of one task.
    pub input_bytes_max: usize,
    /// Messages in one task.
    pub messages_max: usize,
    /// Client tools of one task.
    pub tools_max: usize,
    /// Bytes of metadata, rendered as JSON.
    pub metadata_bytes_max: usize,
    /// Connections of this process; more are told to come back.
    pub connections_max: usize,
    /// A client must have sent the head of its request by then; an idle connection is closed after as long.
    pub header_seconds_max: u64,
    /// Event streams open in this process.
    pub streams_max: usize,
    /// Event streams open in this process for one tenant.
    pub streams_per_tenant_max: usize,
    /// An event stream is ended after this many seconds, and the client reconnects; 0 means never.
    pub stream_seconds_max: u64,
    /// Requests of one tenant in a minute, at this process; 0 means [`REQUESTS_PER_MINUTE`] where identity is
    /// required, and no limit where it is not.
    pub requests_per_minute: u32,
    /// How long a worker may take to claim a new run before the run is dispatched again.
    pub claim_within_seconds: u64,
    /// Runs of one tenant that wait in its line; more are refused.
    pub held_runs_per_tenant_max: u64,
    /// A tenant's new runs join its line unannounced once so many wait there.
    pub line_runs_min: u64,
    /// No run is accepted while one has waited longer for a place that its tenant has a right to; 0 means never mind.
    pub waited_seconds_max: u64,
}

impl Default for GatewayLimits {
    fn default() -> Self {
        Self {
            body_bytes_max: 1024 * 1024,
            input_bytes_max: 512 * 1024,
            messages_max: 256,
            tools_max: 128,
            metadata_bytes_max: 16 * 1024,
            connections_max: 16_384,
            header_seconds_max: 10,
            streams_max: 10_000,
            streams_per_tenant_max: 5_000,
            stream_seconds_max: 0,
            requests_per_minute: 0,
            claim_within_seconds: 15,
            held_runs_per_tenant_max: 100_000,
            line_runs_min: 100,
            waited_seconds_max: 60,
        }
    }
}

/// What a tenant may send in a minute where nothing else is configured: a wall against a client gone wild, far above
/// what people do.
pub const REQUESTS_PER_MINUTE: u32 = 60_000;

impl GatewayLimits {
    pub fn requests_per_minute_for(&self, identity: &Identity) -> u32 {
        match (self.requests_per_minute, identity) {
            (0, Identity::Required { .. }) => REQUESTS_PER_MINUTE,
            (configured, _) => configured,
        }
    }

    pub fn claim_within(&self) -> Duration {
        Duration::from_secs(self.claim_within_seconds)
    }

    pub fn header_read_max(&self) -> Duration {
        Duration::from_secs(self.header_seconds_max.max(1))
    }

    pub fn stream_age_max(&self) -> Option<Duration> {
        (self.stream_seconds_max > 0).then(|| Duration::from_secs(self.stream_seconds_max))
    }
}

/// A client must have sent its body by then.
pub const BODY_READ_MAX: Duration = Duration::from_secs(30);
/// Bytes of a request's head.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;
/// After the order to stop, requests in progress have this long to end.
pub const DRAIN_MAX: Duration = Duration::from_secs(10);
/// How long an append is tried while the database is away, before the client is told to come back.
pub const APPEND_PATIENCE: Duration = Duration::from_secs(2);
/// How often a decision that lost to another writer is made again.
pub const DECISIONS_MAX: usize = 8;
/// A long poll ends after this many seconds at the most.
pub const WAIT_SECONDS_MAX: u64 = 60;
/// Announcements of committed facts that may be under way; past it they are left to the redriver.
pub const ANNOUNCEMENTS_MAX: usize = 1024;
/// An announcement that takes longer is left to the redriver.
pub const ANNOUNCEMENT_MAX: Duration = Duration::from_secs(5);
/// A feed that does not take a subscription by then is away.
pub const SUBSCRIBE_MAX: Duration = Duration::from_millis(500);
/// Rows in a page of a list.
pub const PAGE_MAX: u32 = 100;
pub const PAGE_DEFAULT: u32 = 20;
/// Events in a page of a run's events.
pub const EVENTS_PAGE_MAX: u32 = 1000;
pub const EVENTS_PAGE_DEFAULT: u32 = 100;
/// Bytes of events in one JSON answer; past it the page ends early, with `has_more`.
pub const EVENTS_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Events one request may look at while its `types` match few of them.
pub const EVENTS_SCANNED_MAX: usize = 10_000;
