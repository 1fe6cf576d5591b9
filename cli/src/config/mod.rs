//! Configuration: flags over environment over `steadfast.toml`, resolved to one small struct for each concern.

mod env;
mod file;
mod parts;
mod providers;

use std::path::{Path, PathBuf};

use steadfast_gateway::GatewayLimits;

pub use env::Env;
pub use file::{ConfigFile, DEFAULT_PATH, LogFormat};
pub use parts::{ClientSettings, LogSettings, ModelSettings, NatsSettings};

use crate::{error::Failure, output, secret::Secret};

/// The two layers under the flags.
#[derive(Default)]
pub struct Settings {
    env: Env,
    file: ConfigFile,
    /// The file that was read, if any.
    pub path: Option<PathBuf>,
}

impl Settings {
    pub fn load(named: Option<&Path>) -> Result<Self, Failure> {
        let (file, path) = ConfigFile::read(named)?;
        for (name, close) in Env::misspelt() {
            output::note(&format!(
                "note: {name} is not a variable Steadfast reads; did you mean {close}?"
            ));
        }
        let keys = file
            .providers
            .values()
            .filter_map(|provider| provider.api_key_env.as_deref());
        Ok(Self {
            env: Env::read(keys)?,
            file,
            path,
        })
    }

    /// Where the database is, if anything says so.
    pub fn database(&self, flag: Option<&str>) -> Option<Secret> {
        flag.map(Secret::new)
            .or_else(|| self.env.get("DATABASE_URL").map(Secret::new))
            .or_else(|| self.file.database.url.clone())
            .filter(|url| !url.is_blank())
    }

    /// The directory of agent files.
    pub fn agents(&self, flag: Option<&Path>) -> PathBuf {
        flag.map(Path::to_path_buf)
            .or_else(|| self.env.get("STEADFAST_AGENTS").map(PathBuf::from))
            .or_else(|| self.file.agents.clone())
            .unwrap_or_else(|| crate::compose::DEFAULT_AGENTS.into())
    }

    /// The address a role listens on.
    pub fn host(&self, flag: Option<&str>) -> String {
        flag.or(self.env.get("STEADFAST_HOST"))
            .unwrap_or("127.0.0.1")
            .to_owned()
    }

    pub fn gateway_limits(&self) -> GatewayLimits {
        self.file.gateway.clone()
    }

    /// `host:port` of servers `http_get` may reach although they are not public.
    pub fn http_get_allow_hosts(&self) -> &[String] {
        &self.file.tools.http_get_allow_hosts
    }
}

/// What is shown of a value that does not read.
fn brief(text: &str) -> String {
    text.chars().take(40).collect()
}
