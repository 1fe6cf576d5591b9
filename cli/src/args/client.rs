//! The commands that talk to a running Steadfast.

use std::path::PathBuf;

use clap::{Args, Subcommand};

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
    after_help = "The answer goes to stdout, as it comes on a terminal, whole otherwise; everything else to stderr. Ctrl-C stops watching; the run goes on.\n\
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

/// What a run may spend in all.
#[derive(Args)]
#[group(required = true, multiple = true)]
pub struct Amounts {
    /// Model calls that answered
    #[arg(long)]
    pub steps: Option<u64>,
    /// Input and output together
    #[arg(long)]
    pub tokens: Option<u64>,
    /// US dollars
    #[arg(long)]
    pub usd: Option<f64>,
    /// Since the request, waiting included
    #[arg(long)]
    pub seconds: Option<u64>,
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
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        server: Server,
    },
    /// One run as it stands now
    Show {
        /// The run's id, run_…
        id: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        server: Server,
    },
    /// What happened and happens in a run, up to its end
    #[command(
        after_help = "Exit codes: 0 completed (or nothing is left to see), 1 failed or cancelled, 130 stopped watching.\n\n\
        Example:\n  steadfast runs tail run_… --after 7.5"
    )]
    Tail {
        /// The run's id, run_…
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
    /// What a run asked people, and what they said
    #[command(
        after_help = "After a crash, a tool that must not run twice and had started may or may not have taken \
        effect: the run asks.\nExample:\n  steadfast runs approvals run_…"
    )]
    Approvals {
        /// The run's id, run_…
        id: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        server: Server,
    },
    /// Let a run do again what a crash cut off, or say what it came to
    #[command(
        after_help = "Look at the tool's own records first: it may have taken effect.\nExamples:\n  \
        steadfast runs approve run_…                         # run the tool again\n  \
        steadfast runs approve run_… --output '{\"receipt\": 7}'  # it had run; this is what it came to\n\n\
        The key needs the scope approvals:write; who decided is in the run's log."
    )]
    Approve {
        /// The run's id, run_…
        id: String,
        /// Which question, such as apr_8; needed only where several are open
        approval: Option<String>,
        /// Do not run the tool again: this is its output
        #[arg(long, value_name = "TEXT")]
        output: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        server: Server,
    },
    /// Do not let a run do again what a crash cut off
    #[command(
        after_help = "A tool call is told to the model as cut off, and the run goes on; a run whose model call is not \
        repeated fails.\nExample:\n  steadfast runs deny run_… --reason \"the money has arrived\""
    )]
    Deny {
        /// The run's id, run_…
        id: String,
        /// Which question, such as apr_8; needed only where several are open
        approval: Option<String>,
        /// Why, for the record and the model
        #[arg(long)]
        reason: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        server: Server,
    },
    /// Raise a run's budget; a run that waits for it goes on
    #[command(
        after_help = "Amounts are new totals and can only be raised. `steadfast runs show` says what is short.\n\
        Example:\n  steadfast runs budget run_… --tokens 200000 --usd 1.50\n\n\
        The key needs the scope approvals:write; who raised it is in the run's log."
    )]
    Budget {
        /// The run's id, run_…
        id: String,
        #[command(flatten)]
        amounts: Amounts,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        server: Server,
    },
    /// Ask a run to stop
    Cancel {
        /// The run's id, run_…
        id: String,
        /// Why, for the record
        #[arg(long)]
        reason: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        server: Server,
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
    after_help = "Every client posts a task with \"stream\": true, reads the stream to its end, and posts the next. Errors are \
    all runs\nthat did not complete, also those posted while warming up.\n\
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
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}
