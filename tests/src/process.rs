//! Child processes that a test can kill, and that never outlive it.

use std::{
    fs::File,
    io,
    path::Path,
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::Result;

const POLL: Duration = Duration::from_millis(10);
const STOP_MAX: Duration = Duration::from_secs(2);

/// In `/proc` the state of a thread follows its name, which stands in brackets and may hold any.
fn all_stopped(pid: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return true;
    };
    let stats = threads
        .flatten()
        .filter_map(|thread| std::fs::read_to_string(thread.path().join("stat")).ok());
    let state = |stat: String| stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    stats.map(state).all(|state| matches!(state, Some('T' | 'Z' | 'X')))
}

/// A running program. Dropping it kills it.
#[derive(Debug)]
pub struct Proc {
    child: Child,
    _leash: Leash,
    exited: Option<ExitStatus>,
}

impl Proc {
    /// Starts `program`; what it prints goes to the end of `log`, so that several lives of one program share a file.
    pub fn spawn<'a>(
        program: impl AsRef<Path>,
        args: &[&str],
        env: impl IntoIterator<Item = (&'a str, &'a str)>,
        log: impl AsRef<Path>,
    ) -> Result<Self> {
        let program = program.as_ref();
        let mut command = Command::new(program);
        command.args(args).envs(env);
        Self::launch(command, log.as_ref(), None).map_err(|e| format!("cannot start {}: {e}", program.display()).into())
    }

    /// `sweep` is a directory to remove when the test process dies before it could clean up.
    pub(crate) fn launch(mut command: Command, log: &Path, sweep: Option<&Path>) -> io::Result<Self> {
        let out = File::options().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let mut child = command.spawn()?;
        let leash = Leash::new(child.id(), sweep).inspect_err(|_| drop(child.kill()))?;
        Ok(Self {
            child,
            _leash: leash,
            exited: None,
        })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn is_running(&mut self) -> bool {
        self.poll().is_none()
    }

    /// SIGKILL, and back only when the process is gone: its ports and files are free.
    pub fn kill9(&mut self) {
        if self.exited.is_none() {
            self.child.kill().ok();
            self.exited = self.child.wait().ok();
        }
    }

    /// Asks the process to end, as an orchestrator does.
    pub fn sigterm(&mut self) {
        self.signal(Signal::SIGTERM);
    }

    /// Freezes the process as it stands: the paused worker whose lease runs out.
    /// Back when every thread stands still: on a busy machine one may go on for a moment.
    pub fn sigstop(&mut self) {
        self.signal(Signal::SIGSTOP);
        let end = Instant::now() + STOP_MAX;
        while !all_stopped(self.pid()) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub fn sigcont(&mut self) {
        self.signal(Signal::SIGCONT);
    }

    /// The exit status, or None when the process still runs at the end of `timeout`.
    pub async fn wait_exit(&mut self, timeout: Duration) -> Option<ExitStatus> {
        let end = Instant::now() + timeout;
        // Polled, because a tokio child belongs to the runtime of one test and a fixture may be shared by several.
        loop {
            if let Some(status) = self.poll() {
                return Some(status);
            }
            if Instant::now() >= end {
                return None;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn poll(&mut self) -> Option<ExitStatus> {
        if self.exited.is_none() {
            self.exited = self.child.try_wait().ok().flatten();
        }
        self.exited
    }

    fn signal(&mut self, signal: Signal) {
        // Once the exit was collected the pid may be another's.
        if self.poll().is_none() {
            send(self.child.id(), signal);
        }
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        self.kill9();
    }
}

pub(crate) fn send(pid: u32, signal: Signal) {
    if let Ok(pid) = i32::try_from(pid) {
        kill(Pid::from_raw(pid), signal).ok();
    }
}

/// A shell that waits for the end of our process and then kills the child. Drop does not run when the test process is
/// itself killed, and statics are never dropped: without this every interrupted run would leave servers behind.
#[derive(Debug)]
struct Leash {
    shell: Child,
    _held: Option<ChildStdin>,
}

impl Leash {
    fn new(pid: u32, sweep: Option<&Path>) -> io::Result<Self> {
        // The read ends when the write end closes, which the kernel does however we die.
        let script = r#"trap '' INT TERM HUP; read -r _; kill -9 "$1"; [ -z "$2" ] || { sleep 1; rm -rf "$2"; }"#;
        let mut shell = Command::new("/bin/sh")
            .args(["-c", script, "leash", &pid.to_string()])
            .arg(sweep.unwrap_or(Path::new("")))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self {
            _held: shell.stdin.take(),
            shell,
        })
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        // Before the pipe closes: the child's pid may be another's by now.
        self.shell.kill().ok();
        self.shell.wait().ok();
    }
}

/// Waits until `url` answers with a 2xx.
pub async fn wait_http_ok(url: &str, timeout: Duration) -> Result<()> {
    let (http, end) = (crate::http(), Instant::now() + timeout);
    loop {
        let last = match http.get(url).timeout(Duration::from_secs(2)).send().await {
            Ok(answer) if answer.status().is_success() => return Ok(()),
            Ok(answer) => answer.status().to_string(),
            Err(e) => e.to_string(),
        };
        if Instant::now() >= end {
            return Err(format!("{url} did not answer within {timeout:?}: {last}").into());
        }
        tokio::time::sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(name: &str) -> std::path::PathBuf {
        std::env::temp_dir().join(format!("steadfast_{name}_{}.log", crate::unique()))
    }

    #[tokio::test]
    async fn a_process_is_asked_frozen_and_killed() {
        let log = log("proc");
        let script = "trap 'echo bye; exit 3' TERM; echo $WORD; while :; do sleep 0.02; done";
        let mut proc = Proc::spawn("/bin/sh", &["-c", script], [("WORD", "hello")], &log).unwrap();
        assert!(proc.wait_exit(Duration::from_millis(200)).await.is_none());
        proc.sigstop();
        proc.sigterm();
        assert!(
            proc.wait_exit(Duration::from_millis(200)).await.is_none(),
            "a frozen process does not hear"
        );
        proc.sigcont();
        assert_eq!(proc.wait_exit(Duration::from_secs(5)).await.unwrap().code(), Some(3));
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "hello\nbye\n");

        let mut proc = Proc::spawn("/bin/sleep", &["60"], [], &log).unwrap();
        assert!(proc.is_running());
        proc.kill9();
        assert!(!proc.is_running());
        std::fs::remove_file(log).unwrap();
    }

    #[tokio::test]
    async fn a_child_dies_with_its_leash_holder() {
        let log = log("leash");
        let mut child = Command::new("/bin/sleep").arg("60").spawn().unwrap();
        let mut leash = Leash::new(child.id(), None).unwrap();
        drop(leash._held.take()); // what the kernel does when the test process is killed
        let end = Instant::now() + Duration::from_secs(5);
        while child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < end, "the child outlived its test");
            tokio::time::sleep(POLL).await;
        }
        drop(log);
    }
}
