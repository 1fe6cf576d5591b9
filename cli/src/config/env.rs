//! The environment, read once. An empty variable counts as unset: that is how people switch one off.

use std::{collections::BTreeMap, fmt::Display, str::FromStr};

use crate::error::Failure;

/// Every variable that means something to Steadfast. Of others only those that look like one of these are spoken of.
pub const NAMES: [&str; 22] = [
    "DATABASE_URL",
    "NATS_URL",
    "OPENAI_BASE_URL",
    "OPENAI_API_KEY",
    "STEADFAST_MODEL",
    "STEADFAST_JWT_SECRET",
    "STEADFAST_JWKS_URL",
    "STEADFAST_JWT_AUDIENCE",
    "STEADFAST_JWT_ISSUER",
    "STEADFAST_API_KEYS",
    "STEADFAST_NATS_PREFIX",
    "STEADFAST_NATS_REPLICAS",
    "STEADFAST_POOL",
    "STEADFAST_SLOTS",
    "STEADFAST_LEASE_MS",
    "STEADFAST_DRAIN_SECONDS",
    "STEADFAST_AGENTS",
    "STEADFAST_HOST",
    "STEADFAST_LOG",
    "STEADFAST_LOG_FORMAT",
    "STEADFAST_URL",
    "STEADFAST_API_KEY",
];

#[derive(Default)]
pub struct Env(BTreeMap<String, String>);

impl Env {
    /// Reads the variables above, and those the configuration file names.
    pub fn read<'n>(named: impl Iterator<Item = &'n str>) -> Result<Self, Failure> {
        Self::of(NAMES.into_iter().chain(named), |name| std::env::var_os(name))
    }

    /// Variables that are nearly one of ours, and which one: a slip of the pen would otherwise be silent. Others are let be:
    /// container platforms make up names with our prefix too.
    pub fn misspelt() -> Vec<(String, &'static str)> {
        let all = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        near_misses(all)
    }

    fn of<'n>(
        names: impl Iterator<Item = &'n str>,
        variable: impl Fn(&str) -> Option<std::ffi::OsString>,
    ) -> Result<Self, Failure> {
        let mut found = BTreeMap::new();
        for name in names {
            let Some(value) = variable(name) else { continue };
            let value = value
                .into_string()
                .map_err(|_| Failure::new(format!("{name} is not valid UTF-8")))?;
            if !value.trim().is_empty() {
                found.insert(name.to_owned(), value);
            }
        }
        Ok(Self(found))
    }

    pub fn get(&self, name: &'static str) -> Option<&str> {
        debug_assert!(NAMES.contains(&name), "{name} is not in the list");
        self.0.get(name).map(String::as_str)
    }

    /// A variable that the configuration file names.
    pub fn named(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub fn text(&self, name: &'static str) -> Option<String> {
        self.get(name).map(str::to_owned)
    }

    /// A value of another kind than text. The error names the variable; `expected` says what would be right.
    pub fn parse<T: FromStr>(&self, name: &'static str, expected: impl Display) -> Result<Option<T>, Failure> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let bad = |_| Failure::new(format!("{name} is {:?}; it must be {expected}", super::brief(text)));
        text.trim().parse().map(Some).map_err(bad)
    }
}

fn near_misses(names: impl Iterator<Item = String>) -> Vec<(String, &'static str)> {
    let looks_like_ours = |name: &str| {
        ["STEADFAST_", "OPENAI_", "NATS_", "DATAB"]
            .iter()
            .any(|start| name.starts_with(start))
    };
    let ours = names.filter(|name| looks_like_ours(name) && !NAMES.contains(&name.as_str()));
    let mut found: Vec<_> = ours
        .filter_map(|name| {
            let distance = |known: &&&str| strsim::damerau_levenshtein(&name, known);
            let close = NAMES.iter().filter(|known| distance(known) <= 2).min_by_key(distance)?;
            Some((name, *close))
        })
        .collect();
    found.sort();
    found
}

#[cfg(test)]
impl<const N: usize> From<[(&'static str, &str); N]> for Env {
    fn from(pairs: [(&'static str, &str); N]) -> Self {
        let names = pairs.iter().map(|(name, _)| *name);
        Self::of(names, |name| {
            pairs
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value.into())
        })
        .unwrap_or_else(|failure| panic!("{failure}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_variable_counts_as_unset() {
        let env = Env::from([("STEADFAST_SLOTS", " "), ("STEADFAST_POOL", "gpu")]);
        assert_eq!(
            (env.get("STEADFAST_SLOTS"), env.get("STEADFAST_POOL")),
            (None, Some("gpu"))
        );
    }

    #[test]
    fn a_variable_that_is_nearly_one_of_ours_is_spoken_of_and_others_are_not() {
        let names = [
            "STEADFAST_SLOT",
            "STEADFAST_SLOTS",
            "STEADFAST_PORT_8080_TCP",
            "NATS_URI",
            "PATH",
        ];
        let found = near_misses(names.map(String::from).into_iter());
        let expected = [("NATS_URI", "NATS_URL"), ("STEADFAST_SLOT", "STEADFAST_SLOTS")];
        assert_eq!(found, expected.map(|(name, close)| (name.to_owned(), close)));
    }

    #[test]
    fn a_number_that_is_none_is_refused_by_the_name_of_its_variable() {
        let env = Env::from([("STEADFAST_SLOTS", "many")]);
        let refused = env
            .parse::<usize>("STEADFAST_SLOTS", "a number")
            .err()
            .map(|failure| failure.to_string());
        assert_eq!(
            refused.as_deref(),
            Some("STEADFAST_SLOTS is \"many\"; it must be a number")
        );
    }
}
