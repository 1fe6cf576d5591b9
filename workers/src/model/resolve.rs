//! Which model answers for the name an agent gives.
//!
//! | the agent says | with a default provider | without |
//! |---|---|---|
//! | `default` | the configured name, or what the provider offers | the scripted model |
//! | `scripted` | the scripted model | the scripted model |
//! | any other name | the provider's model of that name | nobody: refused at the start, and where a run brings it |
//! | `provider/name` | that provider's model of that name | the same |

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::OnceCell;

use super::{
    BadProvider, Bulkheads, ErrorClass, Model, ModelError, OpenAi, OpenAiOptions, Scripted, admission::Admission,
    link::Link,
};

/// The model asked for where neither the installation nor the provider names one.
pub const FALLBACK_MODEL: &str = "gpt-4o-mini";

const NO_PROVIDER: &str = "set OPENAI_BASE_URL or OPENAI_API_KEY";

/// The models of this installation.
pub struct Models {
    default_model: Option<String>,
    provider: Option<Arc<OpenAi>>,
    /// The others, by name.
    named: BTreeMap<String, Arc<OpenAi>>,
    scripted: Arc<dyn Model>,
    pub(crate) admission: Arc<Admission>,
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
    /// `default_model` is what `STEADFAST_MODEL` says. With no provider the scripted model answers for `default`.
    pub fn new(default_model: Option<String>, provider: Option<OpenAiOptions>) -> Result<Self, BadProvider> {
        let provider = provider.map(OpenAi::new).transpose()?.map(Arc::new);
        let default_model = default_model.filter(|name| !name.trim().is_empty());
        Ok(Self {
            default_model,
            provider,
            named: BTreeMap::new(),
            admission: Arc::new(Admission::new(Bulkheads::default())),
            scripted: Arc::new(Scripted::default()),
            offered: OnceCell::new(),
        })
    }

    /// The same with another scripted model: one of another pace, or a test's own.
    pub fn with_scripted(mut self, scripted: impl Model + 'static) -> Self {
        self.scripted = Arc::new(scripted);
        self
    }

    /// The same with one more provider, which agents name before a `/`.
    pub fn with_provider(mut self, name: String, options: OpenAiOptions) -> Result<Self, BadProvider> {
        self.named.insert(name, Arc::new(OpenAi::new(options)?));
        Ok(self)
    }

    /// The same with limits on the calls made at the same time.
    pub fn with_bulkheads(mut self, bulkheads: Bulkheads) -> Self {
        self.admission = Arc::new(Admission::new(bulkheads));
        self
    }

    /// Where a name leads, as far as that is known without asking a provider.
    pub(crate) fn link(&self, name: &str) -> Link {
        let link = Link::read(name);
        if !link.is_default() {
            return link;
        }
        if (self.provider.is_none() && link.model == "default") || self.is_scripted(&link.model) {
            return Link {
                provider: Scripted::NAME.into(),
                model: Scripted::NAME.into(),
            };
        }
        match &self.default_model {
            Some(configured) if link.model == "default" => Link {
                model: configured.clone(),
                ..link
            },
            _ => link,
        }
    }

    /// Whether a real provider is configured.
    pub fn has_provider(&self) -> bool {
        self.provider.is_some()
    }

    pub async fn resolve(&self, name: &str) -> Result<Resolved, ModelError> {
        self.at(&self.link(name)).await
    }

    /// Who answers at a link.
    pub(crate) async fn at(&self, link: &Link) -> Result<Resolved, ModelError> {
        let (provider, name) = match (&self.provider, self.named.get(&link.provider)) {
            (Some(provider), _) if link.is_default() => {
                let name = match link.model.as_str() {
                    "default" => self.offered.get_or_try_init(|| offered(provider)).await?.clone(),
                    named => named.into(),
                };
                (provider, name)
            }
            (_, Some(provider)) => (provider, link.model.clone()),
            _ if link.provider == Scripted::NAME => {
                return Ok(Resolved {
                    model: self.scripted.clone(),
                    name: Scripted::NAME.into(),
                });
            }
            // Never answered by the scripted model instead: nobody would notice.
            _ if link.is_default() => {
                let message = format!(
                    "this worker has no provider that could answer for {:?}; {NO_PROVIDER}",
                    link.model
                );
                return Err(ModelError::new(ErrorClass::Rejected, message));
            }
            // Never sent to another provider instead: it may not be one that should read this conversation.
            _ => {
                let message = format!(
                    "this worker knows no provider {:?}; add [providers.{}] to its steadfast.toml",
                    link.provider, link.provider
                );
                return Err(ModelError::new(ErrorClass::Rejected, message));
            }
        };
        Ok(Resolved {
            model: provider.clone(),
            name,
        })
    }

