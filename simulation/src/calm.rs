//! The simulated adapters by themselves, in a world where nothing goes wrong: for the suites that every adapter of a
//! port must pass. What they promise there is what the rooms are simulated on.

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use steadfast::{feed::LiveFeed, queue::CommandQueue, run::Time, store::Handles};

use crate::{
    backend::SimulatedBackend,
    database::Database,
    feed::{Airwaves, SimulatedFeed},
    plan::Noise,
    process::Process,
    queue::{Broker, SimulatedQueue},
    world::World,
};

/// One database, one queue and one feed. Each handle is another process's.
pub struct Calm {
    world: Arc<World>,
    database: Arc<Database>,
    broker: Arc<Broker>,
    air: Arc<Airwaves>,
}

impl Calm {
    /// The clock begins at `now` and goes with the runtime's.
    pub fn new(now: Time) -> Self {
        let world = Arc::new(World::beginning_at(
            now,
            0,
            Noise::default(),
            Duration::ZERO,
            None,
            false,
        ));
        Self {
            database: Arc::new(Database::new(world.clone())),
            broker: Broker::new(world.clone()),
            air: Arc::default(),
            world,
        }
    }

    fn process(&self) -> Arc<Process> {
        Process::new("calm".into(), self.world.clone(), TimeDelta::zero())
    }

    pub fn store(&self) -> Handles {
        Handles::on(SimulatedBackend::new(self.database.clone(), self.process()))
    }

    pub fn queue(&self) -> Arc<dyn CommandQueue> {
        SimulatedQueue::new(self.broker.clone(), self.process())
    }

    pub fn feed(&self) -> Arc<dyn LiveFeed> {
        SimulatedFeed::new(self.air.clone(), self.process())
    }
}
