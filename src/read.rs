//! The port to the read models: what the gateway asks, and the projections room answers.
//!
//! Read models lag the log by moments. Whatever must be exact (one run, its events) is folded from the log instead.

use async_trait::async_trait;
use serde::Serialize;

use crate::{
    run::{Message, RunId, SessionId, Status, TenantId, Time},
    store::{Error, Position},
};

/// One page of a list, newest first unless said otherwise.
#[derive(Debug, Clone, Default)]
pub struct Page {
    pub limit: u32,
    /// Only what comes after this id in the list's order.
    pub after: Option<String>,
    /// Only what comes before this id.
    pub before: Option<String>,
}

#[derive(Debug, Clone, Default)]
pub struct RunFilter {
    pub session_id: Option<SessionId>,
    pub status: Option<Status>,
    pub agent: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunRow {
    pub id: RunId,
    pub session_id: SessionId,
    pub agent: String,
    pub status: String,
    pub input: String,
    pub output: Option<String>,
    pub error_code: Option<String>,
    pub input_tokens: u64,
    pub output_tokens: u64,
    pub cost_microusd: u64,
    pub created_at: Time,
    pub ended_at: Option<Time>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SessionRow {
    pub id: SessionId,
    pub runs: u64,
    pub messages: u64,
    pub created_at: Time,
    pub updated_at: Time,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MessageRow {
    pub run_id: RunId,
    /// The event the message came from.
    pub version: u64,
    /// Its place among the messages of that event.
    pub index: u32,
    pub message: Message,
    pub time: Time,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct UsageRow {
    pub day: String,
    pub agent: String,
    pub model: String,
    pub model_calls: u64,
    pub orphaned_calls: u64,
    pub input_tokens: u64,
    pub output_tokens: u64,
    pub cost_microusd: u64,
}

/// A page, and whether there is more of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Listed<T> {
    pub data: Vec<T>,
    pub has_more: bool,
}

#[async_trait]
pub trait ReadModels: Send + Sync + 'static {
    async fn runs(&self, tenant: &TenantId, filter: &RunFilter, page: &Page) -> Result<Listed<RunRow>, Error>;
    async fn sessions(&self, tenant: &TenantId, page: &Page) -> Result<Listed<SessionRow>, Error>;
    /// Oldest first.
    async fn messages(
        &self,
        tenant: &TenantId,
        session_id: SessionId,
        page: &Page,
    ) -> Result<Listed<MessageRow>, Error>;
    async fn usage(&self, tenant: &TenantId, days: u32) -> Result<Vec<UsageRow>, Error>;
    /// Waits (a bounded while) until the read models have applied everything up to here: read your own writes.
    async fn wait_for(&self, position: Position) -> Result<bool, Error>;
}
