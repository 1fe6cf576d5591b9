//! `steadfast eval`: the gate between an agent and its users.

use std::{fs, path::Path, process::ExitCode};

use steadfast_evals::{EvalOptions, JudgeProvider, Progress, Secret};

use super::yes_or_no;
use crate::{
    args::Eval,
    config::Settings,
    error::{Context, Failure},
    output::{self, excerpt, note},
};

const ERROR_CHARS_MAX: usize = 160;

pub async fn eval(settings: &Settings, command: Eval) -> Result<ExitCode, Failure> {
    let Eval::Run {
        file,
        report,
        junit,
        json,
        server,
    } = command;
    let client = settings.client(server.url.as_deref(), server.api_key.as_deref());
    let model = settings.model()?;
    let api_key = model.api_key.map(|key| key.expose().to_owned());
    let options = EvalOptions {
        file,
        url: client.url,
        api_key: client.api_key.map(|key| Secret::new(key.expose())),
        judge: JudgeProvider::from_values(model.base_url, api_key, model.name),
    };
    let found = steadfast_evals::run(options, tell).await?;
    let as_json = || found.to_json().context("rendering the report");
    if let Some(path) = report {
        write(&path, &as_json()?)?;
    }
    if let Some(path) = junit {
        write(&path, &found.to_junit())?;
    }
    if json {
        output::write(&as_json()?)?
    } else {
        output::write(&found.to_summary())?
    }
    Ok(yes_or_no(found.passed()))
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    fs::write(path, text).context(format!("cannot write {}", path.display()))
}

fn tell(progress: Progress) {
    match progress {
        Progress::Started {
            name,
            agent,
            items,
            trials,
        } => {
            note(&format!(
                "{}: {items} items, {trials} trials, agent {}",
                excerpt(&name, 80),
                excerpt(&agent, 64)
            ));
        }
        Progress::TrialEnded {
            done,
            trials,
            item,
            repeat,
            passed,
            error,
            latency_ms,
        } => {
            let verdict = if passed { "ok" } else { "FAIL" };
            let error = error
                .map(|error| format!(": {}", excerpt(&error, ERROR_CHARS_MAX)))
                .unwrap_or_default();
            note(&format!(
                "{done}/{trials} {verdict} {} #{repeat}, {latency_ms} ms{error}",
                excerpt(&item, 80)
            ));
        }
    }
}
