//! One struct for each concern, with every default and every bound in sight.

use std::{ops::RangeInclusive, time::Duration};

use steadfast_gateway::Identity;
use steadfast_workers::{model::Timeouts, share_of};

use super::{LogFormat, Settings};
use crate::{error::Failure, secret::Secret};

pub(super) const SLOTS: RangeInclusive<usize> = 1..=10_000;
const LEASE_MS: RangeInclusive<u64> = 500..=600_000;
const DRAIN_SECONDS: RangeInclusive<u64> = 0..=3_600;
const REPLICAS: RangeInclusive<usize> = 1..=5;
/// What a server has to say, without the small talk of its libraries.
const LOG_SERVER: &str = "info,async_nats=warn,sqlx=warn";
const LOG_QUIET: &str = "warn";
/// Names that become part of NATS subjects, streams and consumers.
const WORD_CHARS_MAX: usize = 32;

pub struct NatsSettings {
    pub url: Secret,
    pub prefix: String,
    pub pool: String,
    pub replicas: usize,
}

pub struct ModelSettings {
    pub name: Option<String>,
    pub base_url: Option<String>,
    pub api_key: Option<Secret>,
    pub timeouts: Timeouts,
    pub concurrency_max: Option<usize>,
}

pub struct IdentitySettings {
    jwt_secret: Option<Secret>,
    jwks_url: Option<String>,
    audience: Option<String>,
    issuer: Option<String>,
    leeway_seconds: Option<u64>,
    api_keys: Option<bool>,
}

pub struct WorkerSettings {
    pub slots: usize,
    pub lease: Duration,
    pub drain: Duration,
    /// Model calls of one tenant at the same time.
    pub calls_per_tenant_max: usize,
    /// Runs of one tenant at the same time.
    pub runs_per_tenant_max: usize,
}

pub struct LogSettings {
    pub filter: String,
    pub json: bool,
}

pub struct ClientSettings {
    pub url: String,
    pub api_key: Option<Secret>,
}

impl Settings {
    /// `None` when nothing says where NATS is.
    pub fn nats(&self, url: Option<&str>) -> Result<Option<NatsSettings>, Failure> {
        let (env, file) = (&self.env, &self.file.nats);
        let url = url
            .map(Secret::new)
            .or_else(|| env.get("NATS_URL").map(Secret::new))
            .or_else(|| file.url.clone());
        let Some(url) = url.filter(|url| !url.is_blank()) else {
            return Ok(None);
        };
        let prefix = env.text("STEADFAST_NATS_PREFIX").or_else(|| file.prefix.clone());
        let pool = env.text("STEADFAST_POOL").or_else(|| file.pool.clone());
        let replicas = env
            .parse("STEADFAST_NATS_REPLICAS", "a number of servers")?
            .or(file.replicas);
        Ok(Some(NatsSettings {
            url,
            prefix: word("STEADFAST_NATS_PREFIX", prefix.unwrap_or_else(|| "steadfast".into()))?,
            pool: word("STEADFAST_POOL", pool.unwrap_or_else(|| "default".into()))?,
            replicas: within("STEADFAST_NATS_REPLICAS", replicas.unwrap_or(1), REPLICAS)?,
        }))
    }

    pub fn model(&self) -> Result<ModelSettings, Failure> {
        let (env, file) = (&self.env, &self.file.model);
        let (timeouts, concurrency_max) = self.default_provider()?;
        Ok(ModelSettings {
            name: env.text("STEADFAST_MODEL").or_else(|| file.name.clone()),
            base_url: env.text("OPENAI_BASE_URL").or_else(|| file.base_url.clone()),
            api_key: env
                .get("OPENAI_API_KEY")
                .map(Secret::new)
                .or_else(|| file.api_key.clone()),
            timeouts,
            concurrency_max,
        })
    }

    pub fn identity(&self) -> Result<IdentitySettings, Failure> {
        let (env, file) = (&self.env, &self.file.identity);
        let api_keys = env
            .parse::<bool>("STEADFAST_API_KEYS", "true or false")?
            .or(file.api_keys);
        Ok(IdentitySettings {
            jwt_secret: env
                .get("STEADFAST_JWT_SECRET")
                .map(Secret::new)
                .or_else(|| file.jwt_secret.clone()),
            jwks_url: env.text("STEADFAST_JWKS_URL").or_else(|| file.jwks_url.clone()),
            audience: env.text("STEADFAST_JWT_AUDIENCE").or_else(|| file.jwt_audience.clone()),
            issuer: env.text("STEADFAST_JWT_ISSUER").or_else(|| file.jwt_issuer.clone()),
            leeway_seconds: file.jwt_leeway_seconds,
            api_keys,
        })
    }

