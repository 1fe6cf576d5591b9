//! Names to vetted addresses. The connection is made to what this returns and to nothing else: the look-up that is
//! checked is the look-up that is used, so a name that changes its mind in between (DNS rebinding) gains nothing.

use std::{io, net::IpAddr, net::SocketAddr, sync::Arc};

use async_trait::async_trait;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::vet::vet;

/// Where addresses come from.
#[async_trait]
pub trait Lookup: Send + Sync + 'static {
    async fn lookup(&self, name: &str) -> io::Result<Vec<IpAddr>>;
}

/// The machine's own resolver.
pub struct System;

#[async_trait]
impl Lookup for System {
    async fn lookup(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        Ok(tokio::net::lookup_host((name, 0))
            .await?
            .map(|address| address.ip())
            .collect())
    }
}

#[derive(Clone)]
pub struct Guarded(pub Arc<dyn Lookup>);

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let lookup = self.0.clone();
        Box::pin(async move {
            let found = lookup.lookup(name.as_str()).await?;
            // One bad address among good ones is a bad name: who owns it wants to be lucky.
            found.iter().try_for_each(|address| vet(*address))?;
            // Port 0 stands for the port of the request.
            let vetted: Addrs = Box::new(found.into_iter().map(|address| SocketAddr::new(address, 0)));
            Ok(vetted)
        })
    }
}
