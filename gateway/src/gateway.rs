//! What every request shares.

use std::{collections::BTreeMap, ops::Deref, sync::Arc};

use sha2::{Digest, Sha256};
use steadfast::{
    agents::Agents,
    feed::{Hub, LiveFeed, Subscription},
    health::Health,
    queue::CommandQueue,
    read::ReadModels,
    run::{Agent, AgentRef, RunId},
    store::{self, Handles, Loaded},
};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use crate::{
    announce::Announcer,
    demand::DemandView,
    identity::{Doorkeeper, Identity, Who},
    limits::{GatewayLimits, SUBSCRIBE_MAX},
    problem::Problem,
    rate::RateLimit,
    stream::{follow::Sources, slots::Slots},
};

/// What a gateway is made of.
pub struct Deps {
    pub store: Handles,
    pub queue: Arc<dyn CommandQueue>,
    pub feed: Arc<dyn LiveFeed>,
    pub reads: Arc<dyn ReadModels>,
    pub agents: Arc<Agents>,
    pub health: Health,
    pub identity: Identity,
    pub limits: GatewayLimits,
}

/// The gateway of one process.
#[derive(Clone)]
pub struct Gateway(Arc<Shared>);

pub struct Shared {
    pub store: Handles,
    pub feed: Arc<dyn LiveFeed>,
    pub reads: Arc<dyn ReadModels>,
    pub agents: Arc<Agents>,
    pub health: Health,
    pub limits: GatewayLimits,
    pub doorkeeper: Doorkeeper,
    pub rate: RateLimit,
    pub demand: DemandView,
    pub announcer: Announcer,
    pub slots: Slots,
    /// Cancelled when this process should end: streams end, long polls answer.
    pub draining: CancellationToken,
    agents_kept: OnceCell<()>,
    versions: BTreeMap<String, AgentRef>,
}

impl Gateway {
    pub fn new(deps: Deps) -> Self {
        let Deps {
            store,
            queue,
            feed,
            reads,
            agents,
            health,
            identity,
            limits,
        } = deps;
        Self(Arc::new(Shared {
            demand: DemandView::default(),
            rate: RateLimit::new(limits.requests_per_minute_for(&identity)),
            doorkeeper: Doorkeeper::new(identity),
            announcer: Announcer::new(queue, feed.clone()),
            slots: Slots::new(limits.streams_max, limits.streams_per_tenant_max),
            draining: CancellationToken::new(),
            versions: agents
                .iter()
                .map(|agent| (agent.name.clone(), agent.reference()))
                .collect(),
            agents_kept: OnceCell::new(),
            store,
            feed,
            reads,
            agents,
            health,
            limits,
        }))
    }
}

impl Gateway {
    /// Keeps an eye on what waits for the workers, until told to stop.
    pub async fn watch_demand(self, stop: CancellationToken) {
        self.demand.keep(&self.store.reader, &stop).await;
    }
}

impl Deref for Gateway {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl Shared {
    /// Keeps every agent's definition in the store, once: a run pins one by the hash of its bytes, and a worker must
    /// find it there.
    pub async fn keep_agents(&self) -> Result<(), store::Error> {
        let keep = || async {
            for agent in self.agents.iter() {
                let definition = agent.canonical();
                self.store
                    .reader
                    .put_blob(&Sha256::digest(&definition).into(), definition.as_bytes())
                    .await?;
            }
            Ok(())
        };
        self.agents_kept.get_or_try_init(keep).await.copied()
    }

    /// The caller's run. Another tenant's does not exist.
    pub async fn load(&self, who: &Who, run_id: RunId) -> Result<Loaded, Problem> {
        match self.store.reader.load(run_id).await? {
            Some(loaded) if loaded.head.tenant == who.tenant => Ok(loaded),
            _ => Err(Problem::no_such_run(&run_id.to_string())),
        }
    }

    /// The head of the caller's run.
    pub async fn head(&self, who: &Who, run_id: RunId) -> Result<store::Head, Problem> {
        match self.store.reader.head(run_id).await? {
            Some(head) if head.tenant == who.tenant => Ok(head),
            _ => Err(Problem::no_such_run(&run_id.to_string())),
        }
    }

    /// The version of an agent that a run pins. Hashing the definition for each run would cost more than the rest.
    pub fn version_of(&self, agent: &Agent) -> AgentRef {
        self.versions
            .get(&agent.name)
            .cloned()
            .unwrap_or_else(|| agent.reference())
    }

    /// Watches a run. While the feed is away nothing is heard, and whoever watches lives on looks at the store.
    pub async fn watch(&self, run_id: RunId) -> Subscription {
        let subscribed = tokio::time::timeout(SUBSCRIBE_MAX, self.feed.subscribe(run_id)).await;
        subscribed.unwrap_or_else(|_| Hub::default().subscribe(run_id))
    }

    /// What a stream draws on.
    pub fn sources(&self) -> Sources {
        Sources {
            reader: self.store.reader.clone(),
            feed: self.feed.clone(),
            draining: self.draining.clone(),
            age_max: self.limits.stream_age_max(),
        }
    }
}
