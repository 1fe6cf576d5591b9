//! A whole system under test: processes, servers and a model, started together and gone together.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use steadfast_tests::{PrivateNats, PrivatePostgres, ScriptedModel, Settings, fresh_prefix, services};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{
    api::Api,
    binary, home,
    role::{Env, Role},
};

/// Systems at work at the same time: more would only make each other slow.
const STACKS_MAX: usize = 2;
static ROOM: Semaphore = Semaphore::const_new(STACKS_MAX);

/// A command of the command line that takes longer hangs.
const COMMAND_MAX: Duration = Duration::from_secs(90);

/// What the environment of whoever starts the tests must not change. Empty counts as unset.
const CLEARED: [&str; 24] = [
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
    "HTTP_PROXY",
    "http_proxy",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// One process on SQLite.
    Embedded,
    /// A process for each role, on Postgres and NATS.
    Distributed,
}

/// What a stack is to be made of.
pub struct Layout {
    mode: Mode,
    gateways: usize,
    workers: usize,
    private: bool,
    model: Option<Settings>,
    env: Vec<(String, String)>,
    args: Vec<String>,
}

impl Layout {
    pub fn embedded() -> Self {
        let model = Some(Settings::default());
        Self {
            mode: Mode::Embedded,
            gateways: 1,
            workers: 0,
            private: false,
            model,
            env: vec![],
            args: vec![],
        }
    }

    /// One gateway, two workers, one projector.
    pub fn distributed() -> Self {
        Self {
            mode: Mode::Distributed,
            workers: 2,
            ..Self::embedded()
        }
    }

    pub fn gateways(self, gateways: usize) -> Self {
        Self { gateways, ..self }
    }

    /// Servers of its own, to be killed.
    pub fn private_servers(self) -> Self {
        Self { private: true, ..self }
    }

    pub fn model(self, settings: Settings) -> Self {
        Self {
            model: Some(settings),
            ..self
        }
    }

    /// The built-in model answers.
    pub fn without_provider(self) -> Self {
        Self { model: None, ..self }
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// More arguments for `steadfast dev`.
    pub fn dev_args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|arg| (*arg).into()));
        self
    }

    pub async fn start(self) -> Stack {
        let room = room().await;
        let mut stack = self.start_unbounded().await;
        stack._room = Some(room);
        stack
    }

    /// For stacks that many tests share: each takes [`room`] while it is at work.
    pub async fn start_unbounded(self) -> Stack {
        let dir = home::new();
        let model = match self.model.clone() {
            Some(settings) => Some(ScriptedModel::start_with(settings).await),
            None => None,
        };
        let (postgres, nats) = if self.private {
            let (postgres, nats) = tokio::join!(PrivatePostgres::start(), PrivateNats::start());
            (
                Some(postgres.expect("a Postgres of its own")),
                Some(nats.expect("a NATS of its own")),
            )
        } else {
            (None, None)
        };
        let env = self.environment(model.as_ref(), postgres.as_ref(), nats.as_ref()).await;
        let mut stack = Stack {
            mode: self.mode,
            gateways: vec![],
            workers: vec![],
            projectors: vec![],
            model,
            postgres,
            nats,
            dir,
            env,
            _room: None,
        };
        stack.make_roles(&self);
        if self.mode == Mode::Distributed {
            stack.cli(&["migrate"]).await.succeeded();
        }
        stack.roles().for_each(Role::launch);
        for role in stack.roles() {
            role.ready().await;
        }
        stack
    }

    async fn environment(
        &self,
        model: Option<&ScriptedModel>,
        postgres: Option<&PrivatePostgres>,
        nats: Option<&PrivateNats>,
    ) -> Env {
        let mut env: Vec<(String, String)> = CLEARED.map(|name| (name.into(), String::new())).into();
        let mut set = |name: &str, value: String| env.push((name.into(), value));
        if let Some(model) = model {
            set("OPENAI_BASE_URL", model.base_url());
            set("OPENAI_API_KEY", "of-a-test".into());
        }
        if self.mode == Mode::Distributed {
            let database = match postgres {
                Some(postgres) => postgres.url("postgres"),
                None => services().await.fresh_database().await,
            };
            let nats = match nats {
                Some(nats) => nats.url(),
                None => services().await.nats_url.clone(),
            };
            set("DATABASE_URL", database);
            set("NATS_URL", nats);
            set("STEADFAST_NATS_PREFIX", fresh_prefix());
        }
        env.extend(self.env.iter().cloned());
        Arc::new(env)
    }
}

