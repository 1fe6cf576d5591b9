//! `steadfast.toml`: the lowest of the three layers. A key nobody knows is an error with its place, not a shrug.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, de::IntoDeserializer};
use steadfast_gateway::GatewayLimits;

use crate::{
    error::{Context, Failure},
    secret::Secret,
};

/// Read when no other file is named, if it is there.
pub const DEFAULT_PATH: &str = "steadfast.toml";
/// No honest configuration is larger.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

macro_rules! section {
    ($($(#[doc = $doc:literal])* $name:ident { $($field:ident: $ty:ty,)* })*) => {$(
        $(#[doc = $doc])*
        #[derive(Default, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name { $(pub $field: $ty,)* }
    )*};
}

section! {
    /// The whole file.
    ConfigFile {
        agents: Option<PathBuf>,
        database: Database,
        nats: Nats,
        model: Model,
        providers: BTreeMap<String, Provider>,
        identity: Identity,
        gateway: GatewayLimits,
        worker: Worker,
        tools: Tools,
        log: Log,
        client: Client,
    }
    Database {
        url: Option<Secret>,
    }
    Nats {
        url: Option<Secret>,
        prefix: Option<String>,
        pool: Option<String>,
        replicas: Option<usize>,
    }
    Model {
        name: Option<String>,
        base_url: Option<String>,
        api_key: Option<Secret>,
    }
    Provider {
        base_url: Option<String>,
        api_key_env: Option<String>,
        connect_seconds: Option<f64>,
        first_token_seconds: Option<f64>,
        between_tokens_seconds: Option<f64>,
        total_seconds: Option<f64>,
        concurrency_max: Option<usize>,
    }
    Identity {
        jwt_secret: Option<Secret>,
        jwks_url: Option<String>,
        jwt_audience: Option<String>,
        jwt_issuer: Option<String>,
        jwt_leeway_seconds: Option<u64>,
        api_keys: Option<bool>,
    }
    Worker {
        slots: Option<usize>,
        lease_ms: Option<u64>,
        drain_seconds: Option<u64>,
        calls_per_tenant_max: Option<usize>,
        runs_per_tenant_max: Option<usize>,
    }
    Tools {
        http_get_allow_hosts: Vec<String>,
    }
    Log {
        filter: Option<String>,
        format: Option<LogFormat>,
    }
    Client {
        url: Option<String>,
        api_key: Option<Secret>,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

impl std::str::FromStr for LogFormat {
    type Err = serde::de::value::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::deserialize(text.into_deserializer())
    }
}

impl ConfigFile {
    /// Reads the file that was named, or the one in the working directory if there is one.
    pub fn read(named: Option<&Path>) -> Result<(Self, Option<PathBuf>), Failure> {
        let path = named.unwrap_or(Path::new(DEFAULT_PATH));
        let shown = path.display();
        match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && named.is_none() => {
                return Ok((Self::default(), None));
            }
            Ok(metadata) if metadata.len() > FILE_BYTES_MAX => {
                let message = format!("{shown} is larger than {FILE_BYTES_MAX} bytes; is it the right file?");
                return Err(Failure::new(message));
            }
            other => other.map(|_| ()).context(format!("cannot read {shown}"))?,
        }
        let text = fs::read_to_string(path).context(format!("cannot read {shown}"))?;
        let file = Self::parse(&text).map_err(|problem| Failure::new(format!("{shown}:{problem}")))?;
        Ok((file, Some(path.into())))
    }

    /// The error is `line:column: what is wrong`. It never shows the line itself, which may hold a secret.
    fn parse(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|error| {
            let (line, column) = place(text, error.span().map_or(0, |span| span.start));
            let message = error.message().lines().next().unwrap_or_default();
            format!(
                "{line}:{column}: {}",
                unknown_key(message).unwrap_or_else(|| in_plain_words(message))
            )
        })
    }
}

fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (
        before.matches('\n').count() + 1,
        before[line_start..].chars().count() + 1,
    )
}

/// Serde names the unknown key and those it knows, each between backticks; we add which one was probably meant.
fn unknown_key(message: &str) -> Option<String> {
    let words: Vec<&str> = message
        .strip_prefix("unknown field ")?
        .split('`')
        .skip(1)
        .step_by(2)
        .collect();
    let (key, known) = words.split_first()?;
    let distance = |candidate: &&&str| strsim::damerau_levenshtein(key, candidate);
    Some(match known.iter().min_by_key(distance) {
        Some(close) if distance(&close) <= 1 + close.len() / 4 => {
            format!("there is no key {key:?} here; did you mean {close:?}?")
        }
        _ => format!("there is no key {key:?} here; the keys are: {}", known.join(", ")),
    })
}

