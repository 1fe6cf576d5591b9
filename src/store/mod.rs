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
mod file;
pub mod home;
mod load;
mod loads;
mod postgres;
mod providers;
mod reader;
mod rows;
mod schedule;
pub mod sql;
mod sqlite;
mod statement;
mod types;

use std::{
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

pub use appender::{Appender, BATCH_MAX};
pub use backend::{Backend, held_pause};
pub use cqrs::RunStore;
pub use encode::{BLOB_BYTES_MIN, Prepared, chain};
pub use load::{Loaded, SNAPSHOT_EVERY};
pub use providers::{KnownState, ProviderState, ProviderStates, STALE_AFTER};
pub use reader::Reader;
pub use sql::Db;
use tokio::{runtime::Handle, sync::oneshot};
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

thread_local! {
    /// Whether this thread has one task only, which may block it.
    static BLOCKS: Cell<bool> = const { Cell::new(false) };
}

/// Runs a task that blocks, on a thread of its own, which ends with the task: then this receives that nobody sends.
pub fn own_thread(name: &str, task: impl Future<Output = ()> + Send + 'static) -> oneshot::Receiver<()> {
    let runtime = Handle::current();
    let (sender, ended) = oneshot::channel();
    let begun = std::thread::Builder::new().name(name.into()).spawn(move || {
        let _sender = sender;
        BLOCKS.set(true);
        runtime.block_on(task);
    });
    // Then the task is gone, and whoever asks it for something is told so.
    if let Err(error) = begun {
        tracing::error!(%error, thread = name, "a thread could not be started");
    }
    ended
}

/// Work that blocks: here, where the thread is its task's own, else on a thread for such work. There it goes on to its end also
/// when nobody waits for it any more.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    let cut_off = "work on the database was cut off";
    if BLOCKS.get() {
        let done = catch_unwind(AssertUnwindSafe(work));
        return done.map_err(|_| Error::Unavailable(format!("{cut_off}: it panicked")));
    }
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Error::Unavailable(format!("{cut_off}: {error}")))
}

/// The same, with nobody to wait for it.
fn detached(work: impl FnOnce() + Send + 'static) {
    match Handle::try_current() {
        Ok(runtime) if !BLOCKS.get() => drop(runtime.spawn_blocking(work)),
        _ => work(),
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
