//! What a projection is: a name, a version, tables, and what a batch of events changes in them.

use async_trait::async_trait;
use steadfast::store::{Error, sql::Tx};

use crate::log::Entry;

#[async_trait]
pub trait Projection: Send + Sync + 'static {
    /// Names it in the checkpoint table, in metrics and on the command line.
    fn name(&self) -> &'static str;

    /// Raised whenever the tables or what goes into them changes: the projector then rebuilds them beside the old.
    fn version(&self) -> i64;

    fn tables(&self) -> &'static [Table];

    /// Writes what these events change. In log order; every event exactly once. Runs inside the transaction that
    /// moves the checkpoint, so a failure changes nothing.
    async fn apply(&self, tx: &mut Tx, names: Names, batch: &[Entry]) -> Result<(), Error>;
}

/// A table as it is created. Types are those both databases understand.
pub struct Table {
    pub name: &'static str,
    pub columns: &'static str,
    pub primary_key: &'static str,
    pub indexes: &'static [Index],
}

/// Its name is the table's name and this suffix.
pub struct Index {
    pub suffix: &'static str,
    pub columns: &'static str,
}

/// Which copy of the tables is meant: the one that serves, or the one being built beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    Live,
    New,
}

impl Names {
    pub fn of(self, name: &str) -> String {
        match self {
            Self::Live => name.to_owned(),
            Self::New => format!("{name}__new"),
        }
    }
}
