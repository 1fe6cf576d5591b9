//! Building what the rooms stand on, from settings. The same for `dev` and the separate roles, but for the adapters.

use std::{path::Path, sync::Arc, time::Duration};

use async_nats::ConnectOptions;
use steadfast::{
    agents::{Agents, AgentsError},
    feed::{LiveFeed, NatsFeed},
    queue::{CommandQueue, JetStreamQueue, QueueOptions},
    run::agent::DEFAULT_PROVIDER,
    store::{Db, Error, Store, home},
};
use steadfast_workers::{
    model::{ApiKey, Bulkheads, DEFAULT_BASE_URL, Models, OpenAiOptions},
    tools::{Echo, HttpGetOptions, Toolbox},
};
use tokio::time::Instant;

use crate::{
    config::{ModelSettings, NatsSettings, Settings},
    error::{Context, Failure},
    nats,
    secret::{Secret, shown_url},
};

/// A database that is not there yet is waited for this long by whoever can do nothing without it: roles are often started together with it.
pub const DATABASE_WAIT: Duration = Duration::from_secs(60);
const DATABASE_PAUSE: Duration = Duration::from_secs(1);
/// NATS is given this long to answer before a role goes on without it.
const NATS_WAIT: Duration = Duration::from_secs(3);

/// The messages between processes.
pub struct Messages {
    pub queue: Arc<dyn CommandQueue>,
    pub feed: Arc<dyn LiveFeed>,
}

/// Opens the roles' database, waits until it answers, and makes sure that its schema is this build's.
pub async fn shared_store(settings: &Settings, flag: Option<&str>) -> Result<Store, Failure> {
    let url = postgres_url(settings, flag)?;
    let db = Db::connect(url.expose()).await?;
    check_schema(&db, &url, DATABASE_WAIT).await?;
    Ok(Store::on(db))
}

/// The roles' database for a role that can say something useful without it: the store at once, answering or not, and
/// what is wrong with its schema, once that is known.
pub async fn shared_store_soon(
    settings: &Settings,
    flag: Option<&str>,
) -> Result<(Store, impl Future<Output = Result<(), Failure>> + use<>), Failure> {
    let url = postgres_url(settings, flag)?;
    let db = Db::connect(url.expose()).await?;
    let checked = db.clone();
    Ok((Store::on(db), async move {
        check_schema(&checked, &url, Duration::MAX).await
    }))
}

async fn check_schema(db: &Db, url: &Secret, wait: Duration) -> Result<(), Failure> {
    let missing = missing_migrations(db, url, wait).await?;
    if missing.is_empty() {
        return check_home(db).await;
    }
    let names = missing.join(", ");
    Err(Failure::new(format!(
        "the database lacks migrations ({names}); run `steadfast migrate` first"
    )))
}

/// Refuses a log that was restored from another cluster and has not been told.
pub async fn check_home(db: &Db) -> Result<(), Failure> {
    match db.log_is_strange().await? {
        None => Ok(()),
        Some(reason) => Err(Failure::new(format!("{reason}; {}", home::REMEDY))),
    }
}

/// The address of the Postgres that separate processes share.
pub fn postgres_url(settings: &Settings, flag: Option<&str>) -> Result<Secret, Failure> {
    let missing = "DATABASE_URL is not set; point it (or --database) at Postgres, such as postgres://user@host/steadfast. \
                   `steadfast dev` needs none";
    let url = settings.database(flag).ok_or_else(|| Failure::new(missing))?;
    if url.expose().starts_with("sqlite:") {
        let message = "separate roles share a Postgres, not a SQLite file; use `steadfast dev` for SQLite";
        return Err(Failure::new(message));
    }
    Ok(url)
}

/// What the schema lacks, once the database answers.
pub async fn missing_migrations(db: &Db, url: &Secret, wait: Duration) -> Result<Vec<String>, Failure> {
    let began = Instant::now();
    let place = shown_url(url.expose());
    let mut told = false;
    loop {
        match db.missing_migrations().await {
            Ok(missing) => return Ok(missing),
            Err(error @ Error::Unavailable(_)) if began.elapsed() < wait => {
                if !told {
                    tracing::info!(database = %place, %error, "waiting for the database");
                    told = true;
                }
                tokio::time::sleep(DATABASE_PAUSE).await;
            }
            Err(error) => return Err(error).context(format!("opening {place}")),
        }
    }
}

/// Where NATS is; the roles cannot do without.
pub fn nats_settings(settings: &Settings, flag: Option<&str>) -> Result<NatsSettings, Failure> {
    let missing = "NATS_URL is not set; point it (or --nats) at a NATS server with JetStream, such as \
                   nats://127.0.0.1:4222. `steadfast dev` needs none";
    settings.nats(flag)?.ok_or_else(|| Failure::new(missing))
}

