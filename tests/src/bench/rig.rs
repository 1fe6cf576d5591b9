//! A clean system to measure: every process by itself, the scripted model too, so that each one's cost is its own.

use std::{path::PathBuf, time::Duration};

use serde_json::{Map, Value};
use sqlx::{Connection, FromRow, PgConnection, SqliteConnection, postgres::PgRow, sqlite::SqliteRow};

use super::{Figures, Options, costs::Watched, settled::Ended};
use crate::{
    Proc, Result, free_port,
    system::{Layout, Mode, Role, Stack, program_beside},
    wait_http_ok,
};

/// Looks something up and answers: the shape of almost every run.
pub const AGENT: &str = "bench";
/// Has no tools, so it answers at once.
pub const TALKER: &str = "talker";
/// Of one run of [`AGENT`]; what it says does not matter, how long it is does.
pub const TASK: &str = "look something up";
/// Of the model, that a run of [`AGENT`] with [`TASK`] takes: one asks for the tool, one answers.
pub const CALLS: u64 = 2;

/// Runs of a worker at the same time, at the least. Fewer keep two cores busy with a model that answers at once, but who finds
/// no slot waits in the line and is written once more; with as many as 1,024 the worker needs more memory and CPU.
const SLOTS_MIN: u64 = 256;
/// Of each role: three of them and their servers share two cores, and more threads would only take turns.
const THREADS: &str = "1";
/// Of Postgres: what a careful production server would have, on a machine of a few gigabytes.
const POSTGRES: [&str; 2] = ["shared_buffers=512MB", "max_wal_size=4GB"];
/// For the statistics of its statements.
pub const STATEMENTS: &str = "shared_preload_libraries=pg_stat_statements";
/// Checking a million events takes its time.
const CHECK_MAX: Duration = Duration::from_secs(3600);
const MODEL_START_MAX: Duration = Duration::from_secs(20);
const STOP_MAX: Duration = Duration::from_secs(30);

/// What a scenario needs beside the usual.
#[derive(Debug, Clone, Copy, Default)]
pub struct Setup {
    /// Runs of the one tenant at the same time; more would wait in its line.
    pub slots: u64,
    /// Of the agent; its default where this is 0.
    pub steps_max: u64,
    /// The model waits so long before each word but the first.
    pub token_ms: u64,
}

pub struct Rig {
    pub stack: Stack,
    model: Model,
    pub settings: Map<String, Value>,
}

/// The scripted model, as a process.
struct Model {
    proc: Proc,
    url: String,
    log: PathBuf,
}

impl Rig {
    pub async fn start(options: &Options, setup: Setup) -> Result<Self> {
        let model = Model::start(setup.token_ms).await?;
        let slots = options.slots.unwrap_or(setup.slots.max(SLOTS_MIN));
        let mut postgres: Vec<String> = POSTGRES.map(String::from).into();
        if options.statements {
            postgres.push(STATEMENTS.into());
        }
        let layout = match options.mode {
            Mode::Embedded => Layout::embedded(),
            Mode::Distributed => Layout::distributed()
                .workers(1)
                .private_servers()
                .postgres_settings(&postgres)
                .env("TOKIO_WORKER_THREADS", THREADS),
        };
        // One tenant asks for everything, so the walls between tenants would be all that is measured.
        let config = format!(
            "[worker]\nslots = {slots}\nruns_per_tenant_max = {slots}\n[gateway]\nstreams_max = 100000\n\
             streams_per_tenant_max = 100000\nconnections_max = 100000\nheld_runs_per_tenant_max = 10000000\n\
             waited_seconds_max = 0\n"
        );
        let limits = match setup.steps_max {
            0 => String::new(),
            steps => format!("[limits]\nsteps_max = {steps}\n"),
        };
        let agent = |tools| format!("instructions = \"You look things up.\"\ntools = {tools}\n{limits}");
        let stack = layout
            .program(options.program())
            .without_provider()
            .env("OPENAI_BASE_URL", &model.url)
            .env("OPENAI_API_KEY", "of-a-bench")
            .env("STEADFAST_MODEL", "scripted-server")
            .env("STEADFAST_LOG", "warn")
            .agent(AGENT, &agent("[\"lookup\"]"))
            .agent(TALKER, &agent("[]"))
            .config(&config)
            .start()
            .await;
        let mut settings = Map::new();
        let mode = match options.mode {
            Mode::Embedded => "embedded (one process, SQLite)",
            Mode::Distributed => "distributed (gateway, worker and projector on Postgres and NATS)",
        };
        settings.insert("mode".into(), mode.into());
        settings.insert("worker.slots".into(), slots.into());
        settings.insert("worker.runs_per_tenant_max".into(), slots.into());
        settings.insert("gateway.waited_seconds_max".into(), 0.into());
        if setup.steps_max > 0 {
            settings.insert("agent.limits.steps_max".into(), setup.steps_max.into());
        }
        settings.insert("model.token_ms".into(), setup.token_ms.into());
        if options.mode == Mode::Distributed {
            let all = ["fsync=on, max_connections=200", &postgres.join(", ")].join(", ");
            settings.insert("postgres".into(), all.into());
            settings.insert("TOKIO_WORKER_THREADS".into(), THREADS.into());
        }
        Ok(Self { stack, model, settings })
    }

    /// Every process there is, the model last.
    pub fn watched(&self) -> Vec<Watched> {
        let mut watched = self.ours();
        watched.extend(watch("model", Some(self.model.proc.pid())));
        watched
    }

