//! Agents from files: `agents/*.toml`, validated at start.

use std::collections::BTreeMap;

use crate::run::Agent;

/// The agents of this installation, by name.
#[derive(Debug, Clone, Default)]
pub struct Agents {
    by_name: BTreeMap<String, Agent>,
}

impl Agents {
    pub fn get(&self, name: &str) -> Option<&Agent> {
        self.by_name.get(name)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Agent> {
        self.by_name.values()
    }
}
