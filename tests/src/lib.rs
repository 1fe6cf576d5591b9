//! The test bed: real servers, child processes that can be killed, a strict SSE reader and a model that does what the
//! test told it to.
//!
//! It knows nothing of the workspace's own crates. A fixture that shared code with what it tests would share its bugs,
//! and the bed must build when the rooms do not.

pub mod bench;
pub mod chaos;
pub mod model;
pub mod private;
pub mod process;
pub mod proxy;
pub mod services;
pub mod sse;
pub mod system;
mod tree;

pub use model::{ScriptedModel, Settings};
pub use private::{PrivateNats, PrivatePostgres, free_port};
pub use process::{Proc, wait_http_ok};
pub use proxy::{Fault, Proxy, Towards};
pub use services::{Services, fresh_prefix, services};
pub use sse::{SseClient, SseFrame};

/// What a fixture answers: a test only ever prints the error, so its type carries nothing.
pub type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

/// Chooses the crypto of TLS for the whole process. reqwest panics without it, so every fixture calls it first.
pub fn init() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    // An error means that somebody chose already, which is as good.
    ONCE.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
}

/// An HTTP client for tests: no proxy from the environment comes between a test and its own loopback servers.
#[expect(clippy::disallowed_methods, reason = "the edge: the one client of all tests")]
pub fn http() -> reqwest::Client {
    init();
    reqwest::Client::builder()
        .no_proxy()
        .build()
        .expect("an HTTP client without settings that could be wrong")
}

/// A token no other call on this machine has given: the time of birth, the process and a counter.
fn unique() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let born = since_epoch();
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    format!(
        "{}_{:x}{:08x}_{n:x}",
        born.as_secs(),
        std::process::id(),
        born.subsec_nanos()
    )
}

/// The time of day, for names and for what the scripted model says of itself.
#[expect(clippy::disallowed_methods, reason = "the one clock of the test bed")]
fn since_epoch() -> std::time::Duration {
    (std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)).unwrap_or_default()
}
