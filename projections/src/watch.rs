//! What may hold every reader of the log back, whichever projection it is.

use steadfast::{metrics, store::Error};
use tokio::time::Instant;

use crate::tables::Tables;

/// Looks at the log's readable end.
#[derive(Default)]
pub struct Watch {
    /// The oldest open transaction, and since when it has been that.
    oldest: Option<(i64, Instant)>,
    strange: Option<String>,
}

impl Watch {
    pub async fn look(&mut self, tables: &dyn Tables) -> Result<(), Error> {
        let horizon = tables.horizon().await?;
        self.oldest = match (horizon.oldest_open, self.oldest) {
            (None, _) => None,
            (Some(open), Some((known, since))) if open == known => Some((known, since)),
            (Some(open), _) => Some((open, Instant::now())),
        };
        let age = self.oldest.map_or(0.0, |(_, since)| since.elapsed().as_secs_f64());
        metrics::flow().xmin_age.set(age);
        self.strange = horizon.strange;
        Ok(())
    }

    /// Why the order of the log cannot be trusted, if it cannot.
    pub fn trouble(&self) -> Option<&str> {
        self.strange.as_deref()
    }
}
