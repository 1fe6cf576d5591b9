//! One process of a stack: started, killed, started again on the same port.

use std::{path::PathBuf, process::ExitStatus, sync::Arc, time::Duration};

use crate::{Proc, free_port, wait_http_ok};

use super::binary;

/// A debug binary on a busy machine needs this long to come up, at the most.
const START_MAX: Duration = Duration::from_secs(40);

/// Heard by test builds only.
const FORGETS: &str = "STEADFAST_TEST_FORGETS";

pub type Env = Arc<Vec<(String, String)>>;

pub struct Role {
    pub name: String,
    port: u16,
    args: Vec<String>,
    env: Env,
    log: PathBuf,
    proc: Option<Proc>,
}

impl Role {
    /// `args` without host and port, which every role takes.
    pub fn new(name: impl Into<String>, args: &[&str], env: Env, dir: &std::path::Path) -> Self {
        let (name, port) = (name.into(), free_port());
        let place = ["--host", "127.0.0.1", "--port", &port.to_string()].map(String::from);
        let args = args.iter().map(|arg| (*arg).into()).chain(place).collect();
        Self {
            log: dir.join(format!("{name}.log")),
            name,
            port,
            args,
            env,
            proc: None,
        }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn pid(&self) -> Option<u32> {
        self.proc.as_ref().map(Proc::pid)
    }

    /// Starts the process; [`Role::ready`] waits for it.
    pub fn launch(&mut self) {
        let args: Vec<&str> = self.args.iter().map(String::as_str).collect();
        let env = self.env.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let proc = Proc::spawn(binary::steadfast(), &args, env, &self.log);
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
