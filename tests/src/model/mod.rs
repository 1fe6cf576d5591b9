//! A model that does what the test told it to: an OpenAI-compatible server without a mind of its own.
//!
//! Left alone it calls a tool once and then answers, the shape of almost every agent's run. Directives in the last user
//! text order anything else, and since that text is what the test gave to the agent, they survive queues, restarts and
//! takeovers: see [`DIRECTIVES`]. It counts every request by user text, which shows duplicate calls from outside.

mod known;
mod reply;
mod request;
mod script;
mod server;
mod state;
#[cfg(test)]
mod tests;
mod wire;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Mutex, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use axum::serve::ListenerExt;
use tokio::{net::TcpListener, sync::oneshot};

use self::server::Server;
pub use self::state::{CallRecord, Settings, SettingsPatch, Stats};
use crate::Result;

/// What a text can order, for people: `scripted-model --help` prints it.
pub const DIRECTIVES: &str = r#"Directives in the last user message:
  [[tool:NAME {"json":"args"}]]  call this tool; several are called in one turn, in order
  [[then]]                       between tools: those after it are called in the next turn
  [[loop]]                       call the first tool again and again, for ever
  [[loop:499]]                   in so many steps, and then answer
  [[say:some text]]              answer this text; without [[tool]], at once
  [[echo]]                       answer the roles and contents of all messages, as JSON
  [[tokens:200]]                 words of the answer
  [[times:200]]                  so many words; in a stream each is the time it is sent: t and 16 digits of microseconds
  [[fault:NAME]]                 every call for this text fails
  [[fault:NAME*2]]               the first two calls for this very text fail; several faults strike one after another
  [[fault:NAME@2]]               only the call of the second step fails (NAME*1@2: only the first such call)
  [[fault:429:3]]                with Retry-After: 3
Faults: 429 503 500 400 hang hang_mid cut malformed bad_utf8 error_in_200 empty
Without tools to call, tool directives are not followed. A directive that cannot be read is answered 400."#;

/// A running model server. Dropping it ends it.
pub struct ScriptedModel {
    server: Server,
    address: SocketAddr,
    life: Mutex<Option<Life>>,
}

/// A thread with a runtime of its own: ending the runtime cuts every connection at once, and a test's own blocking code
/// cannot slow the model down.
struct Life {
    end: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl ScriptedModel {
    pub async fn start() -> Self {
        Self::start_with(Settings::default()).await
    }

    pub async fn start_with(settings: Settings) -> Self {
        let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), crate::free_port());
        Self::start_at(address, settings)
            .await
            .unwrap_or_else(|e| panic!("no model at {address}: {e}"))
    }

    pub async fn start_at(address: SocketAddr, settings: Settings) -> Result<Self> {
        crate::init();
        let server = Server::new(state::State::new(settings));
        let (address, life) = live(&server, address).await?;
        Ok(Self {
            server,
            address,
            life: Mutex::new(Some(life)),
        })
    }

    /// What a client takes as OpenAI's base URL: it ends in `/v1`.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn stats(&self) -> Stats {
        self.server.state().stats.clone()
    }

    /// The last ten thousand calls, oldest first.
    pub fn ledger(&self) -> Vec<CallRecord> {
        self.server.state().ledger.iter().cloned().collect()
    }

    pub fn settings(&self) -> Settings {
        self.server.state().settings.clone()
    }

    pub fn set(&self, settings: Settings) {
        self.server.state().settings = settings;
    }

    /// Forgets all counts and begins the sequence of chance anew.
    pub fn reset(&self) {
        self.server.state().reset();
    }

    /// Stops listening and cuts every connection. Counts and settings stay.
    pub fn kill(&self) {
        if let Some(life) = self.life().take() {
            life.end.send(()).ok();
            life.thread.join().ok();
        }
    }

    /// Listens at the same address again.
    pub async fn restart(&self) -> Result<()> {
        self.kill();
        let (_, life) = live(&self.server, self.address).await?;
        *self.life() = Some(life);
        Ok(())
    }

    fn life(&self) -> std::sync::MutexGuard<'_, Option<Life>> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ScriptedModel {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn live(server: &Server, address: SocketAddr) -> Result<(SocketAddr, Life)> {
    let (end, ended) = oneshot::channel();
    let (told, listening) = oneshot::channel();
    let router = server.router();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let thread = std::thread::Builder::new()
        .name("scripted-model".into())
        .spawn(move || {
            runtime.block_on(async move {
                let listener = match TcpListener::bind(address).await {
                    Ok(listener) => listener,
                    Err(e) => return drop(told.send(Err(e))),
                };
                told.send(listener.local_addr()).ok();
                // Without it the small writes of a stream wait for each other's acknowledgement: 40 ms.
                let listener = listener.tap_io(|socket| drop(socket.set_nodelay(true)));
                tokio::select! {
                    _ = axum::serve(listener, router) => {}
                    _ = ended => {}
                }
            });
            runtime.shutdown_timeout(Duration::from_secs(1));
        })?;
    Ok((listening.await??, Life { end, thread }))
}
