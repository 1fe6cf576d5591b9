//! `steadfast dev`: every room in one process, on SQLite and in-process queue and feed.

use std::{process::ExitCode, sync::Arc};

use steadfast::{
    agents::Agents,
    feed::{LiveFeed, LocalFeed},
    health::Health,
    metrics,
    queue::{CommandQueue, LocalQueue},
    store::{Store, own_thread},
};
use steadfast_gateway::{Deps, Gateway, Identity};
use steadfast_projections::{Projector, Reads};
use steadfast_workers::{Worker, WorkerDeps, WorkerOptions};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::sqlite_url;
use crate::{
    args, compose, config::Settings, edge, error::Failure, listen::Place, lock::DataDirLock, output, shutdown,
};

/// One worker for each data directory, alone by the lock: its name may be the same in every life of the process, so
/// that the next one knows which leases died with the last.
const WORKER_ID: &str = "dev";

pub async fn dev(settings: &Settings, args: args::Dev) -> Result<ExitCode, Failure> {
    // What can be wrong in the configuration is said before anything is touched.
    let place = Place::resolve(&settings.host(args.host.as_deref()), args.port).await?;
    let identity = settings.identity()?.identity(place.host(), place.is_loopback())?;
    let worker_settings = settings.worker()?;
    let model = compose::model_in_words(&settings.model()?);
    let models = compose::models(settings)?;
    let tools = compose::toolbox(settings);
    let agents_dir = settings.agents(args.agents.as_deref());
    let agents = compose::agents(&agents_dir, &tools, settings)?;
    compose::check_models(&agents, &models).await?;

    let _lock = DataDirLock::take(&args.data_dir)?;
    let (listener, address) = place.listen().await?;
    let store = Store::open(sqlite_url(&args.data_dir).expose()).await?;
    store.db.migrate().await?;
    steadfast_projections::create_tables(&store.db).await?;
    let woken = store.reader.make_due(Some(WORKER_ID)).await?;
    if woken > 0 {
        tracing::info!(runs = woken, "going on with the runs that were open");
    }

    let health = Health::default();
    let queue: Arc<dyn CommandQueue> = Arc::new(LocalQueue::new(edge::new_id()));
    let feed: Arc<dyn LiveFeed> = Arc::new(LocalFeed::default());
    let open = matches!(identity, Identity::Open);
    let gateway = Gateway::new(Deps {
        store: store.handles(),
        queue: queue.clone(),
        feed: feed.clone(),
        reads: Arc::new(Reads::new(store.db.clone())),
        agents: agents.clone(),
        health: health.clone(),
        identity,
        limits: settings.gateway_limits(),
    });
    let deps = WorkerDeps {
        store: store.handles(),
        queue,
        feed,
        models,
        tools: Arc::new(tools),
        health: health.clone(),
    };
    let options = WorkerOptions {
        id: WORKER_ID.into(),
        slots: worker_settings.slots,
        runs_per_tenant_max: worker_settings.runs_per_tenant_max,
        lease: worker_settings.lease,
        drain: worker_settings.drain,
        ..WorkerOptions::default()
    };
    let projector = Projector::new(store.db.clone(), store.reader.clone(), health);

    let shutdown = shutdown::on_signal()?;
    metrics::flow()
        .up
        .with_label_values(&["dev", env!("CARGO_PKG_VERSION")])
        .set(1);
    let parts = TaskTracker::new();
    let serving = shutdown.clone();
    parts.spawn(async move { steadfast_gateway::serve(gateway, listener, serving).await });
    parts.spawn(Worker::new(deps, options).run(shutdown.clone()));
    // The projector follows to the end what the others still do.
    let projecting = CancellationToken::new();
    // On a thread of its own its statements change no threads.
    let projection = own_thread("project", projector.run(projecting.clone()));

    output::line(&banner(
        &address.to_string(),
        &model,
        open,
        &agents,
        &args.data_dir.display().to_string(),
    ))?;
    shutdown.cancelled().await;
    shutdown::drained(parts, worker_settings.drain).await;
    projecting.cancel();
    let _ = projection.await;
    super::close(&store.db).await;
    Ok(ExitCode::SUCCESS)
}

/// What a newcomer reads first.
fn banner(address: &str, model: &str, open: bool, agents: &Agents, data_dir: &str) -> String {
    let url = format!("http://{address}");
    let names: Vec<&str> = agents.iter().map(|agent| agent.name.as_str()).collect();
    let identity = if open {
        "none needed on a loopback address: everyone here is the tenant \"default\""
    } else {
        "a token or an API key; put one into STEADFAST_API_KEY for the commands below"
    };
    let header = if open {
        ""
    } else {
        " -H \"authorization: Bearer $STEADFAST_API_KEY\""
    };
    // Under cargo the binary is not on the path.
    let steadfast = if std::env::var_os("CARGO").is_some() {
        "cargo run -q --"
    } else {
        "steadfast"
    };
    let to = if address == "127.0.0.1:8080" {
        String::new()
    } else {
        format!(" --url {url}")
    };
    format!(
        "Steadfast listens on {url}
  model     {model}
  identity  {identity}
  agents    {}
  data      {data_dir} (one writer at a time; delete it to begin anew)

Try, in another terminal:
  curl -N {url}/v1/runs{header} -H 'content-type: application/json' -d '{{\"input\": \"What is 6 * 7?\", \"stream\": true}}'
  {steadfast} run{to} \"What time is it?\"
  {steadfast} runs list{to}

Ctrl-C stops it; what is under way goes on at the next start.",
        names.join(", "),
    )
}
