//! One link of an agent's chain of models: which provider, and its name for the model.

use std::fmt;

use steadfast::run::{agent::DEFAULT_PROVIDER, event::RunRequested};

/// Whose model it is, and its name there.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Link {
    pub provider: String,
    pub model: String,
}

impl Link {
    /// `provider/model`, or a bare model of the default provider.
    pub fn read(name: &str) -> Self {
        let (provider, model) = name.split_once('/').unwrap_or((DEFAULT_PROVIDER, name));
        Self {
            provider: provider.into(),
            model: model.into(),
        }
    }

    pub fn is_default(&self) -> bool {
        self.provider == DEFAULT_PROVIDER
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.provider, self.model)
    }
}

/// The names in a run's chain, the agent's first choice first.
pub fn names(request: &RunRequested) -> impl Iterator<Item = &str> {
    std::iter::once(request.model.as_str()).chain(request.fallbacks.iter().map(String::as_str))
}
