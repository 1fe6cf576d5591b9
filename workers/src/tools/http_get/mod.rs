//! `http_get`: reads a page of text from the public internet, and from nowhere else.
//!
//! A model writes the address, and a page a model has read may have written it for the model. So every hop is vetted:
//! scheme, port, and the very address the connection is made to. Redirects are followed here, by hand, hop by hop;
//! no proxy of the environment is used, since a proxy would resolve names where nobody vets them.

mod page;
mod resolver;
mod vet;

#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use reqwest::{
    Client, ClientBuilder,
    header::{ACCEPT, LOCATION},
};
use serde_json::{Value, json};
use steadfast::run::ToolSpec;
use url::{Host, Url};

use super::{Tool, ToolContext, required};
use crate::model::http;
use resolver::{Guarded, Lookup, System};
pub use vet::{Blocked, vet};

const URL_CHARS_MAX: usize = 4_000;
const REDIRECTS_MAX: usize = 5;
const TOTAL_TIMEOUT: Duration = Duration::from_secs(20);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const PORTS: [u16; 4] = [80, 443, 8080, 8443];

#[derive(Debug, Clone)]
pub struct HttpGetOptions {
    /// `host:port` of servers that are trusted although they are not public. They are reached unvetted; what they
    /// redirect to is not.
    pub allow_hosts: BTreeSet<String>,
    pub ports: BTreeSet<u16>,
}

impl Default for HttpGetOptions {
    fn default() -> Self {
        Self {
            allow_hosts: BTreeSet::new(),
            ports: PORTS.into(),
        }
    }
}

pub struct HttpGet {
    options: HttpGetOptions,
    clients: Result<Clients, String>,
}

struct Clients {
    guarded: Client,
    trusted: Client,
}

impl HttpGet {
    pub fn new(options: HttpGetOptions) -> Self {
        Self::with(options, Arc::new(System), |builder| builder)
    }

    fn with(options: HttpGetOptions, lookup: Arc<dyn Lookup>, shape: fn(ClientBuilder) -> ClientBuilder) -> Self {
        let resolver = Guarded(lookup);
        let guarded =
            http::client(|builder| shape(builder.connect_timeout(CONNECT_TIMEOUT).dns_resolver(resolver.clone())));
        let trusted = http::client(|builder| builder.connect_timeout(CONNECT_TIMEOUT));
        let clients = guarded.and_then(|guarded| {
            Ok(Clients {
                guarded,
                trusted: trusted?,
            })
        });
        // A machine on which no client can be made has all other tools; this one says why it cannot be used.
        let clients = clients.map_err(|e| format!("this worker cannot make HTTP requests: {}", http::chain(&e)));
        Self {
            options: HttpGetOptions {
                allow_hosts: lower(options.allow_hosts),
                ..options
            },
            clients,
        }
    }

    async fn get(&self, address: &str) -> Result<String, String> {
        let late = |_| {
            Err(format!(
                "the url could not be read within {} s",
                TOTAL_TIMEOUT.as_secs()
            ))
        };
        tokio::time::timeout(TOTAL_TIMEOUT, self.follow(address))
            .await
            .unwrap_or_else(late)
    }

    async fn follow(&self, address: &str) -> Result<String, String> {
        let clients = self.clients.as_ref().map_err(Clone::clone)?;
        if address.chars().count() > URL_CHARS_MAX {
            return Err(format!("the url has more than {URL_CHARS_MAX} characters"));
        }
        let mut url =
            Url::parse(address.trim()).map_err(|e| format!("the url is not an address ({e}): {UNDERSTOOD}"))?;
        for _ in 0..=REDIRECTS_MAX {
            let client = if self.is_trusted(&url)? {
                &clients.trusted
            } else {
                &clients.guarded
            };
            let sent = client.get(url.clone()).header(ACCEPT, page::ACCEPTED).send().await;
            let answer = sent.map_err(|e| format!("{} cannot be read: {}", place(&url), http::chain(&e)))?;
            let target = answer
                .headers()
                .get(LOCATION)
                .filter(|_| answer.status().is_redirection());
            let Some(target) = target else {
                return page::read(answer, &place(&url)).await;
            };
            let joined = target.to_str().ok().and_then(|target| url.join(target).ok());
            url = joined.ok_or_else(|| format!("{} redirects to what is not an address", place(&url)))?;
        }
        Err(format!("the url redirects more than {REDIRECTS_MAX} times"))
    }

    /// Whether a hop goes to a trusted server; an error where it may not be taken at all.
    fn is_trusted(&self, url: &Url) -> Result<bool, String> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(format!("{:?} addresses cannot be read: {UNDERSTOOD}", url.scheme()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("the url holds a user name or password; leave them out".into());
        }
        let (Some(host), Some(port)) = (url.host(), url.port_or_known_default()) else {
            return Err(format!("the url has no host: {UNDERSTOOD}"));
        };
        if self.options.allow_hosts.contains(&format!("{host}:{port}")) {
            return Ok(true);
        }
        if !self.options.ports.contains(&port) {
            let ports: Vec<String> = self.options.ports.iter().map(u16::to_string).collect();
            return Err(format!(
                "port {port} may not be reached; these may: {}",
                ports.join(", ")
            ));
        }
        // A literal address is never looked up, so the resolver does not see it. The url crate has made it an address
        // already, however it was spelled: 2130706433, 0x7f.1 and 0177.0.0.1 are all 127.0.0.1 here.
        let literal = match host {
            Host::Ipv4(v4) => Some(IpAddr::V4(v4)),
            Host::Ipv6(v6) => Some(IpAddr::V6(v6)),
            Host::Domain(_) => None,
        };
        literal.map_or(Ok(()), vet).map_err(|blocked| blocked.to_string())?;
        Ok(false)
    }
}

const UNDERSTOOD: &str = "give one that begins with http:// or https://";

#[async_trait]
impl Tool for HttpGet {
    fn spec(&self) -> ToolSpec {
        ToolSpec {
            name: "http_get".into(),
            description: "Reads a page or an API answer from the public internet (text only, no scripts are run)."
                .into(),
            parameters: json!({
                "type": "object",
                "properties": {
                    "url": {"type": "string", "description": "Such as https://example.com/page"}
                },
                "required": ["url"]
            }),
        }
    }

    /// HTTP promises it of GET.
    fn retry_safe(&self) -> bool {
        true
    }

    async fn call(&self, arguments: &Value, _context: &ToolContext) -> Result<String, String> {
        let url = required(arguments, "url")?;
        let late = |_| {
            Err(format!(
                "the url could not be read within {} s",
                TOTAL_TIMEOUT.as_secs()
            ))
        };
        tokio::time::timeout(TOTAL_TIMEOUT, self.get(url))
            .await
            .unwrap_or_else(late)
    }
}

fn lower(hosts: BTreeSet<String>) -> BTreeSet<String> {
    hosts.into_iter().map(|host| host.to_lowercase()).collect()
}

/// An address without its query, which may hold what is not to be repeated.
fn place(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    url.to_string()
}