/// Serde names the types of this program; a person is told the kind of value.
fn in_plain_words(message: &str) -> String {
    const KINDS: [(&str, &str); 5] = [
        ("usize", "a whole number, 0 or more"),
        ("u64", "a whole number, 0 or more"),
        ("u32", "a whole number from 0 to 4294967295"),
        ("f64", "a number"),
        ("a boolean", "true or false"),
    ];
    for (kind, words) in KINDS {
        if let Some(found) = message.strip_suffix(&format!("expected {kind}")) {
            return format!("{found}expected {words}");
        }
    }
    message.into()
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, sample::Index};

    use super::*;

    fn refused(text: &str) -> String {
        match ConfigFile::parse(text) {
            Ok(_) => panic!("{text:?} was accepted"),
            Err(problem) => problem,
        }
    }

    #[test]
    fn an_unknown_key_is_named_with_its_place_and_the_key_that_was_probably_meant() {
        let typo = refused("[worker]\n  slot = 3\n");
        assert_eq!(typo, "2:3: there is no key \"slot\" here; did you mean \"slots\"?");
        let stranger = refused("[log]\ncolour = true\n");
        assert_eq!(
            stranger,
            "2:1: there is no key \"colour\" here; the keys are: filter, format"
        );
        assert!(refused("[gateway]\nbody_byte_max = 1\n").contains("did you mean \"body_bytes_max\"?"));
        assert!(refused("[datbase]\nurl = \"x\"\n").contains("did you mean \"database\"?"));
    }

    const EVERY_SECTION: &str = "agents = \"a\"\n[database]\nurl = \"postgres://x\"\n[nats]\nreplicas = 3\n[gateway]\n\
         requests_per_minute = 600\n[tools]\nhttp_get_allow_hosts = [\"a:80\"]\n[log]\nformat = \"json\"\n\
         [providers.spare]\nbase_url = \"http://spare/v1\"\nconcurrency_max = 8\n";

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_at_a_place_in_it(
            junk in prop_oneof![".{0,60}", "[\\[\\]{}\"'=.,#a-z0-9 \\n\\r-]{0,60}"], at in any::<Index>(), over in 0..8usize,
        ) {
            // Junk alone, and junk in the middle of a file that reads.
            let at = at.index(EVERY_SECTION.len());
            let end = (at + over).min(EVERY_SECTION.len());
            let spoilt = format!("{}{junk}{}", &EVERY_SECTION[..at], &EVERY_SECTION[end..]);
            for text in [junk, spoilt] {
                let Err(problem) = ConfigFile::parse(&text) else { continue };
                let mut words = problem.splitn(3, ':');
                let mut number = || words.next().and_then(|word| word.parse::<usize>().ok());
                let (line, column) = (number(), number());
                prop_assert!(line.is_some_and(|line| line <= text.matches('\n').count() + 1), "{}", problem);
                prop_assert!(column.is_some(), "{}", problem);
            }
        }
    }

    #[test]
    fn a_value_of_the_wrong_kind_is_refused_at_its_place() {
        let many = refused("[gateway]\nbody_bytes_max = \"many\"\n");
        assert_eq!(
            many,
            "2:18: invalid type: string \"many\", expected a whole number, 0 or more"
        );
        assert!(refused("[worker]\nlease_ms = -1\n").ends_with("expected a whole number, 0 or more"));
        assert!(refused("[gateway]\nrequests_per_minute = 5000000000\n").ends_with("from 0 to 4294967295"));
        assert!(refused("[identity]\napi_keys = 1\n").ends_with("expected true or false"));
        assert!(refused("[log]\nformat = \"xml\"\n").starts_with("2:10: unknown variant `xml`"));
        assert!(refused("[worker\n").starts_with("1:"));
    }

    #[test]
    fn an_error_never_shows_a_secret() {
        for text in [
            "[identity]\njwt_secret = 123456789\n",
            "[identity]\njwt_secret = hunter2\n",
            "[model]\napi_key = [\"hunter2\"]\n",
        ] {
            let problem = refused(text);
            assert!(
                !problem.contains("hunter2") && !problem.contains("123456789"),
                "{problem}"
            );
        }
    }

    #[test]
    fn every_section_reads() {
        let Ok(file) = ConfigFile::parse(EVERY_SECTION) else {
            panic!("it does not read")
        };
        assert_eq!((file.nats.replicas, file.gateway.requests_per_minute), (Some(3), 600));
        assert_eq!(file.log.format, Some(LogFormat::Json));
    }
}
