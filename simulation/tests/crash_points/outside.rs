//! The model and the tools: what they do follows from what they are asked, and a ledger keeps every call.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use serde_json::{Value, json};
use steadfast::run::{Message, ModelReply, ToolCall, ToolSpec, Usage};
use steadfast_workers::{
    model::{ErrorClass, Model, ModelError, ModelRequest},
    tools::{Tool, ToolContext},
};
use tokio::time::sleep;

/// The tool that may run twice, the one that must not, and the client's: names the built-in agent lists.
pub const LOOK: &str = "clock";
pub const WORK: &str = "calculator";
pub const PAY: &str = "http_get";
pub const CLIENT: &str = "locate";

/// A pause that is too long to be sat out: the run is let go of, and a timer brings it back.
const RETRY_AFTER: Duration = Duration::from_millis(2_050);

#[derive(Default)]
struct Kept {
    /// Model calls by the key that names run, step and attempt.
    calls: BTreeMap<String, u64>,
    /// How often the tool that must not run twice has run, by run.
    paid: BTreeMap<String, u64>,
    /// How often the model has failed, by the task.
    failed: BTreeMap<String, u64>,
}

#[derive(Clone, Default)]
pub struct Ledger(Arc<Mutex<Kept>>);

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls of one run by `step-attempt`, and how often each was made.
    pub fn calls_of(&self, run_id: &str) -> BTreeMap<String, u64> {
        let kept = self.lock();
        let own = |(key, count): (&String, &u64)| Some((key.strip_prefix(run_id)?[1..].to_owned(), *count));
        kept.calls.iter().filter_map(own).collect()
    }

    pub fn paid_by(&self, run_id: &str) -> u64 {
        self.lock().paid.get(run_id).copied().unwrap_or_default()
    }

    fn failures(&self, task: &str) -> u64 {
        self.lock().failed.get(task).copied().unwrap_or_default()
    }
}

pub struct Scripted(pub Ledger);

#[async_trait]
impl Model for Scripted {
    async fn call(
        &self,
        request: &ModelRequest,
        on_text: &mut (dyn for<'t> FnMut(&'t str) + Send),
    ) -> Result<ModelReply, ModelError> {
        *(self.0.lock().calls)
            .entry(request.idempotency_key.clone())
            .or_default() += 1;
        let conversation = request.conversation();
        let question = (conversation.iter()).rposition(|message| matches!(message, Message::User { .. }));
        let own = &conversation[question.unwrap_or(0)..];
        let task = own.first().map_or("", |message| message.content());
        let outputs: Vec<&str> = own[1..]
            .iter()
            .filter(|message| matches!(message, Message::Tool { .. }))
            .map(|message| message.content())
            .collect();
        on_text("so ");
        tokio::task::yield_now().await;
        let calls: &[&str] = match (task.split(' ').next(), outputs.len()) {
            (Some("tools"), 0) => &[WORK, WORK, WORK],
            (Some("tools"), 3) | (Some("cancel"), 0) | (Some("parked"), 0) => &[WORK],
            (Some("look"), 0) => &[LOOK, LOOK],
            (Some("client"), 0) => &[CLIENT, WORK, CLIENT],
            (Some("pay"), 0) => &[PAY],
            (Some("cancel"), _) => std::future::pending().await,
            (Some("retry"), _) => {
                self.fail(task, &[ErrorClass::Unavailable, ErrorClass::RateLimited])?;
                &[]
            }
            (Some("limited"), _) => {
                self.fail(task, &[ErrorClass::RateLimited])?;
                &[]
            }
            _ => &[],
        };
        let rest = if calls.is_empty() {
            let turns = (conversation.iter())
                .filter(|message| matches!(message, Message::Assistant { .. }))
                .count();
            format!("after {turns} turns {task} is done: {}", outputs.join(", "))
        } else {
            "tools are called".to_owned()
        };
        on_text(&rest);
        let tool_calls = (calls.iter().enumerate())
            .map(|(at, name)| ToolCall {
                id: format!("call_{}_{at}", outputs.len()),
                name: (*name).into(),
                arguments: json!({ "of": at, "for": task }).to_string(),
            })
            .collect();
        Ok(ModelReply {
            text: format!("so {rest}"),
            tool_calls,
            usage: Usage {
                input_tokens: 10,
                output_tokens: 5,
                cost_microusd: 0,
            },
            model: "scripted".into(),
            ..ModelReply::default()
        })
    }

    fn name(&self) -> &str {
        "scripted"
    }
}

impl Scripted {
    /// Fails in these ways, one after the other, then no more.
    fn fail(&self, task: &str, ways: &[ErrorClass]) -> Result<(), ModelError> {
        let mut kept = self.0.lock();
        let failed = kept.failed.entry(task.to_owned()).or_default();
        let Some(class) = ways.get(*failed as usize) else {
            return Ok(());
        };
        *failed += 1;
        let mut error = ModelError::new(*class, "scripted to fail");
        error.after_output = true;
        error.retry_after = (*class == ErrorClass::RateLimited).then_some(RETRY_AFTER);
        Err(error)
    }
}

/// Answers at once, the same each time.
pub struct Look;

#[async_trait]
impl Tool for Look {
    fn spec(&self) -> ToolSpec {
        spec(LOOK)
    }

    fn retry_safe(&self) -> bool {
        true
    }

    fn immediate(&self) -> bool {
        true
    }

    async fn call(&self, arguments: &Value, _: &ToolContext) -> Result<String, String> {
        Ok(format!("looked at {}", arguments["of"]))
    }
}

pub struct Work(pub Ledger);

#[async_trait]
impl Tool for Work {
    fn spec(&self) -> ToolSpec {
        spec(WORK)
    }

    fn retry_safe(&self) -> bool {
        true
    }

    async fn call(&self, arguments: &Value, _: &ToolContext) -> Result<String, String> {
        // Until the model has asked another run for patience: then there is no leave for this one's next call.
        if let Some(wait) = arguments["for"]
            .as_str()
            .and_then(|task| task.strip_prefix("parked by "))
        {
            while self.0.failures(wait) == 0 {
                sleep(Duration::from_millis(1)).await;
            }
        }
        // Not all end together.
        for _ in 0..arguments["of"].as_u64().unwrap_or_default() {
            sleep(Duration::from_millis(2)).await;
        }
        Ok(format!("worked on {}", arguments["of"]))
    }
}

pub struct Pay(pub Ledger);

#[async_trait]
impl Tool for Pay {
    fn spec(&self) -> ToolSpec {
        spec(PAY)
    }

    fn retry_safe(&self) -> bool {
        false
    }

    async fn call(&self, _: &Value, context: &ToolContext) -> Result<String, String> {
        *(self.0.lock().paid).entry(context.run_id.to_string()).or_default() += 1;
        Ok("paid".into())
    }
}

fn spec(name: &str) -> ToolSpec {
    ToolSpec {
        name: name.into(),
        description: String::new(),
        parameters: json!({ "type": "object" }),
    }
}
