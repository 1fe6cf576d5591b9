//! Where the projector keeps its read models: rows and checkpoints that change together, in memory.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use steadfast::{
    run::{RunId, Time},
    store::{Error, Position},
};
use steadfast_projections::{
    Checkpoint, Lane,
    log::{Entry, Log},
    models::run_list::ListedRun,
    projection::{Names, Projection},
    tables::{Change, Tables},
};
use tokio::sync::OwnedMutexGuard;

use crate::{
    database::{Database, away},
    process::{Edge, Process},
};

/// The rows, shared by all projectors.
#[derive(Default)]
pub struct ReadModels {
    kept: Mutex<Kept>,
    /// The lock of the checkpoints' rows.
    turn: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Default)]
struct Kept {
    runs: BTreeMap<RunId, ListedRun>,
    checkpoints: BTreeMap<String, Checkpoint>,
}

impl ReadModels {
    pub fn runs(&self) -> BTreeMap<RunId, ListedRun> {
        self.lock().runs.clone()
    }

    /// How far the slowest projection is.
    pub fn position(&self) -> Option<Position> {
        self.lock()
            .checkpoints
            .values()
            .map(|checkpoint| checkpoint.position)
            .min()
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The read models as one projector reaches them.
pub struct SimulatedTables {
    pub database: Arc<Database>,
    pub models: Arc<ReadModels>,
    pub process: Arc<Process>,
}

impl SimulatedTables {
    async fn cross(&self) -> Result<(), Error> {
        cross(&self.database, &self.process).await
    }
}

async fn cross(database: &Database, process: &Process) -> Result<(), Error> {
    let away_now = database.rows().away;
    process.cross(Edge::Store, away_now).await.map_err(|_| away())
}

#[async_trait]
impl Tables for SimulatedTables {
    async fn create(&self, projections: &[&'static dyn Projection]) -> Result<(), Error> {
        self.cross().await?;
        let mut kept = self.models.lock();
        for projection in projections {
            kept.checkpoints.entry(projection.name().into()).or_insert(Checkpoint {
                version: projection.version(),
                position: Position::default(),
            });
        }
        Ok(())
    }

    async fn checkpoint(&self, key: &str) -> Result<Option<Checkpoint>, Error> {
        self.cross().await?;
        Ok(self.models.lock().checkpoints.get(key).copied())
    }

    async fn begin(&self) -> Result<Box<dyn Change>, Error> {
        self.cross().await?;
        Ok(Box::new(SimulatedChange {
            database: self.database.clone(),
            models: self.models.clone(),
            process: self.process.clone(),
            turn: None,
            rows: BTreeMap::new(),
            checkpoints: BTreeMap::new(),
        }))
    }

    async fn open_build(&self, projection: &'static dyn Projection) -> Result<Position, Error> {
        Err(not_simulated(projection))
    }

    async fn swap_in(&self, _: &mut Log, lane: &mut Lane) -> Result<(), Error> {
        Err(not_simulated(lane.projection))
    }

    async fn first_behind(&self, place: Position) -> Result<Option<Time>, Error> {
        self.cross().await?;
        let rows = self.database.rows();
        let behind = rows
            .log
            .range((std::ops::Bound::Excluded(place), std::ops::Bound::Unbounded))
            .next();
        let event = behind.and_then(|(_, (run_id, version))| rows.events.get(run_id)?.get(*version as usize - 1));
        Ok(event.map(|event| event.time))
    }
}

fn not_simulated(projection: &dyn Projection) -> Error {
    Error::Refused(format!("building {} anew is not simulated", projection.name()))
}

struct SimulatedChange {
    database: Arc<Database>,
    models: Arc<ReadModels>,
    process: Arc<Process>,
    turn: Option<OwnedMutexGuard<()>>,
    rows: BTreeMap<RunId, ListedRun>,
    checkpoints: BTreeMap<String, Checkpoint>,
}

#[async_trait]
impl Change for SimulatedChange {
    async fn lock(&mut self, key: &str) -> Result<Option<Checkpoint>, Error> {
        cross(&self.database, &self.process).await?;
        if self.turn.is_none() {
            self.turn = Some(self.models.turn.clone().lock_owned().await);
        }
        Ok(self.models.lock().checkpoints.get(key).copied())
    }

    async fn apply(&mut self, _: &dyn Projection, _: Names, batch: &[Entry]) -> Result<(), Error> {
        cross(&self.database, &self.process).await?;
        for entry in batch {
            let run_id = entry.log.event.run_id;
            let before = self
                .rows
                .remove(&run_id)
                .or_else(|| self.models.lock().runs.get(&run_id).cloned());
            self.rows.insert(run_id, ListedRun::after(before, entry)?);
        }
        Ok(())
    }

    async fn put(&mut self, key: &str, checkpoint: Checkpoint) -> Result<(), Error> {
        self.checkpoints.insert(key.into(), checkpoint);
        Ok(())
    }

    async fn commit(mut self: Box<Self>) -> Result<(), Error> {
        cross(&self.database, &self.process).await?;
        {
            let mut kept = self.models.lock();
            kept.runs.append(&mut self.rows);
            kept.checkpoints.append(&mut self.checkpoints);
        }
        self.turn = None;
        // The answer may be lost: the projector finds out where it is by itself.
        cross(&self.database, &self.process).await
    }

    async fn rollback(self: Box<Self>) -> Result<(), Error> {
        Ok(())
    }
}
