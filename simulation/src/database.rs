//! The database: rows, locks, and transactions that are numbered when they begin and seen when they commit.
//!
//! It keeps to what Postgres promises and to nothing more: sequence numbers are given before the commit, so a lower
//! one may be seen later; a statement waits for rows another transaction holds; whoever dies after sending a statement
//! does not take it back.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use steadfast::{
    run::RunId,
    store::{Error, Outcome, Prepared},
};
use tokio::{sync::Notify, time::sleep};

use crate::{
    rows::{Lock, Rows, locks},
    world::{Draws, World},
};

pub struct Database {
    pub world: Arc<World>,
    rows: Mutex<Rows>,
    /// A transaction has ended.
    ended: Notify,
}

pub fn away() -> Error {
    Error::Unavailable("simulated: no connection".into())
}

impl Database {
    pub fn new(world: Arc<World>) -> Self {
        Self {
            world,
            rows: Mutex::default(),
            ended: Notify::new(),
        }
    }

    pub fn rows(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The server dies; it is `come_back` that starts it again.
    pub fn go_away(&self) {
        let mut rows = self.rows();
        rows.away = true;
        rows.crashes += 1;
        rows.open.clear();
        rows.locked.clear();
        drop(rows);
        self.ended.notify_waiters();
    }

    pub fn come_back(&self) {
        self.rows().away = false;
    }

    /// One statement on the heads of these runs: waits for whoever holds them.
    pub async fn when_free(&self, runs: &[RunId]) {
        loop {
            let ended = self.ended.notified();
            let held = {
                let rows = self.rows();
                runs.iter().any(|run_id| rows.locked.contains(&Lock::Run(*run_id)))
            };
            if !held {
                return;
            }
            ended.await;
        }
    }

    /// One statement on all heads.
    pub async fn when_all_free(&self) {
        loop {
            let ended = self.ended.notified();
            if self.rows().locked.is_empty() {
                return;
            }
            ended.await;
        }
    }

    /// The whole batch in one transaction.
    pub async fn write(&self, batch: &[Arc<Prepared>]) -> Result<Vec<Outcome>, Error> {
        let wanted = locks(batch);
        let (txid, crashes) = {
            let mut rows = self.rows();
            if rows.away {
                return Err(away());
            }
            rows.txid += 1;
            let txid = rows.txid;
            rows.open.insert(txid);
            (txid, rows.crashes)
        };
        let staged = loop {
            let ended = self.ended.notified();
            {
                let mut rows = self.rows();
                if rows.crashes != crashes {
                    return Err(away());
                }
                if wanted.iter().all(|lock| !rows.locked.contains(lock)) {
                    rows.locked.extend(wanted.iter().cloned());
                    break rows.stage(batch, txid, &self.world);
                }
            }
            ended.await;
        };
        sleep(self.commit_time()).await;
        let verdicts = {
            let mut rows = self.rows();
            if rows.crashes != crashes {
                self.world
                    .note(format_args!("database: transaction {txid} was lost with the server"));
                return Err(away());
            }
            for lock in &wanted {
                rows.locked.remove(lock);
            }
            rows.open.remove(&txid);
            rows.commit(staged, batch, &self.world)
        };
        self.ended.notify_waiters();
        Ok(verdicts)
    }

    fn commit_time(&self) -> Duration {
        let slow = self.rows().slow;
        match self.world.below(Draws::Database, 100) {
            _ if slow => self.world.millis(Draws::Database, 4000),
            0..70 => Duration::ZERO,
            70..97 => self.world.millis(Draws::Database, 5),
            _ => self.world.millis(Draws::Database, 120),
        }
    }
}
