//! The command line: what there is, and the help that teaches it.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

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
Logs go to stderr, results to stdout. Exit codes: 0 yes, 1 no (a run failed, a check found damage), 2 could not be done.";

#[derive(Parser)]
#[command(name = "steadfast", version, about = ABOUT, after_help = EXAMPLES, max_term_width = 110)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Args)]
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
    Worker(Role<8081>),
    /// Keep the read models up to date (needs Postgres)
    Projector(Role<8082>),
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
    pub role: Role<8080>,
    /// The directory of agent files [env: STEADFAST_AGENTS] [default: agents]
    #[arg(long, value_name = "DIR")]
    pub agents: Option<PathBuf>,
}

/// What every separate role takes. Workers and projectors serve only /healthz, /readyz and /metrics.
#[derive(Args)]
pub struct Role<const PORT: u16> {
    /// The address to listen on [env: STEADFAST_HOST] [default: 127.0.0.1]
    #[arg(long)]
    pub host: Option<String>,
    /// The port to listen on; 0 for any that is free
    #[arg(long, default_value_t = PORT)]
    pub port: u16,
    #[command(flatten)]
    pub servers: Servers,
}

#[derive(Args)]
pub struct Migrate {
    #[command(flatten)]
    pub servers: Servers,
    /// The database was restored from a backup into another cluster: begin a new generation of the log. Stop all
    /// roles first
    #[arg(long)]
    pub restored: bool,
}

/// Which running Steadfast to talk to.
#[derive(Args)]
pub struct Server {
    /// The address of the gateway [env: STEADFAST_URL] [default: http://127.0.0.1:8080]
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// An API key or a token, where the gateway wants one [env: STEADFAST_API_KEY]
    #[arg(long, value_name = "KEY", hide_env_values = true)]
    pub api_key: Option<String>,
}

#[derive(Args)]
#[command(
    after_help = "The answer goes to stdout as it comes, everything else to stderr. Ctrl-C stops watching; the run goes on.\n\
    Exit codes: 0 completed, 1 failed or cancelled, 130 stopped watching.\n\nExamples:\n  \
    steadfast run \"What is 6 * 7?\"\n  steadfast run --session ses_… \"And half of that?\"\n  \
    steadfast run --json \"What time is it?\" | jq -r .type"
)]
pub struct Run {
    /// The task
    pub task: String,
    /// Which agent gets it [default: assistant]
    #[arg(long)]
    pub agent: Option<String>,
    /// Go on in this session
    #[arg(long, value_name = "ID")]
    pub session: Option<String>,
    /// Print every frame of the stream as a line of JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub server: Server,
}

#[derive(Subcommand)]
pub enum Runs {
    /// The newest runs
    #[command(after_help = "Example:\n  steadfast runs list --status failed --limit 5")]
    List {
        /// Only those in this state: queued, running, waiting, completed, failed, cancelled
        #[arg(long)]
        status: Option<String>,
        /// Only those of this agent
        #[arg(long)]
        agent: Option<String>,
        /// Only those of this session
        #[arg(long, value_name = "ID")]
        session: Option<String>,
        /// How many (1 to 100)
        #[arg(long, default_value_t = 20)]
        limit: u32,
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        server: Server,
    },
    /// One run as it stands now
    Show {
        id: String,
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        server: Server,
    },
    /// What happened and happens in a run, up to its end
    #[command(after_help = "Example:\n  steadfast runs tail run_… --after 7.5")]
    Tail {
        id: String,
        /// Only what comes after this cursor: the `id` of the last frame that was seen
        #[arg(long, value_name = "CURSOR")]
        after: Option<String>,
        /// Print every frame of the stream as a line of JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        server: Server,
    },
    /// Ask a run to stop
    Cancel {
        id: String,
        /// Why, for the record
        #[arg(long)]
        reason: Option<String>,
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        server: Server,
    },
}

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
        /// What it may do, separated by commas: runs:write, runs:read, sessions:write, sessions:read, usage:read, or *
        #[arg(long, value_delimiter = ',', default_value = "*")]
        scopes: Vec<String>,
        /// After how many days it ends; never, if left out
        #[arg(long, value_name = "DAYS")]
        expires_days: Option<u32>,
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        database: Database,
    },
    /// The keys there are, without their secrets
    List {
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
    steadfast check --settled --json       and no run may be open; for programs"
)]
pub struct Check {
    #[command(flatten)]
    pub database: Database,
    /// No run may be open: the system is at rest
    #[arg(long)]
    pub settled: bool,
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

#[derive(Subcommand)]
pub enum Eval {
    /// Run a dataset and open or close the gate: exit code 0 passed, 1 not
    #[command(
        after_help = "Example:\n  steadfast eval run evals/examples/assistant.yaml --report report.json\n\n\
        A dataset with a judge asks OPENAI_BASE_URL with OPENAI_API_KEY; STEADFAST_MODEL is its model unless the dataset \
        names one."
    )]
    Run {
        /// The dataset, YAML
        file: PathBuf,
        /// Write the report as JSON
        #[arg(long, value_name = "FILE")]
        report: Option<PathBuf>,
        /// Write the report as JUnit XML
        #[arg(long, value_name = "FILE")]
        junit: Option<PathBuf>,
        /// Print the report as JSON instead of a summary
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        server: Server,
    },
}

#[derive(Args)]
#[command(
    after_help = "Every client posts a task with \"stream\": true, reads the stream to its end, and posts the next.\n\
    Limits: the generator shares the machine with what it measures (it costs some 0.1 ms of CPU a run); a closed loop \
    hides the\nwait of clients that would have come meanwhile; --pids reads /proc, so it works on Linux and for local \
    processes only.\n\nExample:\n  steadfast bench --c 1,16,64 --seconds 10 --pids steadfast=$(pgrep -f 'steadfast dev')"
)]
pub struct Bench {
    #[command(flatten)]
    pub server: Server,
    /// Clients at the same time; several levels one after the other
    #[arg(long, value_delimiter = ',', default_value = "1,16,64", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub c: Vec<u32>,
    /// How long each level is measured, after two seconds of warming up
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub seconds: u64,
    /// Which agent gets the tasks [default: assistant]
    #[arg(long)]
    pub agent: Option<String>,
    /// The task every run gets
    #[arg(long, default_value = "What is 6 * 7?")]
    pub task: String,
    /// Processes whose CPU and memory are counted, their children included
    #[arg(long, value_delimiter = ',', value_name = "NAME=PID")]
    pub pids: Vec<String>,
    #[arg(long)]
    pub json: bool,
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
