//! `steadfast doctor`: what is reachable, and what to do about the rest.

mod database;
mod gateway;
mod provider;

use std::{process::ExitCode, time::Duration};

use async_nats::ConnectOptions;
use serde::Serialize;
use steadfast::queue::JetStreamQueue;

use super::yes_or_no;
use crate::{
    args, compose,
    config::{DEFAULT_PATH, Settings},
    error::Failure,
    nats,
    output::{self, clean},
    secret::shown_url,
};

/// JetStream of earlier servers lost messages under conditions that were mended since.
const NATS_ADVISED: (u64, u64) = (2, 14);
const NATS_WAIT: Duration = Duration::from_secs(5);

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
    database::examine(&mut diagnosis, settings, &args.database).await;
    queue(&mut diagnosis, settings, args.nats.as_deref()).await?;
    provider::examine(&mut diagnosis, settings).await?;
    let dir = settings.agents(args.agents.as_deref());
    match compose::agents(&dir, &compose::toolbox(settings), settings) {
        Ok(agents) => match compose::check_models(&agents, &*compose::models(settings)?).await {
            Ok(()) => {
                let names: Vec<&str> = agents.iter().map(|agent| agent.name.as_str()).collect();
                diagnosis.ok("agents", format!("{} ({})", names.join(", "), dir.display()));
            }
            Err(failure) => diagnosis.trouble(
                Verdict::Fail,
                "agents",
                failure.to_string(),
                "correct the files, or configure the provider; no worker starts before",
            ),
        },
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
    gateway::examine(&mut diagnosis, settings).await?;
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

fn older_than(version: &str, least: (u64, u64)) -> bool {
    let mut numbers = version.split('.').map(|part| part.parse::<u64>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < least
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
        Ok(_) if older_than(&version, NATS_ADVISED) => diagnosis.trouble(
            Verdict::Warn,
            PART,
            format!("{place}: nats-server {version} with JetStream; it works, and has faults that later ones have not"),
            &format!("use {}.{} or later in production", NATS_ADVISED.0, NATS_ADVISED.1),
        ),
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