    /// Without the model: what a run costs whoever runs Steadfast.
    pub fn ours(&self) -> Vec<Watched> {
        let stack = &self.stack;
        let pid = |roles: &[Role]| roles.first().and_then(Role::pid);
        let gateway = match stack.mode {
            Mode::Embedded => "steadfast",
            Mode::Distributed => "gateway",
        };
        let all = [
            watch(gateway, pid(&stack.gateways)),
            watch("worker", pid(&stack.workers)),
            watch("projector", pid(&stack.projectors)),
            watch("postgres", stack.postgres.as_ref().and_then(|postgres| postgres.pid())),
            watch("nats", stack.nats.as_ref().and_then(|nats| nats.pid())),
        ];
        all.into_iter().flatten().collect()
    }

    /// One of [`Rig::watched`] by its name.
    pub fn named(&self, name: &str) -> Result<Watched> {
        let watched = self.watched();
        let names: Vec<String> = watched.iter().map(|watched| watched.name.clone()).collect();
        let found = watched.into_iter().find(|watched| watched.name == name);
        found.ok_or_else(|| format!("there is no process {name:?} here; there are {}", names.join(", ")).into())
    }

    /// The process clients talk to.
    pub fn front(&self) -> Result<Watched> {
        self.ours().into_iter().next().ok_or_else(|| "no gateway runs".into())
    }

    /// Where clients connect: `host:port`.
    pub fn address(&self) -> String {
        self.stack.gateways[0].url().trim_start_matches("http://").into()
    }

    /// The URL of its database, in the distributed mode.
    pub fn database(&self) -> Result<String> {
        let postgres = self.stack.postgres.as_ref();
        postgres
            .map(|postgres| postgres.url("postgres"))
            .ok_or_else(|| "this needs Postgres: leave --mode embedded out".into())
    }

    /// What its database answers, in either mode.
    pub async fn rows<R>(&self, query: &'static str) -> Result<Vec<R>>
    where
        R: for<'r> FromRow<'r, PgRow> + for<'r> FromRow<'r, SqliteRow> + Send + Unpin,
    {
        if self.stack.mode == Mode::Distributed {
            let mut connection = PgConnection::connect(&self.database()?).await?;
            return Ok(sqlx::query_as(query).fetch_all(&mut connection).await?);
        }
        let file = self.stack.file("data").join("steadfast.db");
        let mut connection = SqliteConnection::connect(&format!("sqlite://{}?mode=ro", file.display())).await?;
        Ok(sqlx::query_as(query).fetch_all(&mut connection).await?)
    }

    /// Nothing was lost: the operator's check over the whole database, every run has ended, and all of them as they had to.
    /// The last thing that is asked of a rig: its processes are stopped.
    pub async fn settle(&mut self, ended: &Ended, figures: &mut Figures) {
        let report = self.stack.check_within(CHECK_MAX).await;
        let number = |name: &str| report[name].as_u64().unwrap_or_default();
        let (runs, open, events) = (number("runs"), number("open_runs"), number("events"));
        let mut faults = vec![];
        if report["ok"] != true || open > 0 {
            faults.push(format!("`steadfast check --settled`: {open} runs open: {report}"));
        }
        match self.found().await {
            Ok(found) => {
                faults.extend(ended.faults(&found));
                let again = ended.calls_again(&found);
                if again > 0 {
                    figures.note(format!("the model was asked {again} times more than these runs take"));
                }
            }
            Err(error) => faults.push(format!("the runs in the log were not counted: {error}")),
        }
        faults.extend(self.stop().await);
        if faults.is_empty() {
            figures.note(format!(
                "`steadfast check --settled`: {runs} runs and {events} events, every promise kept, none open; each ended \
                 as it had to"
            ));
        } else {
            let kept = self.stack.keep().display().to_string();
            faults.into_iter().for_each(|fault| figures.fault(fault));
            figures.note(format!("logs and data are kept in {kept}"));
        }
    }

    /// Politely, so that a build made to write something down at its end does; whoever does not end well is named.
    async fn stop(&mut self) -> Vec<String> {
        let mut faults = vec![];
        for role in self.stack.roles().filter(|role| role.pid().is_some()) {
            role.sigterm();
            let ended = role.wait_exit(STOP_MAX).await;
            if !ended.is_some_and(|status| status.success()) {
                let state = role.state().await;
                faults.push(format!(
                    "asked to stop, a process did not end well ({ended:?}): {state}"
                ));
            }
        }
        faults
    }

    /// Requests to the model so far.
    pub async fn calls(&self) -> Result<u64> {
        let url = format!("{}/stats", self.model.url.trim_end_matches("/v1"));
        let stats: Value = serde_json::from_str(&crate::http().get(url).send().await?.text().await?)?;
        let requests = stats["requests"].as_u64();
        requests.ok_or_else(|| format!("the model does not say how often it was asked: {stats}").into())
    }
}

fn watch(name: &str, pid: Option<u32>) -> Option<Watched> {
    pid.map(|pid| Watched { name: name.into(), pid })
}

impl Model {
    async fn start(token_ms: u64) -> Result<Self> {
        let program = program_beside("scripted-model")?;
        let port = free_port();
        let log = std::env::temp_dir().join(format!("steadfast_model_{}.log", crate::unique()));
        let (port_arg, token_arg) = (port.to_string(), token_ms.to_string());
        let args = ["--port", port_arg.as_str(), "--token-ms", token_arg.as_str()];
        let model = Self {
            proc: Proc::spawn(program, &args, [], &log)?,
            url: format!("http://127.0.0.1:{port}/v1"),
            log,
        };
        wait_http_ok(&format!("{}/models", model.url), MODEL_START_MAX).await?;
        Ok(model)
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        std::fs::remove_file(&self.log).ok();
    }
}
