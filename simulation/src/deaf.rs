//! A process that has long been cut off from the store must not say that it is ready.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use crate::{
    house::{House, Running},
    plan::{Fault, Kind},
    process::Edge,
};

/// Whoever has not reached the store for so long knows it: a request may wait for some seconds before it fails.
const KNOWN_AFTER: Duration = Duration::from_secs(7);
/// The end of a fault is looked at from just before it.
const BEFORE: Duration = Duration::from_millis(1);

/// What a process said after it had been cut off for long.
pub struct Said {
    pub process: String,
    pub ready: bool,
}

/// Those who hear nothing during a fault, as they were when it began.
pub struct Deaf {
    listeners: Vec<(Running, u64)>,
    edge: Option<Arc<crate::process::Process>>,
    crashes: u64,
}

impl Deaf {
    /// Waits for the end of a fault that cuts somebody off from the store, and asks each whether it is ready.
    pub async fn until_the_end(house: &House, fault: &Fault) {
        let Some(deaf) = Self::begin(house, fault) else {
            return sleep(fault.lasts).await;
        };
        sleep(fault.lasts.saturating_sub(BEFORE)).await;
        deaf.ask(house);
        sleep(BEFORE).await;
    }

    fn begin(house: &House, fault: &Fault) -> Option<Self> {
        // A message that is late by seconds says nothing about who hears.
        if fault.lasts < KNOWN_AFTER || house.world.noise().late_permille > 0 {
            return None;
        }
        let all = house.running().clone();
        let edge = match fault.kind {
            Kind::StoreAway => None,
            Kind::Cut {
                process,
                edge: Edge::Store,
            } => Some(all[process].process.clone()),
            _ => return None,
        };
        let concerned = |running: &Running| edge.as_ref().is_none_or(|cut| Arc::ptr_eq(cut, &running.process));
        // Who stands still says nothing at all.
        let listeners = (all.into_iter())
            .filter(|running| concerned(running) && !running.process.is_stalled())
            .map(|running| {
                let stalls = running.process.stalls();
                (running, stalls)
            })
            .collect();
        let crashes = house.database.rows().crashes;
        Some(Self {
            listeners,
            edge,
            crashes,
        })
    }

    fn ask(self, house: &House) {
        let cut_off = match &self.edge {
            Some(cut) => cut.is_off(Edge::Store),
            None => {
                let rows = house.database.rows();
                rows.away && rows.crashes == self.crashes
            }
        };
        for (running, stalls) in self.listeners {
            let process = &running.process;
            let undisturbed = process.is_alive() && process.stalls() == stalls && !running.stop.is_cancelled();
            // A gateway's health is told by the part that listens on its port, which is not here.
            let parts = running.health.report();
            if cut_off && undisturbed && !parts.is_empty() {
                let ready = parts.iter().all(|part| part.ready);
                house.said(Said {
                    process: process.name.clone(),
                    ready,
                });
            }
        }
    }
}
