//! Where the provider is and how it is spoken to.

use std::time::Duration;

use reqwest::{
    Url,
    header::{AUTHORIZATION, HeaderMap, HeaderValue},
};
use secrecy::{ExposeSecret, SecretString};

pub const DEFAULT_BASE_URL: &str = "https://api.openai.com/v1";

/// A key that no log, error or Debug output can show.
#[derive(Clone)]
pub struct ApiKey(SecretString);

impl ApiKey {
    pub fn new(key: impl Into<String>) -> Self {
        Self(key.into().into())
    }

    /// The text without the key, for servers that repeat what they were sent, and without what looks like one.
    pub(super) fn redact(&self, text: &str) -> String {
        let key = self.0.expose_secret();
        let text = if key.is_empty() {
            text.to_string()
        } else {
            text.replace(key, "[redacted]")
        };
        let looks_like_a_key = |word: &str| word.trim_start_matches(['"', '\'', '(', ':']).starts_with("sk-");
        if !text.contains("sk-") {
            return text;
        }
        let words = text
            .split(' ')
            .map(|word| if looks_like_a_key(word) { "[redacted]" } else { word });
        words.collect::<Vec<_>>().join(" ")
    }
}

#[derive(Clone)]
pub struct OpenAiOptions {
    /// Up to and without `/chat/completions`.
    pub base_url: String,
    /// Servers of one's own often need none.
    pub api_key: Option<ApiKey>,
    pub timeouts: Timeouts,
}

/// How long to wait for what.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Timeouts {
    pub connect: Duration,
    /// From the start of the call to the first piece of output.
    pub first_token: Duration,
    pub between_tokens: Duration,
    /// For the call as a whole.
    pub total: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(3),
            first_token: Duration::from_secs(30),
            between_tokens: Duration::from_secs(15),
            total: Duration::from_secs(300),
        }
    }
}

/// The provider cannot be spoken to as it is configured.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum BadProvider {
    #[error(
        "base_url {0:?} is not an http or https address; give one such as {DEFAULT_BASE_URL:?} (the default provider's is OPENAI_BASE_URL)"
    )]
    NotAnAddress(String),
    #[error(
        "base_url holds a user name, a password, a query or a fragment; put the key into the variable for it (the default provider's are OPENAI_BASE_URL and OPENAI_API_KEY)"
    )]
    NotBare,
    #[error(
        "the API key holds characters that cannot stand in an HTTP header; check for a line break in it (the default provider's is OPENAI_API_KEY)"
    )]
    KeyNotAHeader,
    #[error("no HTTP client can be made: {0}")]
    NoClient(String),
}

/// The configuration, checked: where requests go, and what they carry.
pub(super) struct Provider {
    pub chat: Url,
    pub models: Url,
    pub headers: HeaderMap,
    key: SecretString,
    /// OpenAI itself refuses `max_tokens` for its newer models; most other servers know nothing else.
    pub new_token_limit: bool,
}

impl Provider {
    pub fn new(options: &OpenAiOptions) -> Result<Self, BadProvider> {
        let shown = || BadProvider::NotAnAddress(options.base_url.chars().take(200).collect());
        let url = Url::parse(options.base_url.trim()).map_err(|_| shown())?;
        let bare = url.username().is_empty() && url.password().is_none() && url.query().or(url.fragment()).is_none();
        if !bare {
            return Err(BadProvider::NotBare);
        }
        let host = url
            .host_str()
            .filter(|_| matches!(url.scheme(), "http" | "https"))
            .ok_or_else(shown)?;
        let new_token_limit = [".openai.com", ".openai.azure.com"]
            .iter()
            .any(|domain| host.ends_with(domain));
        let mut headers = HeaderMap::new();
        let key = options
            .api_key
            .as_ref()
            .map_or_else(SecretString::default, |key| key.0.clone());
        if !key.expose_secret().is_empty() {
            let mut bearer = HeaderValue::from_str(&format!("Bearer {}", key.expose_secret()))
                .map_err(|_| BadProvider::KeyNotAHeader)?;
            bearer.set_sensitive(true);
            headers.insert(AUTHORIZATION, bearer);
        }
        let below = |path| Url::parse(&format!("{}{path}", url.as_str().trim_end_matches('/'))).map_err(|_| shown());
        Ok(Self {
            chat: below("/chat/completions")?,
            models: below("/models")?,
            headers,
            key,
            new_token_limit,
        })
    }

    pub fn redact(&self, text: &str) -> String {
        ApiKey(self.key.clone()).redact(text)
    }
}
