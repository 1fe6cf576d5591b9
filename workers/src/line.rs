//! The lines of runs that found no place: who joins, and who is taken when a place is free.
//!
//! A line is a tenant's held runs in the store, the oldest first. No count of anything is kept there: a worker takes as
//! many as it has places, so the limit holds exactly in each worker, and what a dead one had taken is overdue soon and
//! found by the redriver.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use steadfast::{
    metrics,
    queue::{Advance, Delivery},
    run::{RunId, TenantId},
    store::{Due, Error, Reader},
};
use tokio::sync::Notify;

use crate::places::{Place, Places};

/// Tenants looked up in one go; the next look goes on behind them.
const TENANTS: u32 = 256;
/// A run that was taken and is not claimed by then (its worker died) is dispatched.
const CLAIM_WITHIN: Duration = Duration::from_secs(5);
/// A command whose run could not be put into its line, because the database is away, comes again after this.
const AWAY_PAUSE: Duration = Duration::from_secs(1);

/// The lines as this worker knows them.
#[derive(Clone, Default)]
pub struct Lines(Arc<Known>);

#[derive(Default)]
struct Known {
    /// The tenant that was served last comes last.
    tenants: Mutex<VecDeque<TenantId>>,
    grown: Notify,
}

impl Lines {
    /// Puts the runs of these commands into their lines: here, and for every worker to see.
    pub async fn join(&self, reader: &Reader, commands: Vec<Delivery>) {
        let runs: Vec<RunId> = commands.iter().map(|delivery| delivery.command.run_id).collect();
        match reader.hold(&runs).await {
            Ok(held) => {
                metrics::flow().joined.with_label_values(&["worker"]).inc_by(held);
                self.know(commands.iter().map(|delivery| delivery.command.tenant.clone()));
                for delivery in commands {
                    delivery.ack().await;
                }
            }
            Err(error) => {
                tracing::warn!(%error, runs = runs.len(), "runs without a place could not be put into their lines");
                for delivery in commands {
                    delivery.give_back(AWAY_PAUSE).await;
                }
            }
        }
    }

    /// Puts overdue runs into their lines that the queue did not bring to a worker.
    pub async fn take_in(&self, reader: &Reader, overdue: &[Due]) -> Result<(), Error> {
        let runs: Vec<RunId> = overdue.iter().map(|due| due.run_id).collect();
        let held = reader.hold(&runs).await?;
        metrics::flow().joined.with_label_values(&["redriver"]).inc_by(held);
        self.know(overdue.iter().map(|due| due.tenant.clone()));
        Ok(())
    }

    /// Returns once a tenant was added since the last call.
    pub async fn grown(&self) {
        self.0.grown.notified().await;
    }

    /// Looks up the lines in the store, so many after `after`; answers where to go on.
    pub async fn look_up(&self, reader: &Reader, after: Option<TenantId>) -> Result<Option<TenantId>, Error> {
        let tenants = reader.held_tenants(after.as_ref(), TENANTS).await?;
        let next = tenants.last().filter(|_| tenants.len() == TENANTS as usize).cloned();
        self.know(tenants.into_iter());
        Ok(next)
    }

    /// Fills free places from the lines, for as long as there are both, and hands out each run with its place.
    pub async fn serve(
        &self,
        reader: &Reader,
        places: &Places,
        mut execute: impl FnMut(Advance, Place),
    ) -> Result<(), Error> {
        loop {
            let tenants: Vec<TenantId> = self.lock().iter().cloned().collect();
            let shares = places.share_out(&tenants);
            if shares.iter().all(|share| *share == 0) {
                return Ok(());
            }
            for (tenant, share) in tenants.into_iter().zip(shares) {
                // Someone else may have been quicker.
                let mut own: Vec<Place> = (0..share).map_while(|_| places.take(&tenant)).collect();
                if own.is_empty() {
                    continue;
                }
                let limit = u32::try_from(own.len()).unwrap_or(u32::MAX);
                let taken = reader.take_held(&tenant, limit, CLAIM_WITHIN).await?;
                self.served(&tenant, taken.len() == own.len());
                for due in taken {
                    let Some(place) = own.pop() else { break };
                    let command = Advance {
                        run_id: due.run_id,
                        tenant: due.tenant,
                        version: due.version,
                        dispatch: due.dispatch,
                    };
                    execute(command, place);
                }
            }
        }
    }

    fn know(&self, tenants: impl Iterator<Item = TenantId>) {
        let mut known = self.lock();
        let before = known.len();
        for tenant in tenants {
            if !known.contains(&tenant) {
                known.push_back(tenant);
            }
        }
        if known.len() > before {
            self.0.grown.notify_one();
        }
    }

    fn served(&self, tenant: &TenantId, has_more: bool) {
        let mut known = self.lock();
        known.retain(|known| known != tenant);
        if has_more {
            known.push_back(tenant.clone());
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<TenantId>> {
        self.0.tenants.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
