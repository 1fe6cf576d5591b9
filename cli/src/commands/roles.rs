//! The separate roles: the same rooms as `dev`, each in its own processes, on Postgres and NATS.

use std::{process::ExitCode, sync::Arc, time::Duration};

use steadfast::{health::Health, metrics};
use steadfast_gateway::{Deps, Gateway, Identity};
use steadfast_projections::{Projector, Reads};
use steadfast_workers::{Worker, WorkerDeps, WorkerOptions};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    args::{self, Role},
    compose,
    config::Settings,
    edge,
    error::Failure,
    listen::Place,
    shutdown,
};

const GATEWAY_PORT: u16 = 8080;
const WORKER_PORT: u16 = 8081;
const PROJECTOR_PORT: u16 = 8082;
/// What the roles without runs in hand get to end.
const DRAIN: Duration = Duration::from_secs(10);
/// A gateway waits this long for the database before it listens without it.
const DATABASE_FIRST_WAIT: Duration = Duration::from_secs(2);

pub async fn gateway(settings: &Settings, args: args::Gateway) -> Result<ExitCode, Failure> {
    let place = Place::resolve(
        &settings.host(args.role.host.as_deref()),
        args.role.port.unwrap_or(GATEWAY_PORT),
    )
    .await?;
    let identity = settings.identity()?.identity(place.host(), place.is_loopback())?;
    let agents_dir = settings.agents(args.agents.as_deref());
    let agents = compose::agents(&agents_dir, &compose::toolbox(settings), settings)?;
    let nats = compose::nats_settings(settings, args.role.servers.nats.as_deref())?;
    let shutdown = shutdown::on_signal()?;

    let Some((store, messages, unchecked)) = shutdown::unless_stopped(&shutdown, async {
        let (store, schema) = compose::shared_store_soon(settings, args.role.servers.database.as_deref()).await?;
        let mut schema = Box::pin(schema);
        // A database that is there is checked before anyone is served; one that is away is no reason to be away, too:
        // clients are told 503 and when to come again.
        let unchecked = match tokio::time::timeout(DATABASE_FIRST_WAIT, &mut schema).await {
            Ok(checked) => checked.map(|()| None)?,
            Err(_) => Some(schema),
        };
        Ok((store, compose::messages(nats, "steadfast gateway").await?, unchecked))
    })
    .await?
    else {
        return Ok(ExitCode::SUCCESS);
    };
    let (listener, address) = place.listen().await?;
    if matches!(identity, Identity::Open) {
        tracing::warn!("no identity is configured: everyone on this machine is the tenant \"default\"");
    }
    let gateway = Gateway::new(Deps {
        store: store.handles(),
        reads: Arc::new(Reads::new(store.db)),
        queue: messages.queue,
        feed: messages.feed,
        agents,
        health: Health::default(),
        identity,
        limits: settings.gateway_limits(),
    });
    up("gateway", &address.to_string());
    let parts = TaskTracker::new();
    let serving = shutdown.clone();
    parts.spawn(async move { steadfast_gateway::serve(gateway, listener, serving).await });
    let mut ended = Ok(ExitCode::SUCCESS);
    if let Some(schema) = unchecked {
        tokio::select! {
            checked = schema => if let Err(failure) = checked {
                ended = Err(failure);
                shutdown.cancel();
            },
            () = shutdown.cancelled() => {}
        }
    }
    shutdown.cancelled().await;
    shutdown::drained(parts, DRAIN).await;
    ended
}

pub async fn worker(settings: &Settings, args: Role) -> Result<ExitCode, Failure> {
    let place = Place::resolve(&settings.host(args.host.as_deref()), args.port.unwrap_or(WORKER_PORT)).await?;
    let worker = settings.worker()?;
    let model = compose::model_in_words(&settings.model()?);
    let models = compose::models(settings)?;
    // Runs bring their agents with them; the files that lie here are checked, because only a worker knows its models.
    let tools = compose::toolbox(settings);
    let agents = compose::agents(&settings.agents(None), &tools, settings)?;
    compose::check_models(&agents, &models).await?;
    let nats = compose::nats_settings(settings, args.servers.nats.as_deref())?;
    let shutdown = shutdown::on_signal()?;

    let Some((store, messages)) = shutdown::unless_stopped(&shutdown, async {
        let store = compose::shared_store(settings, args.servers.database.as_deref()).await?;
        Ok((store, compose::messages(nats, "steadfast worker").await?))
    })
    .await?
    else {
        return Ok(ExitCode::SUCCESS);
    };
    let (listener, address) = place.listen().await?;
    let health = Health::default();
    let deps = WorkerDeps {
        store: store.handles(),
        queue: messages.queue,
        feed: messages.feed,
        models,
        tools: Arc::new(tools),
        health: health.clone(),
    };
    let id = edge::worker_id();
    tracing::info!(worker = %id, slots = worker.slots, lease_ms = worker.lease.as_millis(), %model, "executing runs");
    let options = WorkerOptions {
        id,
        slots: worker.slots,
        runs_per_tenant_max: worker.runs_per_tenant_max,
        lease: worker.lease,
        drain: worker.drain,
        ..WorkerOptions::default()
    };
    up("worker", &address.to_string());
    // While it drains it still answers: its metrics are wanted most then.
    let serving = CancellationToken::new();
    let ops = serve_ops(health, listener, &serving);
    let parts = TaskTracker::new();
    parts.spawn(Worker::new(deps, options).run(shutdown.clone()));
    shutdown.cancelled().await;
    shutdown::drained(parts, worker.drain).await;
    serving.cancel();
    shutdown::drained(ops, Duration::ZERO).await;
    Ok(ExitCode::SUCCESS)
}

pub async fn projector(settings: &Settings, args: Role) -> Result<ExitCode, Failure> {
    let place = Place::resolve(
        &settings.host(args.host.as_deref()),
        args.port.unwrap_or(PROJECTOR_PORT),
    )
    .await?;
    let shutdown = shutdown::on_signal()?;

    let store = compose::shared_store(settings, args.servers.database.as_deref());
    let Some(store) = shutdown::unless_stopped(&shutdown, store).await? else {
        return Ok(ExitCode::SUCCESS);
    };
    let (listener, address) = place.listen().await?;
    let health = Health::default();
    let projector = Projector::new(store.db.clone(), store.reader.clone(), health.clone());
    up("projector", &address.to_string());
    let ops = serve_ops(health, listener, &shutdown);
    let parts = TaskTracker::new();
    parts.spawn(projector.run(shutdown.clone()));
    shutdown.cancelled().await;
    shutdown::drained(parts, DRAIN).await;
    shutdown::drained(ops, Duration::ZERO).await;
    Ok(ExitCode::SUCCESS)
}

fn serve_ops(health: Health, listener: TcpListener, shutdown: &CancellationToken) -> TaskTracker {
    let (tracker, shutdown) = (TaskTracker::new(), shutdown.clone());
    tracker.spawn(async move { steadfast_gateway::serve_ops(health, listener, shutdown).await });
    tracker
}

fn up(role: &str, address: &str) {
    metrics::flow()
        .up
        .with_label_values(&[role, env!("CARGO_PKG_VERSION")])
        .set(1);
    tracing::info!("{role} listens on http://{address}");
}
