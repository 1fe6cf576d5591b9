//! Where a process listens.

use std::net::SocketAddr;

use tokio::net::TcpListener;

use crate::error::{Context, Failure};

/// An address that was resolved, not yet bound.
pub struct Place {
    host: String,
    addresses: Vec<SocketAddr>,
}

impl Place {
    pub async fn resolve(host: &str, port: u16) -> Result<Self, Failure> {
        let found = tokio::net::lookup_host((host, port)).await;
        let mut addresses: Vec<SocketAddr> = found.context(format!("the host {host:?} is not known"))?.collect();
        // `localhost` is both; people and the printed commands mean 127.0.0.1.
        addresses.sort_by_key(SocketAddr::is_ipv6);
        Ok(Self {
            host: host.into(),
            addresses,
        })
    }

    pub fn host(&self) -> &str {
        &self.host
    }

    /// Whether only this machine can reach it.
    pub fn is_loopback(&self) -> bool {
        !self.addresses.is_empty() && self.addresses.iter().all(|address| address.ip().is_loopback())
    }

    /// Listens, and says at which address.
    pub async fn listen(&self) -> Result<(TcpListener, SocketAddr), Failure> {
        let port = self.addresses.first().map_or(0, SocketAddr::port);
        let listener = TcpListener::bind(&self.addresses[..]).await;
        let remedy = "choose another --port, or stop what listens there";
        let listener = listener.context(format!("cannot listen on {}:{port} ({remedy})", self.host))?;
        let address = listener.local_addr().context("reading the address we listen on")?;
        Ok((listener, address))
    }
}