    pub fn worker(&self) -> Result<WorkerSettings, Failure> {
        let (env, file) = (&self.env, &self.file.worker);
        let slots = env
            .parse("STEADFAST_SLOTS", "a number of runs")?
            .or(file.slots)
            .unwrap_or(64);
        let lease = env
            .parse("STEADFAST_LEASE_MS", "a number of milliseconds")?
            .or(file.lease_ms)
            .unwrap_or(2_000);
        let drain = env
            .parse("STEADFAST_DRAIN_SECONDS", "a number of seconds")?
            .or(file.drain_seconds)
            .unwrap_or(20);
        Ok(WorkerSettings {
            slots: within("STEADFAST_SLOTS", slots, SLOTS)?,
            lease: Duration::from_millis(within("STEADFAST_LEASE_MS", lease, LEASE_MS)?),
            drain: Duration::from_secs(within("STEADFAST_DRAIN_SECONDS", drain, DRAIN_SECONDS)?),
            calls_per_tenant_max: within(
                "worker.calls_per_tenant_max",
                file.calls_per_tenant_max.unwrap_or(slots),
                SLOTS,
            )?,
            runs_per_tenant_max: within(
                "worker.runs_per_tenant_max",
                file.runs_per_tenant_max.unwrap_or_else(|| share_of(slots)),
                SLOTS,
            )?,
        })
    }

    /// `quiet` is for commands whose results are what people want to see.
    pub fn log(&self, filter: Option<&str>, format: Option<LogFormat>, quiet: bool) -> Result<LogSettings, Failure> {
        let default = if quiet { LOG_QUIET } else { LOG_SERVER };
        let from_env = self.env.parse::<LogFormat>("STEADFAST_LOG_FORMAT", "text or json")?;
        let filter = filter
            .or(self.env.get("STEADFAST_LOG"))
            .or(self.file.log.filter.as_deref());
        let format = format.or(from_env).or(self.file.log.format);
        Ok(LogSettings {
            filter: filter.unwrap_or(default).into(),
            json: format == Some(LogFormat::Json),
        })
    }

    pub fn client(&self, url: Option<&str>, api_key: Option<&str>) -> ClientSettings {
        let (env, file) = (&self.env, &self.file.client);
        let url = url
            .or(env.get("STEADFAST_URL"))
            .or(file.url.as_deref())
            .unwrap_or("http://127.0.0.1:8080");
        let api_key = api_key.or(env.get("STEADFAST_API_KEY")).map(Secret::new);
        ClientSettings {
            url: url.trim_end_matches('/').into(),
            api_key: api_key.or_else(|| file.api_key.clone()),
        }
    }
}

impl IdentitySettings {
    /// How callers prove who they are; `Open` only on a loopback address, and only if nothing was configured.
    pub fn identity(self, host: &str, loopback: bool) -> Result<Identity, Failure> {
        let secret = |secret: &Secret| steadfast_gateway::Secret::new(secret.expose());
        let audience = || {
            let missing =
                "STEADFAST_JWT_AUDIENCE is not set; name the audience your tokens are issued for (their `aud`)";
            self.audience.clone().ok_or_else(|| Failure::new(missing))
        };
        let jwt = match (&self.jwt_secret, &self.jwks_url) {
            (Some(_), Some(_)) => {
                let both = "STEADFAST_JWT_SECRET and STEADFAST_JWKS_URL are both set; tokens are verified in one way: \
                            unset one of them";
                return Err(Failure::new(both));
            }
            (Some(key), None) => Some(steadfast_gateway::JwtConfig::shared_secret(&secret(key), audience()?)?),
            (None, Some(url)) => Some(steadfast_gateway::JwtConfig::key_set(url, audience()?)?),
            (None, None) => None,
        };
        let jwt = jwt.map(|jwt| match &self.issuer {
            Some(issuer) => jwt.issued_by(issuer),
            None => jwt,
        });
        let jwt = jwt.map(|jwt| match self.leeway_seconds {
            Some(seconds) => jwt.leeway_seconds(seconds),
            None => jwt,
        });
        let api_keys = self.api_keys.unwrap_or(jwt.is_some());
        if jwt.is_some() || api_keys {
            return Ok(Identity::Required { jwt, api_keys });
        }
        if loopback {
            return Ok(Identity::Open);
        }
        Err(Failure::new(format!(
            "refusing to listen on {host} without identity: anyone who reaches it could run agents. Set \
             STEADFAST_JWT_SECRET (or STEADFAST_JWKS_URL) and STEADFAST_JWT_AUDIENCE, or set STEADFAST_API_KEYS=true \
             and make a key with `steadfast keys create`; or listen on 127.0.0.1"
        )))
    }
}

