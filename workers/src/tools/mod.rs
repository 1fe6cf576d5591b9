//! The tools a worker runs: what a tool is, and the box they are kept in.
//!
//! Whatever a tool does, the worker lives: arguments are checked before, a panic becomes an error, time and output
//! have bounds. An error is text for the model, which may do better the next time.

mod calculator;
mod clock;
mod http_get;
mod lookup;

#[cfg(test)]
mod tests;

use std::{any::Any, collections::BTreeMap, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::FutureExt;
use serde_json::Value;
use steadfast::run::{RunId, Time, ToolCall, ToolSpec};

pub use calculator::Calculator;
pub use clock::Clock;
pub use http_get::{Blocked, HttpGet, HttpGetOptions, vet};
pub use lookup::Echo;

/// What a model is shown of one output.
pub const OUTPUT_BYTES_MAX: usize = 256 * 1024;
const ARGUMENTS_BYTES_MAX: usize = 1024 * 1024;

#[async_trait]
pub trait Tool: Send + Sync {
    /// What the model is told. The name is the one agents list.
    fn spec(&self) -> ToolSpec;

    /// Whether running it twice does no harm. If not, a call a crash cut off is never repeated unasked.
    fn retry_safe(&self) -> bool;

    /// Whether it answers without waiting for anything, and has no effect. Its answer is then recorded together with the
    /// reply that asked for it: one append less, and a crash in between has nothing to lose but the reply.
    fn immediate(&self) -> bool {
        false
    }

    /// Runs it. `arguments` is a JSON object, not yet checked against the schema.
    async fn call(&self, arguments: &Value, context: &ToolContext) -> Result<String, String>;
}

/// What a tool may know of the call it serves.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolContext {
    pub run_id: RunId,
    pub tool_call_id: String,
    /// The same for the same call, however often it is made: for tools that can tell a repeat from a new call.
    pub idempotency_key: String,
    pub now: Time,
}

/// Tools by name.
#[derive(Clone, Default)]
pub struct Toolbox {
    tools: BTreeMap<String, Arc<dyn Tool>>,
}

impl Toolbox {
    /// What every installation has: `clock`, `calculator` and `http_get`.
    pub fn builtin(http_get: HttpGetOptions) -> Self {
        Self::default()
            .with(Clock)
            .with(Calculator)
            .with(HttpGet::new(http_get))
    }

    /// Adds a tool; one of the same name is replaced.
    pub fn with(mut self, tool: impl Tool + 'static) -> Self {
        self.tools.insert(tool.spec().name, Arc::new(tool));
        self
    }

    pub fn get(&self, name: &str) -> Option<&Arc<dyn Tool>> {
        self.tools.get(name)
    }

    /// What the model is told of the tools of these names; names not in the box are left out.
    pub fn specs<'n>(&self, names: impl IntoIterator<Item = &'n str>) -> Vec<ToolSpec> {
        names
            .into_iter()
            .filter_map(|name| self.get(name))
            .map(|tool| tool.spec())
            .collect()
    }

    /// The names, and whether each is safe to run twice: what agent files are checked against.
    pub fn known(&self) -> BTreeMap<String, bool> {
        self.tools
            .iter()
            .map(|(name, tool)| (name.clone(), tool.retry_safe()))
            .collect()
    }

    /// Whether all of these answer without waiting.
    pub fn all_immediate<'n>(&self, names: impl IntoIterator<Item = &'n str>) -> bool {
        (names.into_iter()).all(|name| self.get(name).is_some_and(|tool| tool.retry_safe() && tool.immediate()))
    }

    /// Runs the tool, for at most so many seconds.
    pub async fn call(&self, call: &ToolCall, context: &ToolContext, seconds_max: u64) -> Result<String, String> {
        let Some(tool) = self.get(&call.name) else {
            let names: Vec<&str> = self.tools.keys().map(String::as_str).collect();
            return Err(format!(
                "this worker has no tool {:?}; it has: {}",
                call.name,
                names.join(", ")
            ));
        };
        let arguments = parse(&call.arguments)?;
        let running = AssertUnwindSafe(tool.call(&arguments, context)).catch_unwind();
        let outcome = match tokio::time::timeout(Duration::from_secs(seconds_max), running).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(panic)) => {
                tracing::error!(tool = %call.name, run.id = %context.run_id, panic = %said(&*panic), "a tool panicked");
                Err(format!(
                    "the tool {} broke down; do not call it with the same arguments again",
                    call.name
                ))
            }
            Err(_) => Err(format!(
                "the tool {} did not end within {seconds_max} s (limits.tool_seconds_max)",
                call.name
            )),
        };
        outcome.map(cut).map_err(cut)
    }
}

fn parse(arguments: &str) -> Result<Value, String> {
    if arguments.len() > ARGUMENTS_BYTES_MAX {
        return Err(format!(
            "the arguments have {} bytes; at most {ARGUMENTS_BYTES_MAX}",
            arguments.len()
        ));
    }
    match serde_json::from_str(if arguments.trim().is_empty() { "{}" } else { arguments }) {
        Ok(object @ Value::Object(_)) => Ok(object),
        Ok(_) => Err("the arguments must be a JSON object such as {\"name\": \"value\"}".into()),
        Err(e) => Err(format!("the arguments are not valid JSON ({e}); send one JSON object")),
    }
}

fn cut(mut text: String) -> String {
    if text.len() <= OUTPUT_BYTES_MAX {
        return text;
    }
    let note = format!(
        "\n[cut: {} bytes in all, the first {OUTPUT_BYTES_MAX} are shown]",
        text.len()
    );
    text.truncate(text.floor_char_boundary(OUTPUT_BYTES_MAX));
    text + &note
}

/// What a panic says.
pub(crate) fn said(panic: &(dyn Any + Send)) -> &str {
    let literal = panic.downcast_ref::<&str>().copied();
    literal
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}

/// A text argument that must be there.
fn required<'a>(arguments: &'a Value, name: &str) -> Result<&'a str, String> {
    match arguments.get(name) {
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(format!("the argument {name:?} must be a string")),
        None => Err(format!("the argument {name:?} is missing")),
    }
}
