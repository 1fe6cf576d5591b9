//! `steadfast doctor`: what is reachable, and what to do about the rest.

use std::{process::ExitCode, time::Duration};

use async_nats::ConnectOptions;
use serde::Serialize;
use serde_json::Value;
use steadfast::{
    queue::JetStreamQueue,
    store::{Db, sql::Row},
};

use super::{database_url, yes_or_no};
use crate::{
    args,
    client::{http_client, is_loopback, reason},
    compose,
    config::{DEFAULT_PATH, Settings},
    error::Failure,
    nats,
    output::{self, clean},
    secret::{Secret, shown_url},
};

const DATABASE_WAIT: Duration = Duration::from_secs(8);
const NATS_WAIT: Duration = Duration::from_secs(5);
const PROVIDER_WAIT: Duration = Duration::from_secs(10);
/// A transaction open for longer holds the projections back.
const TRANSACTION_SECONDS_MAX: i64 = 30;
const POSTGRES_MAJOR_MIN: i64 = 15;
const MODELS_SHOWN_MAX: usize = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

/// One line of the diagnosis.
#[derive(Debug, Serialize)]
struct Finding {
    verdict: Verdict,
    part: &'static str,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

#[derive(Default)]
struct Diagnosis(Vec<Finding>);

impl Diagnosis {
    fn ok(&mut self, part: &'static str, found: impl Into<String>) {
        self.0.push(Finding {
            verdict: Verdict::Ok,
            part,
            found: found.into(),
            remedy: None,
        });
    }

