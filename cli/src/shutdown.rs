//! The end of a process: the first signal asks, the second insists.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::error::{Context, Failure};

/// What a shell reports for a process ended by SIGINT.
pub const EXIT_INTERRUPTED: u8 = 130;
/// After the drain time: what a part gets to notice that its time is over.
const GRACE: Duration = Duration::from_secs(5);

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Cancelled at the first SIGTERM or SIGINT; the second ends the process at once.
pub fn on_signal() -> Result<CancellationToken, Failure> {
    let listen = |kind| signal(kind).context("listening for signals");
    let mut signals = Signals {
        terminate: listen(SignalKind::terminate())?,
        interrupt: listen(SignalKind::interrupt())?,
    };
    let token = CancellationToken::new();
    let cancelled = token.clone();
    tokio::spawn(async move {
        let name = signals.next().await;
        cancelled.cancel();
        tracing::info!("{name}: stopping; what is under way is finished or handed back. A second signal ends at once");
        let name = signals.next().await;
        tracing::warn!("{name} again: ending at once; the log holds all that was accepted");
        std::process::exit(EXIT_INTERRUPTED.into());
    });
    Ok(token)
}

/// Does this, unless the process is told to stop before it is done.
pub async fn unless_stopped<T>(
    token: &CancellationToken,
    doing: impl Future<Output = Result<T, Failure>>,
) -> Result<Option<T>, Failure> {
    tokio::select! {
        done = doing => done.map(Some),
        () = token.cancelled() => Ok(None),
    }
}

/// Waits for the parts of a process that was told to stop, as long as they were promised.
pub async fn drained(parts: TaskTracker, drain: Duration) {
    parts.close();
    if tokio::time::timeout(drain + GRACE, parts.wait()).await.is_err() {
        tracing::warn!(parts = parts.len(), "not all parts ended in time; leaving them");
    }
}
