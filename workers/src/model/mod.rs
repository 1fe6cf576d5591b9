//! Model access: one trait, two models behind it.
//!
//! * [`OpenAi`] speaks to any OpenAI-compatible server.
//! * [`Scripted`] is built in: the first run needs no key, and shows the whole path, tool calls included.
//!
//! Before each call stands [`admission`]: pauses, circuit breakers, retry budgets and bulkheads, and the chain of models
//! that an agent names.
//!
//! A call is made once. Whether and when it is made again is decided by [`RetryPolicy`], which is pure, and recorded
//! by the run; nothing in here repeats a request by itself.

pub(crate) mod admission;
mod conversation;
pub(crate) mod http;
pub(crate) mod link;
mod openai;
mod resolve;
mod retry;
mod scripted;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use steadfast::run::{Message, ModelReply, ToolSpec};

pub use admission::Bulkheads;
pub use conversation::Conversation;
pub use openai::{ApiKey, BadProvider, DEFAULT_BASE_URL, OpenAi, OpenAiOptions, Timeouts};
pub use resolve::{FALLBACK_MODEL, Models, Resolved};
pub use retry::RetryPolicy;
pub use scripted::Scripted;

/// What a model is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelRequest {
    /// The model's name at the provider: what [`Models::resolve`] made of the agent's.
    pub model: String,
    pub messages: Arc<Conversation>,
    pub tools: Vec<ToolSpec>,
    pub output_tokens_max: u32,
    pub temperature: Option<f64>,
    /// The same for the same run, step and attempt, so a provider that knows the header charges a repeat once.
    pub idempotency_key: String,
}

impl ModelRequest {
    pub fn conversation(&self) -> Vec<&Message> {
        self.messages.iter().collect()
    }
}

#[async_trait]
pub trait Model: Send + Sync {
    /// Asks once. `on_text` gets the pieces of the answer as they come; together they are exactly the reply's text.
    /// Dropping the future lets go of the connection.
    async fn call(
        &self,
        request: &ModelRequest,
        on_text: &mut (dyn for<'t> FnMut(&'t str) + Send),
    ) -> Result<ModelReply, ModelError>;

    /// Which kind of access this is, for logs and metrics.
    fn name(&self) -> &str;
}

/// What went wrong, as far as the decision to try again needs to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// The provider asks for patience.
    RateLimited,
    /// The provider is in trouble of its own.
    Unavailable,
    /// One of our [`Timeouts`] ran out.
    Timeout,
    /// No connection, or it broke.
    Connection,
    /// The answer cannot be read, or says nothing.
    Malformed,
    /// The request itself is refused; the same again would be too.
    Rejected,
}

impl ErrorClass {
    /// The word in the log, in metrics and in the run's error code.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RateLimited => "rate_limited",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::Connection => "connection",
            Self::Malformed => "malformed",
            Self::Rejected => "rejected",
        }
    }
}

impl fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A call that gave no reply.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct ModelError {
    pub class: ErrorClass,
    /// For people; holds no key and no part of the conversation.
    pub message: String,
    /// How long the provider asks to wait.
    pub retry_after: Option<Duration>,
    /// The status of the provider's answer, where there was one.
    pub status: Option<u16>,
    /// Text had been given to `on_text`: what was shown must be taken back.
    pub after_output: bool,
}

impl ModelError {
    pub fn new(class: ErrorClass, message: impl Into<String>) -> Self {
        Self {
            class,
            message: message.into(),
            retry_after: None,
            status: None,
            after_output: false,
        }
    }
}
