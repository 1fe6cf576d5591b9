//! The network between the processes of a stack and what they stand on: one proxy for each edge.

use std::{collections::BTreeMap, net::SocketAddr};

use crate::{Fault, Proxy};

/// From whom to what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Edge {
    GatewayPostgres,
    GatewayNats,
    WorkerPostgres,
    WorkerNats,
    WorkerModel,
    ProjectorPostgres,
}

impl Edge {
    pub const ALL: [Self; 6] = [
        Self::GatewayPostgres,
        Self::GatewayNats,
        Self::WorkerPostgres,
        Self::WorkerNats,
        Self::WorkerModel,
        Self::ProjectorPostgres,
    ];

    /// Whose it is, and the variable that says where it leads.
    fn ends(self) -> (&'static str, &'static str) {
        match self {
            Self::GatewayPostgres => ("gateway", "DATABASE_URL"),
            Self::GatewayNats => ("gateway", "NATS_URL"),
            Self::WorkerPostgres => ("worker", "DATABASE_URL"),
            Self::WorkerNats => ("worker", "NATS_URL"),
            Self::WorkerModel => ("worker", "OPENAI_BASE_URL"),
            Self::ProjectorPostgres => ("projector", "DATABASE_URL"),
        }
    }
}

pub struct Network {
    edges: BTreeMap<Edge, (Proxy, String)>,
}

impl Network {
    /// Between the roles and the servers their environment names.
    pub(super) async fn between(env: &[(String, String)]) -> Self {
        let mut edges = BTreeMap::new();
        for edge in Edge::ALL {
            let (_, variable) = edge.ends();
            let url = env.iter().rev().find(|(name, _)| name == variable).map(|(_, url)| url);
            let url = url.unwrap_or_else(|| panic!("{variable} is not set, and {edge:?} leads there"));
            let address = address_in(url);
            let proxy = Proxy::before(address).await.expect("a port of the loopback");
            let through = url.replace(&address.to_string(), &proxy.address().to_string());
            edges.insert(edge, (proxy, through));
        }
        Self { edges }
    }

    pub fn edge(&self, edge: Edge) -> &Proxy {
        &self.edges[&edge].0
    }

    pub fn heal(&self) {
        self.edges.values().for_each(|(proxy, _)| proxy.set(Fault::Nothing));
    }

    pub(super) fn env_of(&self, role: &str) -> Vec<(&'static str, String)> {
        let own = self.edges.iter().filter(|(edge, _)| edge.ends().0 == role);
        own.map(|(edge, (_, through))| (edge.ends().1, through.clone()))
            .collect()
    }
}

/// `scheme://user@127.0.0.1:1234/path`
fn address_in(url: &str) -> SocketAddr {
    let after = url.split_once("://").map_or(url, |(_, after)| after);
    let place = after.split(['/', '?']).next().unwrap_or_default();
    let place = place.rsplit('@').next().unwrap_or_default();
    (place.parse()).unwrap_or_else(|_| panic!("{place:?} is no address of the loopback"))
}