    fn trouble(&mut self, verdict: Verdict, part: &'static str, found: impl Into<String>, remedy: &str) {
        self.0.push(Finding {
            verdict,
            part,
            found: found.into(),
            remedy: Some(remedy.into()),
        });
    }
}

pub async fn doctor(settings: &Settings, args: args::Doctor) -> Result<ExitCode, Failure> {
    let mut diagnosis = Diagnosis::default();
    match &settings.path {
        Some(path) => diagnosis.ok("settings", format!("{} and the environment", path.display())),
        None => diagnosis.ok("settings", format!("the environment (there is no {DEFAULT_PATH})")),
    }
    database(&mut diagnosis, settings, &args.database).await;
    queue(&mut diagnosis, settings, args.nats.as_deref()).await?;
    provider(&mut diagnosis, settings).await?;
    let dir = settings.agents(args.agents.as_deref());
    match compose::agents(&dir, &compose::toolbox(settings)) {
        Ok(agents) => {
            let names: Vec<&str> = agents.iter().map(|agent| agent.name.as_str()).collect();
            diagnosis.ok("agents", format!("{} ({})", names.join(", "), dir.display()));
        }
        Err(failure) => diagnosis.trouble(
            Verdict::Fail,
            "agents",
            failure.to_string(),
            "correct the files; nothing starts before",
        ),
    }
    if let Err(failure) = settings.worker() {
        diagnosis.trouble(Verdict::Fail, "worker", failure.to_string(), "correct the value");
    }
    let Diagnosis(findings) = diagnosis;
    if args.json {
        output::json(&findings)?
    } else {
        output::write(&in_words(&findings))?
    }
    Ok(yes_or_no(
        findings.iter().all(|finding| finding.verdict != Verdict::Fail),
    ))
}

fn in_words(findings: &[Finding]) -> String {
    let mut text = String::new();
    for Finding {
        verdict,
        part,
        found,
        remedy,
    } in findings
    {
        let word = match verdict {
            Verdict::Ok => "ok  ",
            Verdict::Warn => "warn",
            Verdict::Fail => "FAIL",
        };
        text += &format!("{word}  {part:<9} {}\n", clean(found));
        if let Some(remedy) = remedy {
            text += &format!("{:16}{remedy}\n", "");
        }
    }
    text
}

async fn database(diagnosis: &mut Diagnosis, settings: &Settings, args: &args::Database) {
    const PART: &str = "database";
    let url = match database_url(settings, args) {
        Ok(url) => url,
        Err(failure) => {
            return diagnosis.trouble(Verdict::Warn, PART, failure.to_string(), "`steadfast dev` makes one");
        }
    };
    let place = shown_url(url.expose());
    let examined = tokio::time::timeout(DATABASE_WAIT, examine(diagnosis, &url, &place)).await;
    let trouble = match examined {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {} s", DATABASE_WAIT.as_secs()),
    };
    let remedy = "check the address, the password, and whether the server runs";
    diagnosis.trouble(Verdict::Fail, PART, format!("{place}: {trouble}"), remedy);
}

async fn examine(diagnosis: &mut Diagnosis, url: &Secret, place: &str) -> Result<(), steadfast::store::Error> {
    const PART: &str = "database";
    let db = Db::connect(url.expose()).await?;
    let missing = db.missing_migrations().await?;
    if db.is_postgres() {
        examine_postgres(diagnosis, &db, place).await?;
    } else {
        let rows = db.fetch("select sqlite_version() as version", &[]).await?;
        let version: String = first(&rows)?.get("version")?;
        diagnosis.ok(PART, format!("{place}: SQLite {version}"));
    }
    if missing.is_empty() {
        diagnosis.ok("schema", "up to date");
    } else {
        let found = format!("migrations are missing: {}", missing.join(", "));
        let remedy = if db.is_postgres() {
            "run `steadfast migrate`"
        } else {
            "run `steadfast dev`"
        };
        diagnosis.trouble(Verdict::Fail, "schema", found, remedy);
    }
    db.close().await;
    Ok(())
}

async fn examine_postgres(diagnosis: &mut Diagnosis, db: &Db, place: &str) -> Result<(), steadfast::store::Error> {
    const PART: &str = "database";
    let rows = db
        .fetch(
            "select current_setting('server_version') as version,
                    current_setting('server_version_num')::bigint / 10000 as major,
                    current_setting('fsync') as fsync, current_setting('synchronous_commit') as commits",
            &[],
        )
        .await?;
    let row = first(&rows)?;
    let (version, major): (String, i64) = (row.get("version")?, row.get("major")?);
    if major < POSTGRES_MAJOR_MIN {
        let found = format!("{place}: Postgres {version} is too old");
        diagnosis.trouble(
            Verdict::Fail,
            PART,
            found,
            &format!("use Postgres {POSTGRES_MAJOR_MIN} or later"),
        );
    } else {
        diagnosis.ok(PART, format!("{place}: Postgres {version}"));
    }
    let (fsync, commits): (String, String) = (row.get("fsync")?, row.get("commits")?);
    if fsync != "on" || commits == "off" {
        let found = format!("fsync is {fsync}, synchronous_commit is {commits}: a crash can take accepted runs");
        diagnosis.trouble(Verdict::Warn, PART, found, "switch both on");
    }
    // Whoever holds a snapshot or a transaction id keeps readers of the log from what came after.
    let rows = db
        .fetch(
            "select coalesce(max(extract(epoch from now() - xact_start)), 0)::bigint as seconds from pg_stat_activity
             where (backend_xid is not null or backend_xmin is not null) and pid <> pg_backend_pid()
               and datname = current_database()",
            &[],
        )
        .await?;
    let seconds: i64 = first(&rows)?.get("seconds")?;
    if seconds > TRANSACTION_SECONDS_MAX {
        let found = format!("a transaction has been open for {seconds} s: read models stand still behind it");
        diagnosis.trouble(
            Verdict::Warn,
            "log",
            found,
            "find it in pg_stat_activity (oldest xact_start) and end it",
        );
    } else {
        diagnosis.ok("log", format!("the oldest open transaction is {seconds} s old"));
    }
    Ok(())
}

fn first(rows: &[Row]) -> Result<&Row, steadfast::store::Error> {
    rows.first()
        .ok_or_else(|| steadfast::store::Error::Refused("no row came back".into()))
}

async fn queue(diagnosis: &mut Diagnosis, settings: &Settings, flag: Option<&str>) -> Result<(), Failure> {
    const PART: &str = "nats";
    let Some(found) = settings.nats(flag)? else {
        diagnosis.ok(PART, "not configured; `steadfast dev` needs none");
        return Ok(());
    };
    let place = shown_url(found.url.expose());
    let options = ConnectOptions::new()
        .name("steadfast doctor")
        .connection_timeout(NATS_WAIT);
    let client = match nats::connect(options, &found.url).await {
        Ok(client) => client,
        Err(failure) => {
            let remedy = "start it with -js, or correct NATS_URL; runs are accepted meanwhile, and wait";
            diagnosis.trouble(Verdict::Fail, PART, failure.to_string(), remedy);
            return Ok(());
        }
    };
    let version = client.server_info().version;
    // Makes the stream if it is missing, as the first worker would: there is no other way to know that it can be made.
    match JetStreamQueue::new(client, compose::queue_options(&found)).await {
        Ok(_) => diagnosis.ok(PART, format!("{place}: nats-server {version} with JetStream")),
        Err(error) => diagnosis.trouble(
            Verdict::Fail,
            PART,
            error.to_string(),
            "replace or reconfigure the server",
        ),
    }
    Ok(())
}

async fn provider(diagnosis: &mut Diagnosis, settings: &Settings) -> Result<(), Failure> {
    const PART: &str = "model";
    let model = settings.model();
    let words = compose::model_in_words(&model);
    if model.base_url.is_none() && model.api_key.is_none() {
        diagnosis.ok(PART, words);
        return Ok(());
    }
    if let Err(failure) = compose::models(settings.model()) {
        diagnosis.trouble(Verdict::Fail, PART, failure.to_string(), "correct it");
        return Ok(());
    }
    let base = model
        .base_url
        .unwrap_or_else(|| steadfast_workers::model::DEFAULT_BASE_URL.into());
    let url = format!("{}/models", base.trim_end_matches('/'));
    let host = reqwest::Url::parse(&url)
        .ok()
        .and_then(|url| url.host_str().map(str::to_owned))
        .unwrap_or_default();
    let request = http_client(is_loopback(&host), |builder| builder.timeout(PROVIDER_WAIT))?.get(&url);
    let request = match &model.api_key {
        Some(key) => request.bearer_auth(key.expose()),
        None => request,
    };
    match request.send().await {
        Ok(response) if response.status().is_success() => {
            let listed: Value = response.json().await.unwrap_or_default();
            let names: Vec<&str> = listed["data"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|model| model["id"].as_str())
                .collect();
            judge_models(diagnosis, &words, model.name.as_deref(), &names);
        }
        Ok(response) if matches!(response.status().as_u16(), 401 | 403) => {
            let found = format!("{words}: the key is refused ({})", response.status());
            diagnosis.trouble(Verdict::Fail, PART, found, "correct OPENAI_API_KEY");
        }
        Ok(response) => {
            let found = format!("{words}: it answers, but not to GET /models ({})", response.status());
            let remedy = "if OPENAI_BASE_URL ends as it should (mostly in /v1), set STEADFAST_MODEL and ignore this";
            diagnosis.trouble(Verdict::Warn, PART, found, remedy);
        }
        Err(error) => {
            let found = format!("{words}: {}", reason(&error));
            diagnosis.trouble(
                Verdict::Fail,
                PART,
                found,
                "start the server, or correct OPENAI_BASE_URL",
            );
        }
    }
    Ok(())
}

fn judge_models(diagnosis: &mut Diagnosis, words: &str, wanted: Option<&str>, offered: &[&str]) {
    let few = offered
        .iter()
        .take(MODELS_SHOWN_MAX)
        .copied()
        .collect::<Vec<_>>()
        .join(", ");
    match wanted {
        Some(name) if !offered.is_empty() && !offered.contains(&name) => {
            let found = format!("{words}: the provider does not list it (it lists {few} …)");
            diagnosis.trouble(
                Verdict::Warn,
                "model",
                found,
                "correct STEADFAST_MODEL, unless the provider knows it unlisted",
            );
        }
        _ => diagnosis.ok("model", format!("{words}; it offers {} ({few})", offered.len())),
    }
}
