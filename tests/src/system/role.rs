//! One process of a stack: started, killed, started again on the same port.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::Arc,
    time::Duration,
};

use crate::{Proc, free_port, wait_http_ok};

use super::{binary, home};

/// A debug binary on a busy machine needs this long to come up, at the most.
const START_MAX: Duration = Duration::from_secs(40);

/// Heard by test builds only.
const FORGETS: &str = "STEADFAST_TEST_FORGETS";
/// Who does not say that it is ready within this is not.
const ANSWER_MAX: Duration = Duration::from_secs(1);

pub type Env = Arc<Vec<(String, String)>>;

pub struct Role {
    pub name: String,
    port: u16,
    program: &'static Path,
    args: Vec<String>,
    env: Env,
    /// Of this process alone.
    own_env: BTreeMap<String, String>,
    log: PathBuf,
    proc: Option<Proc>,
}

impl Role {
    /// `args` without host and port, which every role takes.
    pub fn new(name: impl Into<String>, args: &[&str], env: Env, dir: &Path) -> Self {
        let (name, port) = (name.into(), free_port());
        let place = ["--host", "127.0.0.1", "--port", &port.to_string()].map(String::from);
        let args = args.iter().map(|arg| (*arg).into()).chain(place).collect();
        Self {
            log: dir.join(format!("{name}.log")),
            name,
            port,
            program: binary::steadfast(),
            args,
            env,
            own_env: BTreeMap::new(),
            proc: None,
        }
    }

    /// Another build of the program.
    pub fn running(self, program: &'static Path) -> Self {
        Self { program, ..self }
    }

    /// From its next start on, for this process alone; an empty value counts as unset.
    pub fn set_env(&mut self, name: &str, value: impl Into<String>) {
        self.own_env.insert(name.into(), value.into());
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn pid(&self) -> Option<u32> {
        self.proc.as_ref().map(Proc::pid)
    }

    /// The sum of a metric over all its labels that hold `label`, as the process tells it.
    pub async fn metric(&self, name: &str, label: &str) -> Option<f64> {
        let answer = crate::http().get(format!("{}/metrics", self.url())).send().await.ok()?;
        let text = answer.text().await.ok()?;
        let of_this = |line: &&str| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with(['{', ' ']) && rest.contains(label))
        };
        let values = text
            .lines()
            .filter(of_this)
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        Some(values.sum())
    }

    /// Starts the process; [`Role::ready`] waits for it.
    pub fn launch(&mut self) {
        let args: Vec<&str> = self.args.iter().map(String::as_str).collect();
        let shared = self.env.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let own = self.own_env.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let proc = Proc::spawn(self.program, &args, shared.chain(own), &self.log);
        self.proc = Some(proc.unwrap_or_else(|error| panic!("{} did not start: {error}", self.name)));
    }

    pub async fn ready(&self) {
        let up = wait_http_ok(&format!("{}/readyz", self.url()), START_MAX).await;
        up.unwrap_or_else(|error| panic!("{} did not become ready: {error}", self.name));
    }

    /// From its next start on, the process is one of a build from before this event type.
    pub fn pretend_older(&mut self, event: &str) {
        Arc::make_mut(&mut self.env).push((FORGETS.into(), event.into()));
    }

    pub fn pretend_today(&mut self) {
        Arc::make_mut(&mut self.env).retain(|(name, _)| name != FORGETS);
    }

    /// Whether it is ready now.
    pub async fn is_ready(&self) -> bool {
        let asked = crate::http().get(format!("{}/readyz", self.url())).timeout(ANSWER_MAX);
        self.pid().is_some() && asked.send().await.is_ok_and(|answer| answer.status().is_success())
    }

    /// Whether it is there and ready, and what it said last.
    pub async fn state(&mut self) -> String {
        let running = self.proc.as_mut().is_some_and(Proc::is_running);
        let state = match running {
            true if self.is_ready().await => "ready",
            true => "not ready",
            false => "not running",
        };
        format!("{} is {state}; it said last: {}", self.name, home::last_line(&self.log))
    }

    pub fn kill9(&mut self) {
        self.proc = None;
    }

    /// Freezes the process as it stands.
    pub fn sigstop(&mut self) {
        self.proc.iter_mut().for_each(Proc::sigstop);
    }

    pub fn sigcont(&mut self) {
        self.proc.iter_mut().for_each(Proc::sigcont);
    }

    pub async fn restart(&mut self) {
        self.kill9();
        self.launch();
        self.ready().await;
    }

    pub fn sigterm(&mut self) {
        self.proc.iter_mut().for_each(Proc::sigterm);
    }

    pub async fn wait_exit(&mut self, timeout: Duration) -> Option<ExitStatus> {
        match &mut self.proc {
            Some(proc) => proc.wait_exit(timeout).await,
            None => None,
        }
    }
}
