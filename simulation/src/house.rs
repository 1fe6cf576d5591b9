//! Everybody who is there, and how each process is started.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use axum::Router;
use chrono::TimeDelta;
use steadfast::{
    agents::Agents,
    health::Health,
    read::{Listed, MessageRow, Page, ReadModels as ReadPort, RunFilter, RunRow, SessionRow, UsageRow},
    run::{SessionId, TenantId},
    simulated,
    store::{Error, Handles, Position},
};
use steadfast_gateway::{Deps, Gateway, GatewayLimits, Identity, Secret, new_api_key};
use steadfast_projections::{Projector, models::RunList};
use steadfast_workers::{
    Worker, WorkerDeps, WorkerOptions,
    model::Models,
    tools::{Clock, Toolbox},
};
use tokio_util::sync::CancellationToken;

use crate::{
    backend::SimulatedBackend,
    database::Database,
    deaf::Said,
    feed::{Airwaves, SimulatedFeed},
    model::{Ledger, SEND, SimulatedModel, SimulatedTool, WORK},
    plan::Plan,
    process::Process,
    queue::{Broker, SimulatedQueue},
    tables::{ReadModels, SimulatedTables},
    world::World,
};

const SLOTS: usize = 3;
/// So that lines form all the time.
const RUNS_PER_TENANT_MAX: usize = 2;
const LINE_RUNS_MIN: u64 = 1;
const DRAIN: Duration = Duration::from_secs(5);
const REDRIVE_EVERY: Duration = Duration::from_millis(500);
const CLAIM_WITHIN_SECONDS: u64 = 4;

pub struct House {
    pub world: Arc<World>,
    pub plan: Plan,
    pub database: Arc<Database>,
    pub broker: Arc<Broker>,
    pub air: Arc<Airwaves>,
    pub models: Arc<ReadModels>,
    pub ledger: Arc<Mutex<Ledger>>,
    pub tenants: Vec<Tenant>,
    /// What processes said that were cut off from the store.
    deaf: Mutex<Vec<Said>>,
    agents: Arc<Agents>,
    running: Mutex<Vec<Running>>,
}

pub struct Tenant {
    pub id: TenantId,
    pub key: Secret,
}

/// A place for a process, and who is in it now.
#[derive(Clone)]
pub struct Running {
    pub process: Arc<Process>,
    pub health: Health,
    pub stop: CancellationToken,
    pub router: Option<Router>,
    births: u32,
}

impl House {
    pub fn new(world: Arc<World>, plan: Plan, agents: Arc<Agents>) -> Arc<Self> {
        let database = Arc::new(Database::new(world.clone()));
        let nobody = |place| Running {
            process: Process::new(format!("nobody {place}"), world.clone(), TimeDelta::zero()),
            health: Health::default(),
            stop: CancellationToken::new(),
            router: None,
            births: 0,
        };
        let tenants = ["acme", "zenith"].map(|name| tenant(name, &database));
        Arc::new(Self {
            tenants: tenants.into(),
            broker: Broker::new(world.clone()),
            air: Arc::default(),
            models: Arc::default(),
            ledger: Arc::default(),
            deaf: Mutex::default(),
            agents,
            running: Mutex::new((0..plan.processes()).map(nobody).collect()),
            database,
            world,
            plan,
        })
    }