/// Leave to be at work.
pub async fn room() -> SemaphorePermit<'static> {
    ROOM.acquire().await.expect("the semaphore is never closed")
}

pub struct Stack {
    pub mode: Mode,
    /// In the embedded mode, the one process there is.
    pub gateways: Vec<Role>,
    pub workers: Vec<Role>,
    pub projectors: Vec<Role>,
    model: Option<ScriptedModel>,
    pub postgres: Option<PrivatePostgres>,
    pub nats: Option<PrivateNats>,
    dir: PathBuf,
    env: Env,
    _room: Option<SemaphorePermit<'static>>,
}

impl Stack {
    fn make_roles(&mut self, layout: &Layout) {
        let role = |name: String, args: &[&str]| Role::new(name, args, self.env.clone(), &self.dir);
        match layout.mode {
            Mode::Embedded => {
                let data = self.dir.join("data");
                let mut args = vec!["dev", "--data-dir", data.to_str().expect("a path of ASCII")];
                args.extend(layout.args.iter().map(String::as_str));
                self.gateways = vec![role("dev".into(), &args)];
            }
            Mode::Distributed => {
                self.gateways = (1..=layout.gateways)
                    .map(|n| role(format!("gateway{n}"), &["gateway"]))
                    .collect();
                self.workers = (1..=layout.workers)
                    .map(|n| role(format!("worker{n}"), &["worker"]))
                    .collect();
                self.projectors = vec![role("projector".into(), &["projector"])];
            }
        }
    }

    pub fn roles(&mut self) -> impl Iterator<Item = &mut Role> {
        self.gateways
            .iter_mut()
            .chain(&mut self.workers)
            .chain(&mut self.projectors)
    }

    pub fn model(&self) -> &ScriptedModel {
        self.model.as_ref().expect("a stack with a scripted model")
    }

    pub fn api(&self) -> Api {
        self.apis().swap_remove(0)
    }

    /// One for each gateway.
    pub fn apis(&self) -> Vec<Api> {
        self.gateways.iter().map(|gateway| Api::new(&gateway.url())).collect()
    }

    /// A place for a test's own files.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Where to find the database: arguments for commands that look into it.
    pub fn database(&self) -> Vec<String> {
        match self.mode {
            Mode::Embedded => vec!["--data-dir".into(), self.dir.join("data").display().to_string()],
            Mode::Distributed => vec![],
        }
    }

    /// Runs `steadfast` with these arguments, pointed at this stack.
    pub async fn cli(&self, args: &[&str]) -> Ran {
        let mut command = tokio::process::Command::new(binary::steadfast());
        command
            .args(args)
            .envs(self.env.iter().map(|(name, value)| (name, value)));
        command.env("STEADFAST_URL", self.gateways[0].url());
        command.stdin(Stdio::null()).kill_on_drop(true);
        let ran = tokio::time::timeout(COMMAND_MAX, command.output()).await;
        let output = ran.unwrap_or_else(|_| panic!("`steadfast {}` hangs", args.join(" ")));
        let output = output.expect("`steadfast` starts");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let (stdout, stderr) = (text(output.stdout), text(output.stderr));
        Ran {
            command: args.join(" "),
            code: output.status.code(),
            stdout,
            stderr,
        }
    }

    /// `steadfast check --settled`: the invariants hold, and no run is open. Answers its report.
    pub async fn check_settled(&self) -> serde_json::Value {
        let database = self.database();
        let mut args = vec!["check", "--settled", "--json"];
        args.extend(database.iter().map(String::as_str));
        let ran = self.cli(&args).await.succeeded();
        serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error} in the report: {}", ran.stdout))
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if std::thread::panicking() {
            home::print_logs(&self.dir);
        }
        self.roles().for_each(Role::kill9);
        if !std::thread::panicking() {
            std::fs::remove_dir_all(&self.dir).ok();
        }
    }
}

/// Prints a shared stack's logs when the test that used it fails.
pub struct LogsOnPanic<'a>(pub &'a Stack);

impl Drop for LogsOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            home::print_logs(Path::new(&self.0.dir));
        }
    }
}

/// What a command did.
#[derive(Debug)]
pub struct Ran {
    pub command: String,
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    #[track_caller]
    pub fn succeeded(self) -> Self {
        self.exited(0)
    }

    #[track_caller]
    pub fn exited(self, code: i32) -> Self {
        let Self {
            command,
            stdout,
            stderr,
            ..
        } = &self;
        assert_eq!(self.code, Some(code), "`steadfast {command}` said:\n{stdout}\n{stderr}");
        self
    }
}
