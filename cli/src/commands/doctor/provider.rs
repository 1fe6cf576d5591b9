//! Does the model provider answer, take the key, and know the model?

use std::time::Duration;

use serde_json::Value;

use super::{Diagnosis, Verdict};
use crate::{
    client::{http_client, is_loopback, reason},
    compose,
    config::Settings,
    error::Failure,
};

const PROVIDER_WAIT: Duration = Duration::from_secs(10);
const MODELS_SHOWN_MAX: usize = 5;
const PART: &str = "model";

pub async fn examine(diagnosis: &mut Diagnosis, settings: &Settings) -> Result<(), Failure> {
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
                PART,
                found,
                "correct STEADFAST_MODEL, unless the provider knows it unlisted",
            );
        }
        _ => diagnosis.ok(PART, format!("{words}; it offers {} ({few})", offered.len())),
    }
}