/// Connects to NATS. Being away is no error: what depends on it goes on when it returns.
pub async fn messages(settings: NatsSettings, name: &str) -> Result<Messages, Failure> {
    let (cut, callback) = NatsFeed::connection_watch();
    let options = ConnectOptions::new()
        .name(name)
        .retry_on_initial_connect()
        .event_callback(move |event| {
            tracing::info!(%event, "NATS connection");
            callback(event)
        });
    let client = nats::connect(options, &settings.url).await?;
    if !nats::answers(&client, NATS_WAIT).await {
        tracing::warn!(nats = %shown_url(settings.url.expose()), "NATS does not answer; going on, and connecting when it does");
    }
    let feed = NatsFeed::new(client.clone(), &settings.prefix, cut);
    let queue = JetStreamQueue::new(client, queue_options(&settings)).await?;
    Ok(Messages {
        queue: Arc::new(queue),
        feed: Arc::new(feed),
    })
}

pub fn queue_options(settings: &NatsSettings) -> QueueOptions {
    QueueOptions {
        prefix: settings.prefix.clone(),
        pool: settings.pool.clone(),
        replicas: settings.replicas,
    }
}

pub const DEFAULT_AGENTS: &str = "agents";

pub fn toolbox(settings: &Settings) -> Toolbox {
    let allow_hosts = settings.http_get_allow_hosts().iter().cloned().collect();
    Toolbox::builtin(HttpGetOptions {
        allow_hosts,
        ..HttpGetOptions::default()
    })
    .with(Echo)
}

/// The agents of a directory. Only the one that nobody named need not be there.
pub fn agents(dir: &Path, tools: &Toolbox, settings: &Settings) -> Result<Arc<Agents>, Failure> {
    if dir != Path::new(DEFAULT_AGENTS) && !dir.is_dir() {
        return Err(Failure::new(format!(
            "the directory of agent files {} is not there; it was named by --agents, STEADFAST_AGENTS or `agents` in \
             steadfast.toml: correct it, or leave it out",
            dir.display()
        )));
    }
    Ok(Arc::new(Agents::load(
        Some(dir),
        &tools.known(),
        &settings.provider_names(),
    )?))
}

/// Refuses agents whose model nobody can answer for; all of them are named at once.
pub async fn check_models(agents: &Agents, models: &Models) -> Result<(), Failure> {
    let mut problems = Vec::new();
    for model in agents.models() {
        if let Some(objection) = models.objection(&model.name).await {
            problems.push(model.problem(format!("{:?}: {objection}", model.name)));
        }
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(AgentsError { problems }.into())
    }
}

/// The models of all providers, and how many calls each may have at the same time.
pub fn models(settings: &Settings) -> Result<Arc<Models>, Failure> {
    let (model, worker) = (settings.model()?, settings.worker()?);
    let mut bulkheads = Bulkheads {
        per_model: worker.slots,
        per_tenant: worker.calls_per_tenant_max,
        ..Bulkheads::default()
    };
    let mut limit = |name: &str, calls: Option<usize>| {
        bulkheads
            .per_provider
            .extend(calls.map(|calls| (name.to_owned(), calls)));
    };
    limit(DEFAULT_PROVIDER, model.concurrency_max);
    let configured = model.base_url.is_some() || model.api_key.is_some();
    let provider = configured.then(|| OpenAiOptions {
        base_url: model.base_url.unwrap_or_else(|| DEFAULT_BASE_URL.into()),
        api_key: model.api_key.map(|key| ApiKey::new(key.expose())),
        timeouts: model.timeouts,
    });
    let mut models = Models::new(model.name, provider)?;
    for provider in settings.providers()? {
        limit(&provider.name, provider.concurrency_max);
        let options = OpenAiOptions {
            base_url: provider.base_url,
            api_key: provider.api_key.map(|key| ApiKey::new(key.expose())),
            timeouts: provider.timeouts,
        };
        let name = provider.name.clone();
        models = models
            .with_provider(provider.name, options)
            .context(format!("providers.{name}"))?;
    }
    Ok(Arc::new(models.with_bulkheads(bulkheads)))
}

/// Which model answers for the default agent, and why.
pub fn model_in_words(settings: &ModelSettings) -> String {
    const SET: &str = "OPENAI_BASE_URL, OPENAI_API_KEY and STEADFAST_MODEL";
    let place = match (&settings.base_url, &settings.api_key) {
        (Some(url), _) => format!("{} (OPENAI_BASE_URL)", shown_url(url)),
        (None, Some(_)) => format!("{DEFAULT_BASE_URL} (OPENAI_API_KEY is set)"),
        (None, None) => {
            return format!("the built-in scripted model, because no provider is configured: set {SET} for a real one");
        }
    };
    match &settings.name {
        Some(name) => format!("{name} (STEADFAST_MODEL) at {place}"),
        None => format!("the one offered by {place}, because STEADFAST_MODEL is not set"),
    }
}
