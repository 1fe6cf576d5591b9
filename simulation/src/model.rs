//! The model and the tools. What the model says follows from what it was asked; how it goes wrong, from the seed. Both
//! keep a ledger of every call that reached them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use serde_json::{Value, json};
use steadfast::run::{Message, ModelReply, RunId, ToolCall, ToolSpec, Usage};
use steadfast_workers::{
    model::{ErrorClass, Model, ModelError, ModelRequest},
    tools::{Tool, ToolContext},
};
use tokio::time::{Instant, sleep};

use crate::world::{Draws, World};

/// The tool that answers at once, the one that may run twice, the one that must not, and the client's. The first three are
/// names the built-in agent lists; what the two in the middle do here is simulated.
pub const LOOK: &str = "clock";
pub const WORK: &str = "calculator";
pub const SEND: &str = "http_get";
pub const CLIENT: &str = "locate";
/// A model that hangs is given up on after this, as the room's own client would.
const HANG: Duration = Duration::from_secs(20);
const WORDS_MAX: u64 = 6;
const INPUT_TOKENS: u64 = 10;

/// What reached the outside.
#[derive(Default)]
pub struct Ledger {
    /// Model calls by the key that names run, step and attempt.
    pub calls: BTreeMap<String, Called>,
    /// Runs of the tool that must not run twice, by run and call.
    pub sent: BTreeMap<(RunId, String), u64>,
}

/// One call as the model saw it.
#[derive(Debug, Clone, Default)]
pub struct Called {
    pub times: u64,
    /// `None`: whoever asked was gone before the end.
    pub ended: Option<Ended>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Ended {
    Replied(Usage),
    Failed,
}

pub struct SimulatedModel {
    pub world: Arc<World>,
    pub ledger: Arc<Mutex<Ledger>>,
}

#[async_trait]
impl Model for SimulatedModel {
    async fn call(
        &self,
        request: &ModelRequest,
        on_text: &mut (dyn for<'t> FnMut(&'t str) + Send),
    ) -> Result<ModelReply, ModelError> {
        self.world
            .note(format_args!("model: called for {}", request.idempotency_key));
        self.enter(request, |called| called.times += 1);
        let outcome = self.answer(request, on_text).await;
        self.enter(request, |called| {
            called.ended = Some(match &outcome {
                Ok(reply) => Ended::Replied(reply.usage),
                Err(_) => Ended::Failed,
            });
        });
        outcome
    }

    fn name(&self) -> &str {
        "simulated"
    }
}

impl SimulatedModel {
    fn enter(&self, request: &ModelRequest, enter: impl FnOnce(&mut Called)) {
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        enter(ledger.calls.entry(request.idempotency_key.clone()).or_default());
    }

    async fn answer(
        &self,
        request: &ModelRequest,
        on_text: &mut (dyn for<'t> FnMut(&'t str) + Send),
    ) -> Result<ModelReply, ModelError> {
        let world = &self.world;
        let started = Instant::now();
        let noise = world.noise();
        sleep(world.millis(Draws::Model, 120)).await;
        if world.chance(Draws::Model, noise.model_slow_permille) {
            world.fault("model slow");
            sleep(world.millis(Draws::Model, 6_000)).await;
        }
        let fails = world.chance(Draws::Model, noise.model_fails_permille);
        if fails && world.chance(Draws::Model, 600) {
            return Err(self.refusal().await);
        }
        let (text, tool_calls) = reply(request, world);
        let words: Vec<&str> = text.split_inclusive(' ').collect();
        let breaks_at = fails.then(|| world.below(Draws::Model, words.len() as u64 + 1));
        for (at, word) in words.iter().enumerate() {
            if breaks_at == Some(at as u64) {
                break;
            }
            on_text(word);
            sleep(world.millis(Draws::Model, 40)).await;
        }
        if let Some(at) = breaks_at {
            world.fault("model broke in the middle");
            let mut error = ModelError::new(ErrorClass::Connection, "simulated: the connection broke");
            error.after_output = at > 0;
            return Err(error);
        }
        Ok(ModelReply {
            usage: Usage {
                input_tokens: INPUT_TOKENS,
                output_tokens: words.len() as u64,
                cost_microusd: 0,
            },
            text,
            tool_calls,
            model: "simulated".into(),
            latency_ms: started.elapsed().as_millis() as u64,
            ..ModelReply::default()
        })
    }

    async fn refusal(&self) -> ModelError {
        let world = &self.world;
        match world.below(Draws::Model, 4) {
            0 => {
                world.fault("model rate limit");
                let mut error = ModelError::new(ErrorClass::RateLimited, "simulated: too many requests");
                error.retry_after = Some(world.millis(Draws::Model, 4_000));
                error
            }
            1 => {
                world.fault("model hangs");
                sleep(HANG).await;
                ModelError::new(ErrorClass::Timeout, "simulated: no answer")
            }
            _ => {
                world.fault("model unavailable");
                ModelError::new(ErrorClass::Unavailable, "simulated: in trouble")
            }
        }
    }
}

/// First the tools the task names, then the answer.
fn reply(request: &ModelRequest, world: &World) -> (String, Vec<ToolCall>) {
    let conversation = request.conversation();
    let last_question = (conversation.iter()).rposition(|message| matches!(message, Message::User { .. }));
    let own = &conversation[last_question.unwrap_or(0)..];
    let asked = own.first().map_or("", |message| message.content());
    let worked = own.iter().any(|message| matches!(message, Message::Tool { .. }));
    let mut words: Vec<String> = (0..1 + world.below(Draws::Model, WORDS_MAX))
        .map(|_| format!("wörd{}", world.below(Draws::Model, 100)))
        .collect();
    if worked || asked.starts_with("answer") {
        words.push(format!("about {asked}"));
        return (words.join(" "), Vec::new());
    }
    let names: &[&str] = match asked.split(' ').next() {
        Some("look") => &[LOOK],
        Some("work") => &[WORK, WORK],
        Some("send") => &[SEND],
        Some("client") => &[CLIENT],
        _ => &[CLIENT, WORK, SEND],
    };
    let calls = (names.iter().enumerate())
        .map(|(at, name)| ToolCall {
            id: format!("call_{at}"),
            name: (*name).into(),
            arguments: json!({ "of": at }).to_string(),
        })
        .collect();
    (words.join(" "), calls)
}

/// A tool that takes a while, and fails now and then.
pub struct SimulatedTool {
    pub name: &'static str,
    pub retry_safe: bool,
    pub world: Arc<World>,
    pub ledger: Arc<Mutex<Ledger>>,
}

#[async_trait]
impl Tool for SimulatedTool {
    fn spec(&self) -> ToolSpec {
        ToolSpec {
            name: self.name.into(),
            description: "Simulated.".into(),
            parameters: json!({ "type": "object" }),
        }
    }

    fn retry_safe(&self) -> bool {
        self.retry_safe
    }

    async fn call(&self, _: &Value, context: &ToolContext) -> Result<String, String> {
        if !self.retry_safe {
            let call = (context.run_id, context.tool_call_id.clone());
            let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
            *ledger.sent.entry(call).or_default() += 1;
        }
        sleep(self.world.millis(Draws::Model, 400)).await;
        if self.world.chance(Draws::Model, self.world.noise().model_fails_permille) {
            return Err("simulated: the tool failed".into());
        }
        Ok("done".into())
    }
}
