//! How each worker sees its model providers: a small table that workers write and gateways read, because neither reads
//! the other's memory. A cache, not truth.

use std::time::Duration;

use super::{
    Error,
    sql::{Db, Row},
};
use crate::run::Time;

/// A row that was not written for so long is of a worker that is gone, or cannot reach the database.
pub const STALE_AFTER: Duration = Duration::from_secs(45);
/// Then it is deleted by whoever writes next.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);
/// More than any installation has; a list stays one answer.
const STATES_MAX: u32 = 10_000;

/// One model of one provider, as one worker sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct ProviderState {
    pub worker: String,
    pub provider: String,
    pub model: String,
    /// `closed`, `open` or `half_open`.
    pub state: String,
    pub since: Time,
    pub paused_until: Option<Time>,
    pub in_flight: u64,
    /// Calls of the last 30 s, and how many of them failed.
    pub calls: u64,
    pub failures: u64,
}

/// A state and when it was written, by the database's clock.
#[derive(Debug, Clone, PartialEq)]
pub struct KnownState {
    pub state: ProviderState,
    pub updated_at: Time,
    pub stale: bool,
}

/// The table.
#[derive(Clone)]
pub struct ProviderStates {
    db: Db,
}

impl ProviderStates {
    pub fn new(db: Db) -> Self {
        Self { db }
    }

    /// Replaces what a worker has said before.
    pub async fn put(&self, worker: &str, states: &[ProviderState]) -> Result<(), Error> {
        let (now, age_ms) = (self.now(), self.age_ms());
        let mut tx = self.db.begin().await?;
        let sql = format!("delete from provider_states where worker = $1 or {age_ms} > $2");
        tx.execute(&sql, &[worker.into(), millis(FORGOTTEN_AFTER).into()])
            .await?;
        for state in states {
            let sql = format!(
                "insert into provider_states (worker, provider, model, state, since, paused_until, in_flight, calls,
                                              failures, updated_at)
                 values ($1, $2, $3, $4, $5, $6, $7, $8, $9, {now})
                 on conflict (worker, provider, model) do nothing"
            );
            let args = [
                worker.into(),
                state.provider.as_str().into(),
                state.model.as_str().into(),
                state.state.as_str().into(),
                state.since.into(),
                state.paused_until.into(),
                state.in_flight.into(),
                state.calls.into(),
                state.failures.into(),
            ];
            tx.execute(&sql, &args).await?;
        }
        tx.commit().await
    }

    /// What all workers have said, by provider, model and worker.
    pub async fn list(&self) -> Result<Vec<KnownState>, Error> {
        let sql = format!(
            "select *, {} as age_ms from provider_states where {} <= $1
             order by provider, model, worker limit $2",
            self.age_ms(),
            self.age_ms()
        );
        let args = [millis(FORGOTTEN_AFTER).into(), STATES_MAX.into()];
        self.db.fetch(&sql, &args).await?.iter().map(known).collect()
    }

    fn now(&self) -> &'static str {
        if self.db.is_postgres() {
            "now()"
        } else {
            "strftime('%Y-%m-%dT%H:%M:%f000+00:00', 'now')"
        }
    }

    /// Milliseconds since a row was written.
    fn age_ms(&self) -> &'static str {
        if self.db.is_postgres() {
            "cast(extract(epoch from now() - updated_at) * 1000 as bigint)"
        } else {
            "cast((julianday('now') - julianday(updated_at)) * 86400000 as integer)"
        }
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn known(row: &Row) -> Result<KnownState, Error> {
    let age_ms: i64 = row.get("age_ms")?;
    Ok(KnownState {
        state: ProviderState {
            worker: row.get("worker")?,
            provider: row.get("provider")?,
            model: row.get("model")?,
            state: row.get("state")?,
            since: row.get("since")?,
            paused_until: row.get("paused_until")?,
            in_flight: row.count("in_flight")?,
            calls: row.count("calls")?,
            failures: row.count("failures")?,
        },
        updated_at: row.get("updated_at")?,
        stale: age_ms > millis(STALE_AFTER),
    })
}
