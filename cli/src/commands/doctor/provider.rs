//! Do the model providers answer, take the key, and know the model?

use std::time::Duration;

use serde_json::Value;

use super::{Diagnosis, Verdict};
use crate::{
    client::{http_client, is_loopback, reason},
    compose,
    config::Settings,
    error::Failure,
    secret::{Secret, shown_url},
};

const PROVIDER_WAIT: Duration = Duration::from_secs(10);
const MODELS_SHOWN_MAX: usize = 5;
const PART: &str = "model";

pub async fn examine(diagnosis: &mut Diagnosis, settings: &Settings) -> Result<(), Failure> {
    let (model, others) = match (settings.model(), settings.providers(), compose::models(settings)) {
        (Ok(model), Ok(others), Ok(_)) => (model, others),
        (Err(failure), ..) | (_, Err(failure), _) | (.., Err(failure)) => {
            diagnosis.trouble(Verdict::Fail, PART, failure.to_string(), "correct it");
            return Ok(());
        }
    };
    let words = compose::model_in_words(&model);
    if model.base_url.is_none() && model.api_key.is_none() {
        diagnosis.ok(PART, words);
    } else {
        let default = Provider {
            words,
            base_url: (model.base_url).unwrap_or_else(|| steadfast_workers::model::DEFAULT_BASE_URL.into()),
            api_key: model.api_key,
            wanted: model.name,
            names: ["OPENAI_BASE_URL", "OPENAI_API_KEY"].map(Into::into),
        };
        default.examine(diagnosis).await?;
    }
    for other in others {
        let name = other.name;
        let provider = Provider {
            words: format!("provider {name} at {}", shown_url(&other.base_url)),
            base_url: other.base_url,
            api_key: other.api_key,
            wanted: None,
            names: ["base_url", "api_key_env"].map(|key| format!("providers.{name}.{key}")),
        };
        provider.examine(diagnosis).await?;
    }
    Ok(())
}

struct Provider {
    words: String,
    base_url: String,
    api_key: Option<Secret>,
    /// The model its agents get that name none.
    wanted: Option<String>,
    /// What address and key are called in the configuration.
    names: [String; 2],
}

impl Provider {
    async fn examine(self, diagnosis: &mut Diagnosis) -> Result<(), Failure> {
        let Self {
            words,
            base_url,
            api_key,
            wanted,
            names: [address, key],
        } = self;
        let url = format!("{}/models", base_url.trim_end_matches('/'));
        let host = reqwest::Url::parse(&url)
            .ok()
            .and_then(|url| url.host_str().map(str::to_owned))
            .unwrap_or_default();
        let request = http_client(is_loopback(&host), |builder| builder.timeout(PROVIDER_WAIT))?.get(&url);
        let request = match &api_key {
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
                judge_models(diagnosis, &words, wanted.as_deref(), &names);
            }
            Ok(response) if matches!(response.status().as_u16(), 401 | 403) => {
                let found = format!("{words}: the key is refused ({})", response.status());
                diagnosis.trouble(Verdict::Fail, PART, found, &format!("correct {key}"));
            }
            Ok(response) => {
                let found = format!("{words}: it answers, but not to GET /models ({})", response.status());
                let remedy = format!("if {address} ends as it should (mostly in /v1), name the model and ignore this");
                diagnosis.trouble(Verdict::Warn, PART, found, &remedy);
            }
            Err(error) => {
                let found = format!("{words}: {}", reason(&error));
                let remedy = format!("start the server, or correct {address}");
                diagnosis.trouble(Verdict::Fail, PART, found, &remedy);
            }
        }
        Ok(())
    }
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
