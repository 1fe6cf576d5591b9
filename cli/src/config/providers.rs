//! `[providers.NAME]`: model providers beside the default one, and what is set of the default one there.

use std::{collections::BTreeSet, ops::RangeInclusive, time::Duration};

use steadfast::run::agent::DEFAULT_PROVIDER;
use steadfast_workers::model::Timeouts;

use super::{
    Settings,
    file::Provider,
    parts::{SLOTS, within, word},
};
use crate::{error::Failure, secret::Secret};

const PROVIDERS_MAX: usize = 64;
const TIMEOUT_SECONDS: RangeInclusive<f64> = 0.1..=3_600.0;
/// The built-in model's, and the one agents name without saying so.
const RESERVED: [&str; 1] = ["scripted"];

pub struct ProviderSettings {
    pub name: String,
    pub base_url: String,
    pub api_key: Option<Secret>,
    pub timeouts: Timeouts,
    /// Calls to one of its models at the same time, in one worker.
    pub concurrency_max: Option<usize>,
}

impl Settings {
    /// What may stand before the `/` of a model, beside the default provider.
    pub fn provider_names(&self) -> BTreeSet<String> {
        let names = self.file.providers.keys().cloned();
        names.filter(|name| name != DEFAULT_PROVIDER).collect()
    }

    /// The providers beside the default one.
    pub fn providers(&self) -> Result<Vec<ProviderSettings>, Failure> {
        let providers = &self.file.providers;
        if providers.len() > PROVIDERS_MAX {
            let found = providers.len();
            return Err(Failure::new(format!(
                "there are {found} providers; at most {PROVIDERS_MAX}"
            )));
        }
        (self.provider_names().into_iter())
            .map(|name| self.provider(&name, &providers[&name]))
            .collect()
    }

    /// What `[providers.default]` says of the provider the environment names.
    pub(super) fn default_provider(&self) -> Result<(Timeouts, Option<usize>), Failure> {
        let Some(file) = self.file.providers.get(DEFAULT_PROVIDER) else {
            return Ok((Timeouts::default(), None));
        };
        if file.base_url.is_some() || file.api_key_env.is_some() {
            return Err(Failure::new(
                "providers.default is the provider of OPENAI_BASE_URL and OPENAI_API_KEY (model.base_url, model.api_key); \
                 set its address and key there, or give this provider another name",
            ));
        }
        Ok((
            timeouts(DEFAULT_PROVIDER, file)?,
            concurrency_max(DEFAULT_PROVIDER, file)?,
        ))
    }

    fn provider(&self, name: &str, file: &Provider) -> Result<ProviderSettings, Failure> {
        let field = |key: &str| format!("providers.{name}.{key}");
        word("a provider's name", name.into())?;
        if RESERVED.contains(&name) {
            return Err(Failure::new(format!(
                "providers.{name}: this name is the built-in model's; choose another"
            )));
        }
        let base_url = file.base_url.clone().ok_or_else(|| {
            let key = field("base_url");
            Failure::new(format!(
                "{key} is missing; give the address up to and without /chat/completions"
            ))
        })?;
        let api_key = match &file.api_key_env {
            None => None,
            Some(variable) => Some(Secret::new(self.env.named(variable).ok_or_else(|| {
                let key = field("api_key_env");
                let variable = super::brief(variable);
                Failure::new(format!(
                    "{key} names {variable:?}, which is not set; set it, or remove the key"
                ))
            })?)),
        };
        Ok(ProviderSettings {
            name: name.into(),
            base_url,
            api_key,
            timeouts: timeouts(name, file)?,
            concurrency_max: concurrency_max(name, file)?,
        })
    }
}

fn concurrency_max(name: &str, file: &Provider) -> Result<Option<usize>, Failure> {
    let field = format!("providers.{name}.concurrency_max");
    file.concurrency_max
        .map(|calls| within(&field, calls, SLOTS))
        .transpose()
}

fn timeouts(name: &str, file: &Provider) -> Result<Timeouts, Failure> {
    let default = Timeouts::default();
    let seconds = |key: &str, given: Option<f64>, otherwise: Duration| match given {
        None => Ok(otherwise),
        Some(seconds) => {
            let field = format!("providers.{name}.{key}");
            within(&field, seconds, TIMEOUT_SECONDS).map(Duration::from_secs_f64)
        }
    };
    Ok(Timeouts {
        connect: seconds("connect_seconds", file.connect_seconds, default.connect)?,
        first_token: seconds("first_token_seconds", file.first_token_seconds, default.first_token)?,
        between_tokens: seconds(
            "between_tokens_seconds",
            file.between_tokens_seconds,
            default.between_tokens,
        )?,
        total: seconds("total_seconds", file.total_seconds, default.total)?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::parts::tests::{refusal, settings};
    use super::*;

    #[test]
    fn a_provider_has_an_address_a_key_from_the_environment_and_limits() {
        let file = "[providers.spare]\nbase_url = \"http://spare/v1\"\napi_key_env = \"SPARE_KEY\"\n\
                    first_token_seconds = 2.5\nconcurrency_max = 8\n[providers.default]\nconnect_seconds = 1\n";
        let settings = settings([("SPARE_KEY", "k")], file);
        assert_eq!(settings.provider_names().into_iter().collect::<Vec<_>>(), ["spare"]);
        let Ok(providers) = settings.providers() else {
            panic!("it does not read")
        };
        let [spare] = &providers[..] else {
            panic!("{} providers", providers.len())
        };
        assert_eq!(
            (spare.base_url.as_str(), spare.concurrency_max),
            ("http://spare/v1", Some(8))
        );
        assert_eq!(spare.api_key.as_ref().map(Secret::expose), Some("k"));
        assert_eq!(spare.timeouts.first_token, Duration::from_millis(2_500));
        assert_eq!(spare.timeouts.total, Timeouts::default().total);
        let model = settings.model().map(|model| model.timeouts.connect).ok();
        assert_eq!(model, Some(Duration::from_secs(1)));
    }

    #[test]
    fn a_provider_that_cannot_be_is_refused_by_its_key() {
        let refused = |file: &str| refusal(settings([], file).providers());
        assert!(refused("[providers.x]\n").starts_with("providers.x.base_url is missing"));
        assert!(refused("[providers.scripted]\nbase_url = \"http://a\"\n").contains("built-in"));
        assert!(refused("[providers.\"a/b\"]\nbase_url = \"http://a\"\n").starts_with("a provider's name is"));
        let unset = refused("[providers.x]\nbase_url = \"http://a\"\napi_key_env = \"NOT_THERE\"\n");
        assert!(
            unset.starts_with("providers.x.api_key_env names \"NOT_THERE\""),
            "{unset}"
        );
        let slow = refused("[providers.x]\nbase_url = \"http://a\"\ntotal_seconds = 0\n");
        assert!(
            slow.starts_with("providers.x.total_seconds is 0; it must lie between"),
            "{slow}"
        );
        let default = refusal(settings([], "[providers.default]\nbase_url = \"http://a\"\n").model());
        assert!(default.contains("OPENAI_BASE_URL"), "{default}");
    }
}
