//! The commands that work on a database, and need no running Steadfast.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Which database to open, for the commands that need no running Steadfast.
#[derive(Args)]
pub struct Database {
    /// The database, postgres://… or sqlite://… [env: DATABASE_URL]
    #[arg(long, value_name = "URL", conflicts_with = "data_dir")]
    pub database: Option<String>,
    /// The data directory of `steadfast dev` [default: .steadfast, if no database is named]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

#[derive(Subcommand)]
pub enum Keys {
    /// Make a key and print it, this once
    #[command(
        after_help = "Example:\n  steadfast keys create --name ci --scopes runs:write,runs:read --expires-days 90"
    )]
    Create {
        /// What it is for
        #[arg(long)]
        name: String,
        /// Whose runs and sessions it reaches
        #[arg(long, default_value = "default")]
        tenant: String,
        /// What it may do, separated by commas: runs:write, runs:read, approvals:write, sessions:write, sessions:read,
        /// usage:read, providers:read, or *
        #[arg(long, value_delimiter = ',', default_value = "*")]
        scopes: Vec<String>,
        /// After how many days it ends; never, if left out
        #[arg(long, value_name = "DAYS")]
        expires_days: Option<u32>,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        database: Database,
    },
    /// The keys there are, without their secrets
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        database: Database,
    },
    /// End a key now
    Revoke {
        /// The id that `keys list` shows
        id: String,
        #[command(flatten)]
        database: Database,
    },
}

#[derive(Args)]
#[command(
    after_help = "Reads everything, changes nothing, and may run beside a working system. Exit code 1 if anything is wrong.\n\n\
    Examples:\n  steadfast check                        the data of `steadfast dev`\n  \
    steadfast check --settled --json       and the system is at rest; for programs"
)]
pub struct Check {
    #[command(flatten)]
    pub database: Database,
    /// The system is at rest: no run may be open, and read models must reach the end of the log within 10 seconds
    #[arg(long)]
    pub settled: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
#[command(after_help = "Exit code 1 if anything that is configured does not work.")]
pub struct Doctor {
    #[command(flatten)]
    pub database: Database,
    /// The message server, nats://… [env: NATS_URL]
    #[arg(long, value_name = "URL")]
    pub nats: Option<String>,
    /// The directory of agent files [env: STEADFAST_AGENTS] [default: agents]
    #[arg(long, value_name = "DIR")]
    pub agents: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Subcommand)]
pub enum Projections {
    /// Build a read model anew beside the old one, then swap
    #[command(after_help = "Example:\n  steadfast projections rebuild all")]
    Rebuild {
        /// run_list, sessions, usage, or all
        name: String,
        #[command(flatten)]
        database: Database,
    },
}
