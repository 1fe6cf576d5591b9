//! A whole system under test: processes, servers and a model, started together and gone together.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use crate::{PrivateNats, PrivatePostgres, ScriptedModel};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{
    api::Api,
    home,
    network::Network,
    role::{Env, Role},
};

/// Systems at work at the same time: more would only make each other slow.
const STACKS_MAX: usize = 2;
static ROOM: Semaphore = Semaphore::const_new(STACKS_MAX);

/// A command of the command line that takes longer hangs.
const COMMAND_MAX: Duration = Duration::from_secs(90);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// One process on SQLite.
    Embedded,
    /// A process for each role, on Postgres and NATS.
    Distributed,
}

/// Leave to be at work.
pub async fn room() -> SemaphorePermit<'static> {
    ROOM.acquire().await.expect("the semaphore is never closed")
}

pub struct Stack {
    pub mode: Mode,
    pub(super) program: &'static Path,
    /// In the embedded mode, the one process there is.
    pub gateways: Vec<Role>,
    pub workers: Vec<Role>,
    pub projectors: Vec<Role>,
    pub(super) model: Option<ScriptedModel>,
    pub(super) spare: Option<ScriptedModel>,
    pub postgres: Option<PrivatePostgres>,
    pub nats: Option<PrivateNats>,
    pub(super) network: Option<Network>,
    pub(super) dir: PathBuf,
    pub(super) env: Env,
    pub(super) _room: Option<SemaphorePermit<'static>>,
    pub(super) kept: bool,
}

impl Stack {
    pub fn roles(&mut self) -> impl Iterator<Item = &mut Role> {
        self.gateways
            .iter_mut()
            .chain(&mut self.workers)
            .chain(&mut self.projectors)
    }

    pub fn model(&self) -> &ScriptedModel {
        self.model.as_ref().expect("a stack with a scripted model")
    }

    /// The network of a stack that was given one.
    pub fn network(&self) -> &Network {
        self.network.as_ref().expect("a stack with a network")
    }

    /// The provider `spare` of a stack that was given one.
    pub fn spare(&self) -> &ScriptedModel {
        self.spare.as_ref().expect("a stack with a spare model")
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
        self.cli_within(COMMAND_MAX, args).await
    }

    /// As [`Stack::cli`], for a command that may take its time.
    pub async fn cli_within(&self, limit: Duration, args: &[&str]) -> Ran {
        let mut command = tokio::process::Command::new(self.program);
        command
            .args(args)
            .envs(self.env.iter().map(|(name, value)| (name, value)));
        command.env("STEADFAST_URL", self.gateways[0].url());
        command.stdin(Stdio::null()).kill_on_drop(true);
        let ran = tokio::time::timeout(limit, command.output()).await;
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

    /// The report of `steadfast check --settled`, whatever it says.
    pub async fn check(&self) -> serde_json::Value {
        self.check_within(COMMAND_MAX).await
    }

    /// As [`Stack::check`], for a database that takes its time.
    pub async fn check_within(&self, limit: Duration) -> serde_json::Value {
        let database = self.database();
        let mut args = vec!["check", "--settled", "--json"];
        args.extend(database.iter().map(String::as_str));
        let ran = self.cli_within(limit, &args).await;
        serde_json::from_str(&ran.stdout)
            .unwrap_or_else(|error| panic!("{error} in the report: {}\n{}", ran.stdout, ran.stderr))
    }

    /// The invariants hold, and no run is open. Answers the report.
    pub async fn check_settled(&self) -> serde_json::Value {
        let report = self.check().await;
        assert_eq!(report["ok"], true, "{report}");
        report
    }

    /// Of each process how it is: for the report about a system that did not do what it should.
    pub async fn states(&mut self) -> Vec<String> {
        let mut states = vec![];
        for role in self.roles() {
            states.push(role.state().await);
        }
        states.extend(self.nats.as_mut().map(|nats| {
            let running = if nats.is_running() { "running" } else { "not running" };
            format!(
                "nats-server is {running}; it said last: {}",
                home::last_line(&nats.log())
            )
        }));
        states
    }

    /// Keeps logs and data of a system that did not do what it should; answers where they are.
    pub fn keep(&mut self) -> &Path {
        self.kept = true;
        &self.dir
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if std::thread::panicking() {
            home::print_logs(&self.dir);
        }
        self.roles().for_each(Role::kill9);
        if !std::thread::panicking() && !self.kept {
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