    pub fn running(&self) -> MutexGuard<'_, Vec<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn said(&self, said: Said) {
        self.deaf.lock().unwrap_or_else(PoisonError::into_inner).push(said);
    }

    /// What those said who heard nothing.
    pub fn while_deaf(&self) -> Vec<Said> {
        std::mem::take(&mut self.deaf.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Starts a new process in this place.
    pub fn boot(self: &Arc<Self>, place: usize) {
        let (gateways, workers) = (self.plan.gateways, self.plan.workers);
        let role = match place {
            place if place < gateways => "gateway",
            place if place < gateways + workers => "worker",
            _ => "projector",
        };
        let births = self.running()[place].births + 1;
        let name = format!("{role}-{place}.{births}");
        self.world.note(format_args!("{name} starts"));
        let skew = TimeDelta::milliseconds(self.plan.skews.get(place).copied().unwrap_or_default());
        let process = Process::new(name, self.world.clone(), skew);
        let (health, stop) = (Health::default(), CancellationToken::new());
        self.running()[place] = Running {
            process: process.clone(),
            health: health.clone(),
            stop: stop.clone(),
            router: None,
            births,
        };
        let house = self.clone();
        let inside = process.clone();
        process.spawn(async move {
            match role {
                "gateway" => house.gateway(inside, place, health, stop).await,
                "worker" => house.worker(inside, health, stop).await,
                _ => house.projector(inside, health, stop).await,
            }
        });
    }

    fn handles(&self, process: &Arc<Process>) -> Handles {
        Handles::on(SimulatedBackend::new(self.database.clone(), process.clone()))
    }

    async fn gateway(&self, process: Arc<Process>, place: usize, health: Health, stop: CancellationToken) {
        let gateway = Gateway::new(Deps {
            store: self.handles(&process),
            queue: SimulatedQueue::new(self.broker.clone(), process.clone()),
            feed: SimulatedFeed::new(self.air.clone(), process),
            reads: Arc::new(NoLists),
            agents: self.agents.clone(),
            health,
            identity: Identity::Required {
                jwt: None,
                api_keys: true,
            },
            limits: GatewayLimits {
                claim_within_seconds: CLAIM_WITHIN_SECONDS,
                line_runs_min: LINE_RUNS_MIN,
                ..GatewayLimits::default()
            },
        });
        let draining = gateway.draining.clone();
        simulated::spawn(gateway.clone().watch_demand(stop.clone()));
        self.running()[place].router = Some(steadfast_gateway::router(gateway));
        stop.cancelled().await;
        draining.cancel();
    }

    async fn worker(&self, process: Arc<Process>, health: Health, stop: CancellationToken) {
        let (world, ledger) = (self.world.clone(), self.ledger.clone());
        let tool = |name, retry_safe| SimulatedTool {
            name,
            retry_safe,
            world: world.clone(),
            ledger: ledger.clone(),
        };
        let model = SimulatedModel {
            world: world.clone(),
            ledger: ledger.clone(),
        };
        let Ok(models) = Models::new(None, None) else { return };
        let deps = WorkerDeps {
            store: self.handles(&process),
            queue: SimulatedQueue::new(self.broker.clone(), process.clone()),
            feed: SimulatedFeed::new(self.air.clone(), process.clone()),
            models: Arc::new(models.with_scripted(model)),
            tools: Arc::new(
                Toolbox::default()
                    .with(Clock)
                    .with(tool(WORK, true))
                    .with(tool(SEND, false)),
            ),
            health,
        };
        let options = WorkerOptions {
            id: process.name.clone(),
            slots: SLOTS,
            runs_per_tenant_max: RUNS_PER_TENANT_MAX,
            lease: self.plan.lease,
            drain: DRAIN,
            redrive_every: REDRIVE_EVERY,
        };
        Worker::new(deps, options).run(stop).await;
    }

    async fn projector(&self, process: Arc<Process>, health: Health, stop: CancellationToken) {
        let Handles { reader, .. } = self.handles(&process);
        let tables = SimulatedTables {
            database: self.database.clone(),
            models: self.models.clone(),
            process,
        };
        Projector::on(Arc::new(tables), reader, health, vec![&RunList])
            .run(stop)
            .await;
    }
}

fn tenant(name: &str, database: &Database) -> Tenant {
    let id: TenantId = name.parse().unwrap_or_default();
    let (row, key, hash) = new_api_key(id.clone(), name, "*", None);
    database.rows().api_keys.insert(hash, row);
    Tenant { id, key }
}

/// The built-in agent, with the simulated tools.
pub fn agents() -> Result<Arc<Agents>, String> {
    let tools: BTreeMap<String, bool> = [("clock", true), (WORK, true), (SEND, false)]
        .map(|(name, safe)| (name.to_owned(), safe))
        .into();
    Agents::load(None, &tools, &Default::default())
        .map(Arc::new)
        .map_err(|error| error.to_string())
}

/// Lists are not asked for.
struct NoLists;

fn none<T>() -> Listed<T> {
    Listed {
        data: Vec::new(),
        has_more: false,
    }
}

#[async_trait]
impl ReadPort for NoLists {
    async fn runs(&self, _: &TenantId, _: &RunFilter, _: &Page) -> Result<Listed<RunRow>, Error> {
        Ok(none())
    }
    async fn sessions(&self, _: &TenantId, _: &Page) -> Result<Listed<SessionRow>, Error> {
        Ok(none())
    }
    async fn messages(&self, _: &TenantId, _: SessionId, _: &Page) -> Result<Listed<MessageRow>, Error> {
        Ok(none())
    }
    async fn usage(&self, _: &TenantId, _: u32) -> Result<Vec<UsageRow>, Error> {
        Ok(Vec::new())
    }
    async fn wait_for(&self, _: Position) -> Result<bool, Error> {
        Ok(true)
    }
}
