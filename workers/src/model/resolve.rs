//! Which model answers for the name an agent gives.
//!
//! | the agent says | with a provider | without |
//! |---|---|---|
//! | `default` | the configured name, or what the provider offers | the scripted model |
//! | `scripted` | the scripted model | the scripted model |
//! | any other name | the provider's model of that name | the scripted model |

use std::sync::Arc;

use tokio::sync::OnceCell;

use super::{BadProvider, Model, ModelError, OpenAi, OpenAiOptions, Scripted};

/// The model asked for where neither the installation nor the provider names one.
pub const FALLBACK_MODEL: &str = "gpt-4o-mini";

/// The models of this installation.
pub struct Models {
    default_model: Option<String>,
    provider: Option<Arc<OpenAi>>,
    scripted: Arc<Scripted>,
    /// What the provider offers, once it has been asked. A failure to ask is not kept.
    offered: OnceCell<String>,
}

/// Who answers, and under which name.
#[derive(Clone)]
pub struct Resolved {
    pub model: Arc<dyn Model>,
    pub name: String,
}

impl Models {
    /// `default_model` is what `STEADFAST_MODEL` says. With no provider the scripted model answers for every name.
    pub fn new(default_model: Option<String>, provider: Option<OpenAiOptions>) -> Result<Self, BadProvider> {
        let provider = provider.map(OpenAi::new).transpose()?.map(Arc::new);
        let default_model = default_model.filter(|name| !name.trim().is_empty());
        Ok(Self {
            default_model,
            provider,
            scripted: Arc::new(Scripted::default()),
            offered: OnceCell::new(),
        })
    }

    /// The same with another pace of the scripted model.
    pub fn with_scripted(mut self, scripted: Scripted) -> Self {
        self.scripted = Arc::new(scripted);
        self
    }

    /// Whether a real provider is configured.
    pub fn has_provider(&self) -> bool {
        self.provider.is_some()
    }

    pub async fn resolve(&self, name: &str) -> Result<Resolved, ModelError> {
        let Some(provider) = self.provider.as_ref().filter(|_| !self.is_scripted(name)) else {
            return Ok(Resolved {
                model: self.scripted.clone(),
                name: Scripted::NAME.into(),
            });
        };
        let name = match (name, &self.default_model) {
            ("default", Some(configured)) => configured.clone(),
            ("default", None) => self.offered.get_or_try_init(|| offered(provider)).await?.clone(),
            (named, _) => named.into(),
        };
        Ok(Resolved {
            model: provider.clone(),
            name,
        })
    }

    fn is_scripted(&self, name: &str) -> bool {
        let configured = self.default_model.as_deref().filter(|_| name == "default");
        configured.unwrap_or(name) == Scripted::NAME
    }
}

/// The fallback where the provider has it (its list may begin with anything), else the first of its list. A server
/// without a list gets the fallback: most of those take any name.
async fn offered(provider: &OpenAi) -> Result<String, ModelError> {
    let listed = provider.models().await?;
    if listed.iter().any(|name| name == FALLBACK_MODEL) {
        return Ok(FALLBACK_MODEL.into());
    }
    let name = listed.into_iter().next().unwrap_or_else(|| FALLBACK_MODEL.into());
    tracing::info!(model = %name, "STEADFAST_MODEL is not set: agents with the default model get this one");
    Ok(name)
}
