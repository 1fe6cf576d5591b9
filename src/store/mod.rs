//! The event store: the only truth.
//!
//! Two handles, so that a room can be given only what it needs: [`Appender`] may add to the log, [`Reader`] may read
//! it. Both stand on one port, [`Backend`], with an adapter for Postgres and one for SQLite.
//!
//! Which write is truth and which is cache: `events`, `runs` (the head of each stream), `sessions`, `blobs`,
//! `idempotency_keys` and `api_keys` are truth. `snapshots`, `provider_states` and every read model are caches.

mod adapter;
mod appender;
mod backend;
mod clock;
mod cqrs;
mod encode;
pub mod home;
mod load;
mod loads;
mod postgres;
mod providers;
mod reader;
mod rows;
pub mod sql;
mod sqlite;
mod types;

use std::sync::Arc;

pub use appender::{Appender, BATCH_MAX};
pub use backend::{Backend, held_pause};
pub use cqrs::RunStore;
pub use encode::{BLOB_BYTES_MIN, Prepared, chain};
pub use load::{Loaded, SNAPSHOT_EVERY};
pub use providers::{KnownState, ProviderState, ProviderStates, STALE_AFTER};
pub use reader::Reader;
pub use sql::Db;
pub use types::*;

/// A store, opened: both handles and the database under them.
#[derive(Clone)]
pub struct Store {
    pub appender: Appender,
    pub reader: Reader,
    pub db: Db,
}

/// Both handles, on whatever keeps the log.
#[derive(Clone)]
pub struct Handles {
    pub appender: Appender,
    pub reader: Reader,
    /// None where no database lies under them.
    pub provider_states: Option<ProviderStates>,
}

impl Handles {
    pub fn on(backend: Arc<dyn Backend>) -> Self {
        Self {
            appender: Appender::start(backend.clone()),
            reader: Reader::new(backend),
            provider_states: None,
        }
    }
}

/// The adapter of a database: for whoever stands between it and its handles.
pub fn backend(db: Db) -> Arc<dyn Backend> {
    Arc::new(adapter::Adapter::new(db))
}

/// Runs a task that blocks, on a thread of its own, which ends with the task: when its handles are gone.
fn own_thread(name: &str, task: impl Future<Output = ()> + Send + 'static) {
    let runtime = tokio::runtime::Handle::current();
    let begun = std::thread::Builder::new()
        .name(name.into())
        .spawn(move || runtime.block_on(task));
    // Then the task is gone, and whoever asks it for something is told so.
    if let Err(error) = begun {
        tracing::error!(%error, thread = name, "a thread could not be started");
    }
}

impl Store {
    /// Opens `postgres://…` or `sqlite://PATH`. Does not migrate: see [`Db::migrate`].
    pub async fn open(url: &str) -> Result<Self, Error> {
        let db = Db::connect(url).await?;
        Ok(Self::on(db))
    }

    pub fn on(db: Db) -> Self {
        let Handles { appender, reader, .. } = Handles::on(backend(db.clone()));
        Self { appender, reader, db }
    }

    /// Without the database under them: all a gateway or a worker needs.
    pub fn handles(&self) -> Handles {
        Handles {
            appender: self.appender.clone(),
            reader: self.reader.clone(),
            provider_states: Some(ProviderStates::new(self.db.clone())),
        }
    }
}