pub(super) fn within<T: PartialOrd + std::fmt::Display>(
    name: &str,
    value: T,
    range: RangeInclusive<T>,
) -> Result<T, Failure> {
    if range.contains(&value) {
        return Ok(value);
    }
    Err(Failure::new(format!(
        "{name} is {value}; it must lie between {} and {}",
        range.start(),
        range.end()
    )))
}

pub(super) fn word(name: &str, value: String) -> Result<String, Failure> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if !value.is_empty() && value.len() <= WORD_CHARS_MAX && value.chars().all(fits) {
        return Ok(value);
    }
    let shown = super::brief(&value);
    Err(Failure::new(format!(
        "{name} is {shown:?}; it must be 1 to {WORD_CHARS_MAX} characters of a-z 0-9 _"
    )))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::{Env, file::ConfigFile};

    pub(in crate::config) fn settings<const N: usize>(env: [(&'static str, &str); N], file: &str) -> Settings {
        let file: ConfigFile = toml::from_str(file).unwrap_or_else(|error| panic!("{error}"));
        Settings {
            env: Env::from(env),
            file,
            path: None,
        }
    }

    pub(in crate::config) fn refusal<T>(result: Result<T, Failure>) -> String {
        result.err().map(|failure| failure.to_string()).unwrap_or_default()
    }

    #[test]
    fn flags_win_over_the_environment_and_the_environment_over_the_file() {
        let file = "[client]\nurl = \"http://file\"\n[worker]\nslots = 7\n";
        let from_env = settings([("STEADFAST_URL", "http://env/")], file);
        assert_eq!(from_env.client(Some("http://flag"), None).url, "http://flag");
        assert_eq!(from_env.client(None, None).url, "http://env");
        assert_eq!(
            settings([("STEADFAST_URL", "")], file).client(None, None).url,
            "http://file"
        );
        assert_eq!(from_env.worker().map(|worker| worker.slots).ok(), Some(7));
        assert_eq!(settings([], "").client(None, None).url, "http://127.0.0.1:8080");
    }

    #[test]
    fn values_out_of_bounds_are_refused_with_the_bounds() {
        let slots = refusal(settings([("STEADFAST_SLOTS", "0")], "").worker());
        assert_eq!(slots, "STEADFAST_SLOTS is 0; it must lie between 1 and 10000");
        let nats = settings([("NATS_URL", "nats://x"), ("STEADFAST_POOL", "a.b")], "").nats(None);
        assert!(refusal(nats).starts_with("STEADFAST_POOL is \"a.b\"; it must be"));
    }

    #[test]
    fn another_address_than_loopback_needs_identity() {
        let identity = |settings: Settings, host, loopback| settings.identity()?.identity(host, loopback);
        assert!(matches!(
            identity(settings([], ""), "127.0.0.1", true),
            Ok(Identity::Open)
        ));
        assert!(refusal(identity(settings([], ""), "0.0.0.0", false)).contains("STEADFAST_JWT_SECRET"));
        let keys = settings([("STEADFAST_API_KEYS", "true")], "");
        assert!(matches!(
            identity(keys, "0.0.0.0", false),
            Ok(Identity::Required {
                jwt: None,
                api_keys: true
            })
        ));
    }

    #[test]
    fn tokens_need_an_audience_and_one_way_to_verify_them() {
        let secret = ("STEADFAST_JWT_SECRET", "0123456789abcdef0123456789abcdef");
        let identity = |settings: Settings| settings.identity()?.identity("127.0.0.1", true);
        assert!(refusal(identity(settings([secret], ""))).contains("STEADFAST_JWT_AUDIENCE"));
        let both = [
            secret,
            ("STEADFAST_JWKS_URL", "https://keys"),
            ("STEADFAST_JWT_AUDIENCE", "a"),
        ];
        assert!(refusal(identity(settings(both, ""))).contains("unset one of them"));
        let good = identity(settings([secret, ("STEADFAST_JWT_AUDIENCE", "a")], ""));
        assert!(matches!(good, Ok(Identity::Required { jwt: Some(_), .. })));
    }
}
