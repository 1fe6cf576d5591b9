//! The command line: what there is, and the help that teaches it.

mod client;
mod database;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub use client::{Amounts, Bench, Eval, Run, Runs, Server};
pub use database::{Check, Database, Doctor, Keys, Projections};

use crate::config::LogFormat;

const ABOUT: &str = "A backend for AI agents that do not lose their work.

Everything in one process, nothing to install:   steadfast dev
The same in parts, on Postgres and NATS:         steadfast migrate, gateway, worker, projector";

const EXAMPLES: &str = "Examples:
  steadfast dev                                  start everything on 127.0.0.1:8080
  steadfast run \"What is 6 * 7?\"                 give it a task and watch
  steadfast runs list                            what was asked so far
  steadfast check                                does the log keep its promises?

Settings come from flags, then from the environment, then from ./steadfast.toml; an empty variable counts as unset.
Logs go to stderr, results to stdout. Exit codes: 0 yes, 1 no (a run failed, a check found damage), 2 could not be done,
130 interrupted.";

#[derive(Parser)]
#[command(name = "steadfast", version, about = ABOUT, after_help = EXAMPLES)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Args)]
#[command(next_help_heading = "Settings")]
pub struct Global {
    /// Read settings from this file instead of ./steadfast.toml
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What to log: a level, or levels by part [env: STEADFAST_LOG] [default: info for servers, warn for commands]
    #[arg(long, global = true, value_name = "FILTER")]
    pub log: Option<String>,
    /// How to log [env: STEADFAST_LOG_FORMAT] [default: text]
    #[arg(long, global = true, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
}

#[derive(Subcommand)]
pub enum Command {
    /// Run everything in one process, on SQLite: no server, no key
    Dev(Dev),
    /// Serve the HTTP API (needs Postgres and NATS)
    Gateway(Gateway),
    /// Execute runs (needs Postgres and NATS)
    Worker(Role),
    /// Keep the read models up to date (needs Postgres)
    Projector(Role),
    /// Bring the database and the queue to this build's version
    Migrate(Migrate),
    /// Give an agent a task and watch it work
    Run(Run),
    /// List, show, follow and cancel runs
    #[command(subcommand)]
    Runs(Runs),
    /// Make, list and revoke API keys (works on the database itself)
    #[command(subcommand)]
    Keys(Keys),
    /// Verify that the database keeps its promises
    Check(Check),
    /// Say what is reachable, and what to do about the rest
    Doctor(Doctor),
    /// Rebuild read models from the log
    #[command(subcommand)]
    Projections(Projections),
    /// Score an agent against a dataset
    #[command(subcommand)]
    Eval(Eval),
    /// Measure a running Steadfast with a closed loop of clients
    Bench(Bench),
}

#[derive(Args)]
#[command(
    after_help = "Example:\n  OPENAI_BASE_URL=http://127.0.0.1:18400/v1 steadfast dev --port 9000 --data-dir /tmp/try"
)]
pub struct Dev {
    /// The address to listen on; any but a loopback address needs identity [env: STEADFAST_HOST] [default: 127.0.0.1]
    #[arg(long)]
    pub host: Option<String>,
    /// The port to listen on; 0 for any that is free
    #[arg(long, default_value_t = 8080)]
    pub port: u16,
    /// Where everything is kept
    #[arg(long, value_name = "DIR", default_value = ".steadfast")]
    pub data_dir: PathBuf,
    /// The directory of agent files [env: STEADFAST_AGENTS] [default: agents]
    #[arg(long, value_name = "DIR")]
    pub agents: Option<PathBuf>,
}

#[derive(Args)]
pub struct Servers {
    /// The database, postgres://… [env: DATABASE_URL]
    #[arg(long, value_name = "URL")]
    pub database: Option<String>,
    /// The message server, nats://… [env: NATS_URL]
    #[arg(long, value_name = "URL")]
    pub nats: Option<String>,
}

#[derive(Args)]
#[command(
    after_help = "Example:\n  DATABASE_URL=postgres://… NATS_URL=nats://… STEADFAST_API_KEYS=true steadfast gateway --host 0.0.0.0\n\n\
    Identity, needed on any but a loopback address: STEADFAST_JWT_SECRET or STEADFAST_JWKS_URL, with \
    STEADFAST_JWT_AUDIENCE (and STEADFAST_JWT_ISSUER); or STEADFAST_API_KEYS=true for API keys alone."
)]
pub struct Gateway {
    #[command(flatten)]
    pub role: Role,
    /// The directory of agent files [env: STEADFAST_AGENTS] [default: agents]
    #[arg(long, value_name = "DIR")]
    pub agents: Option<PathBuf>,
}

/// What every separate role takes. Workers and projectors serve only /healthz, /readyz and /metrics.
#[derive(Args)]
pub struct Role {
    /// The address to listen on [env: STEADFAST_HOST] [default: 127.0.0.1]
    #[arg(long)]
    pub host: Option<String>,
    /// The port to listen on; 0 for any that is free [default: gateway 8080, worker 8081, projector 8082]
    #[arg(long)]
    pub port: Option<u16>,
    #[command(flatten)]
    pub servers: Servers,
}

#[derive(Args)]
pub struct Migrate {
    #[command(flatten)]
    pub servers: Servers,
    /// The database was restored from a backup into another cluster: begin a new generation of the log. Stop all
    /// roles first. Nothing starts in such a cluster without it; given where it was not needed it does no harm
    #[arg(long)]
    pub restored: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
