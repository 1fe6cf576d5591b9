//! Passwords, keys and addresses that may hold one: no `Debug`, no `Display`, so that nothing prints them by accident.

use serde::{Deserialize, Deserializer, de::Error};

#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// The secret itself: to connect or to sign with, never to print.
    pub fn expose(&self) -> &str {
        &self.0
    }

    pub fn is_blank(&self) -> bool {
        self.0.trim().is_empty()
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Serde's own message would show the value it did not expect.
        let text = String::deserialize(deserializer).map_err(|_| D::Error::custom("expected a text in quotes"))?;
        Ok(Self(text))
    }
}

/// An address (or several, with commas) as it may be shown: without user, password and parameters.
pub fn shown_url(urls: &str) -> String {
    let shown = urls.split(',').map(|url| {
        let parsed = reqwest::Url::parse(url.trim()).ok();
        let Some(parsed) = parsed.filter(|parsed| parsed.has_host() || parsed.scheme() == "sqlite") else {
            return "an address that does not read".into();
        };
        let host = parsed.host_str().unwrap_or_default();
        let port = parsed.port().map(|port| format!(":{port}")).unwrap_or_default();
        format!("{}://{host}{port}{}", parsed.scheme(), parsed.path())
    });
    shown.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_its_password() {
        assert_eq!(
            shown_url("postgres://me:hush@db:5432/x?sslkey=hush"),
            "postgres://db:5432/x"
        );
        assert_eq!(shown_url("sqlite:///tmp/a.db"), "sqlite:///tmp/a.db");
        assert_eq!(shown_url("nats://127.0.0.1:4222"), "nats://127.0.0.1:4222");
        assert_eq!(shown_url("nats://a:hush@x:1,nats://y:2"), "nats://x:1,nats://y:2");
        assert!(!shown_url("me:hush@db").contains("hush"));
    }
}
