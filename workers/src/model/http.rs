//! Every HTTP client of the workers is made here: no proxy from the environment, no redirect followed unseen, no
//! Nagle delay on small writes, TLS by ring.

use reqwest::{Client, ClientBuilder, redirect::Policy};

const USER_AGENT: &str = concat!("steadfast/", env!("CARGO_PKG_VERSION"));

/// A client, shaped by `shape`. On a machine without CA certificates it can speak plain http only, and says so: a
/// model server in the next container needs no certificate.
#[expect(clippy::disallowed_methods, reason = "the edge: every client of this room")]
pub fn client(shape: impl Fn(ClientBuilder) -> ClientBuilder) -> Result<Client, reqwest::Error> {
    // reqwest panics without a provider. A second installation is refused, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = || {
        let plain = Client::builder()
            .user_agent(USER_AGENT)
            .no_proxy()
            .redirect(Policy::none())
            .tcp_nodelay(true);
        shape(plain)
    };
    builder().build().or_else(|error| {
        let client = builder().tls_certs_only([]).build()?;
        tracing::warn!(
            error = %chain(&error),
            "no CA certificates could be loaded, so https will fail; install the package ca-certificates"
        );
        Ok(client)
    })
}

/// An error and its causes in one line, without the address, which may hold what is not ours to show.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = match error.downcast_ref::<reqwest::Error>() {
            Some(error) => kind(error).to_string(),
            None => error.to_string(),
        };
        // Wrappers often repeat what they wrap.
        if !text.is_empty() && parts.last() != Some(&text) {
            parts.push(text);
        }
        next = error.source();
    }
    parts.join(": ")
}

/// reqwest's own words hold the address.
fn kind(error: &reqwest::Error) -> &'static str {
    if error.is_connect() {
        "cannot connect"
    } else if error.is_timeout() {
        "timed out"
    } else if error.is_body() || error.is_decode() {
        "the body broke off"
    } else if error.is_builder() {
        "the request cannot be built"
    } else {
        "the request failed"
    }
}
