//! `steadfast migrate`: the schema, the read models' tables and the queue's stream, as this build needs them.

use std::process::ExitCode;

use async_nats::ConnectOptions;
use steadfast::{queue::JetStreamQueue, store::Db};

use crate::{
    args, compose,
    config::Settings,
    error::{Context, Failure},
    nats, output,
    secret::shown_url,
};

/// How long NATS is waited for.
const NATS_WAIT: std::time::Duration = std::time::Duration::from_secs(10);

pub async fn migrate(settings: &Settings, args: args::Migrate) -> Result<ExitCode, Failure> {
    let url = compose::postgres_url(settings, args.servers.database.as_deref())?;
    let db = Db::connect(url.expose()).await?;
    let place = shown_url(url.expose());
    let missing = compose::missing_migrations(&db, &url, compose::DATABASE_WAIT).await?;
    db.migrate().await?;
    match missing.len() {
        0 => output::line(&format!("database  {place}: the schema is up to date"))?,
        _ => output::line(&format!("database  {place}: migrated ({})", missing.join(", ")))?,
    }
    steadfast_projections::create_tables(&db).await?;
    if args.restored {
        let generation = db
            .begin_generation()
            .await
            .context("beginning a new generation of the log")?;
        output::line(&format!(
            "log       new events are of generation {generation}, after all that were restored"
        ))?;
    }
    compose::check_home(&db).await?;
    queue(settings, args.servers.nats.as_deref()).await?;
    super::close(&db).await;
    Ok(ExitCode::SUCCESS)
}

/// Workers make the stream too when they miss it; here a server that cannot be used is found before they start.
async fn queue(settings: &Settings, flag: Option<&str>) -> Result<(), Failure> {
    let Some(found) = settings.nats(flag)? else {
        return output::line("queue     skipped: NATS_URL is not set");
    };
    let place = shown_url(found.url.expose());
    let options = ConnectOptions::new()
        .name("steadfast migrate")
        .retry_on_initial_connect();
    let client = nats::connect(options, &found.url).await?;
    if !nats::answers(&client, NATS_WAIT).await {
        let seconds = NATS_WAIT.as_secs();
        return output::line(&format!(
            "queue     NATS at {place} did not answer within {seconds} s; workers make the stream when it does"
        ));
    }
    let version = client.server_info().version;
    JetStreamQueue::new(client, compose::queue_options(&found)).await?;
    output::line(&format!(
        "queue     {place}: nats-server {version}, the stream is there"
    ))
}
