//! Connecting to NATS.
//!
//! The client library takes no notice of a user and a password in an address, and shows addresses in its logs. So they
//! are taken out here and given to it as what they are.

use std::time::Duration;

use async_nats::{Client, ConnectOptions};
use percent_encoding::percent_decode_str;
use reqwest::Url;

use crate::{
    error::{Context, Failure},
    secret::{Secret, shown_url},
};

/// An address (or several, with commas) without what is secret in it, and what was.
#[derive(Default, PartialEq)]
struct Target {
    servers: Vec<String>,
    /// With no password it is a token.
    user: Option<String>,
    password: Option<String>,
}

pub async fn connect(options: ConnectOptions, url: &Secret) -> Result<Client, Failure> {
    let shown = shown_url(url.expose());
    let bad = || {
        Failure::new(format!(
            "NATS_URL: {shown}; give an address such as nats://127.0.0.1:4222"
        ))
    };
    let target = Target::parse(url.expose()).ok_or_else(bad)?;
    let options = match (target.user, target.password) {
        (Some(user), Some(password)) => options.user_and_password(user, password),
        (Some(token), None) => options.token(token),
        (None, _) => options,
    };
    options
        .connect(target.servers)
        .await
        .context(format!("NATS at {shown}"))
}

/// Whether the server answers within this time.
pub async fn answers(client: &Client, wait: Duration) -> bool {
    matches!(tokio::time::timeout(wait, client.flush()).await, Ok(Ok(())))
}

impl Target {
    fn parse(urls: &str) -> Option<Self> {
        let decoded = |text: &str| percent_decode_str(text).decode_utf8().ok().map(String::from);
        let mut target = Self::default();
        for url in urls.split(',').map(str::trim) {
            let url = if url.contains("://") {
                url.to_owned()
            } else {
                format!("nats://{url}")
            };
            let mut url = Url::parse(&url).ok().filter(Url::has_host)?;
            if !url.username().is_empty() {
                target.user = Some(decoded(url.username())?);
                target.password = url
                    .password()
                    .map(decoded)
                    .map_or(Some(None), |password| password.map(Some))?;
            }
            url.set_username("").ok()?;
            url.set_password(None).ok()?;
            target.servers.push(url.into());
        }
        Some(target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(url: &str) -> (Vec<String>, Option<String>, Option<String>) {
        let Target {
            servers,
            user,
            password,
        } = Target::parse(url).unwrap_or_default();
        (servers, user, password)
    }

    #[test]
    fn user_and_password_are_taken_out_of_the_address() {
        let secret = |text: &str| Some(text.to_owned());
        let (servers, user, password) = parsed("nats://me:h%40sh@a:4222,nats://me:h%40sh@b:4222");
        assert_eq!(
            (servers.join(" ").as_str(), user, password),
            ("nats://a:4222 nats://b:4222", secret("me"), secret("h@sh"))
        );
        let (servers, user, password) = parsed("tls://token@c");
        assert_eq!(
            (servers.join(" ").as_str(), user, password),
            ("tls://c", secret("token"), None)
        );
        assert_eq!(parsed("127.0.0.1:4222").0, ["nats://127.0.0.1:4222"]);
        assert!(Target::parse("").is_none());
    }
}