    /// Why nobody can answer for this name, as far as that can be told before a call.
    pub async fn objection(&self, name: &str) -> Option<String> {
        if name == "default" || name == Scripted::NAME {
            return None;
        }
        let link = Link::read(name);
        let provider = if link.is_default() {
            self.provider.as_ref()
        } else {
            self.named.get(&link.provider)
        };
        let Some(provider) = provider else {
            return Some(format!(
                "no provider is configured, so only \"default\" and {:?} can be answered for; {NO_PROVIDER}",
                Scripted::NAME
            ));
        };
        // A provider that is away, or has no list, is no reason to refuse: the run will tell.
        let listed = provider.models().await.ok().filter(|listed| !listed.is_empty())?;
        let name = &link.model;
        if listed.contains(name) {
            return None;
        }
        let close = (listed.iter()).max_by(|a, b| strsim::jaro(a, name).total_cmp(&strsim::jaro(b, name)))?;
        Some(format!(
            "the provider offers no such model; the nearest of its {} is {close:?}",
            listed.len()
        ))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Timeouts;

    async fn names(default_model: Option<&str>, base_url: Option<String>, asked: &[&str]) -> Vec<(String, String)> {
        let options = |base_url| OpenAiOptions {
            base_url,
            api_key: None,
            timeouts: Timeouts::default(),
        };
        let models = Models::new(default_model.map(Into::into), base_url.map(options)).expect("an address");
        let mut names = Vec::new();
        for name in asked {
            let resolved = models.resolve(name).await.expect("a model");
            names.push((resolved.model.name().to_string(), resolved.name));
        }
        names
    }

    fn expected(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(kind, name)| ((*kind).into(), (*name).into()))
            .collect()
    }

    /// A provider that lists these models, once.
    async fn listing(body: &'static str) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.expect("a connection");
            let _ = socket.read(&mut [0; 4096]).await;
            let head = format!(
                "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            let _ = socket.write_all(format!("{head}{body}").as_bytes()).await;
        });
        format!("http://{address}/v1")
    }

    #[tokio::test]
    async fn without_a_provider_the_scripted_model_answers_for_the_default_and_for_no_other_name() {
        let scripted = expected(&[("scripted", "scripted"); 2]);
        for configured in [None, Some("gpt-4o")] {
            assert_eq!(names(configured, None, &["default", "scripted"]).await, scripted);
            let models = Models::new(configured.map(Into::into), None).expect("no address");
            let refused = models.resolve("gpt-4o").await.err().expect("a refusal");
            assert_eq!(refused.class, ErrorClass::Rejected);
            assert!(refused.message.contains("OPENAI_BASE_URL"), "{}", refused.message);
        }
    }

    #[tokio::test]
    async fn with_a_provider_the_configured_name_is_the_default() {
        let base_url = || Some("http://127.0.0.1:9/v1".to_string());
        assert_eq!(
            names(Some("mine"), base_url(), &["default", "other", "scripted"]).await,
            expected(&[("openai", "mine"), ("openai", "other"), ("scripted", "scripted")])
        );
        assert_eq!(
            names(Some("scripted"), base_url(), &["default"]).await,
            expected(&[("scripted", "scripted")])
        );
    }

    #[tokio::test]
    async fn where_no_default_is_configured_the_provider_is_asked_once() {
        let first = listing(r#"{"data": [{"id": "qwen"}, {"id": "llama"}]}"#).await;
        let twice = expected(&[("openai", "qwen"), ("openai", "qwen")]);
        assert_eq!(names(None, Some(first), &["default", "default"]).await, twice);
        let known = listing(r#"{"data": [{"id": "babbage"}, {"id": "gpt-4o-mini"}]}"#).await;
        assert_eq!(
            names(Some(" "), Some(known), &["default"]).await,
            expected(&[("openai", FALLBACK_MODEL)])
        );
        let empty = listing(r#"{"data": []}"#).await;
        assert_eq!(
            names(None, Some(empty), &["default"]).await,
            expected(&[("openai", FALLBACK_MODEL)])
        );
    }

    #[tokio::test]
    async fn a_provider_that_cannot_be_asked_is_an_error_and_is_asked_again() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        drop(listener);
        let options = OpenAiOptions {
            base_url: format!("http://{address}"),
            api_key: None,
            timeouts: Timeouts::default(),
        };
        let models = Models::new(None, Some(options)).expect("an address");
        assert!(models.resolve("default").await.is_err());
        assert!(
            models.resolve("default").await.is_err(),
            "the failure was not taken for a name"
        );
        assert!(models.resolve("named").await.is_ok());
    }
}
