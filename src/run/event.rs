//! The facts of a run's stream. A fact is never changed and never deleted.
//!
//! Each has a name (on the wire, in SQL and here) and a schema version. Older schemas are lifted by the steps of
//! [`upcast`](super::upcast); what is unknown comes from a newer build, and is refused by name.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    AgentRef, Amounts, ApprovalId, Limits, Message, Question, RunId, SessionId, Shortage, Terms, Time, ToolCall,
    ToolSpec, Usage, agent::AgentTool, upcast,
};

/// The log contradicts itself or speaks a language this build does not know. Never guessed past.
#[derive(Debug, thiserror::Error)]
pub enum Corrupt {
    #[error("event type {name:?} with schema {schema} is not known to this build; it takes a newer one to go on")]
    UnknownEvent { name: String, schema: u16 },
    #[error("the payload of a {name} event does not read: {reason}")]
    BadPayload { name: String, reason: String },
}

macro_rules! events {
    ($($(#[doc = $doc:literal])* $name:ident = $wire:literal, schema $schema:literal;)*) => {
        /// One fact. The doc of each says who records it and which state it causes.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "type", content = "data")]
        pub enum Event { $($(#[doc = $doc])* #[serde(rename = $wire)] $name($name),)* }

        impl Event {
            /// The name of every event type, in the order of a run's life.
            pub const NAMES: &'static [&'static str] = &[$($wire),*];

            /// Every type with the schema this build writes.
            pub const SCHEMAS: &'static [(&'static str, u16)] = &[$(($wire, $schema)),*];

            /// Grows with every new type and every raised schema: which events a build can have folded.
            pub const VOCABULARY: u32 = 0 $(+ $schema)*;

            /// The name in the log and on the wire.
            pub fn name(&self) -> &'static str { match self { $(Self::$name(_) => $wire,)* } }

            pub fn schema(&self) -> u16 { match self { $(Self::$name(_) => $schema,)* } }

            /// The payload's bytes: hashed and stored exactly so.
            pub fn payload(&self) -> String {
                let json = match self { $(Self::$name(data) => serde_json::to_string(data),)* };
                json.expect("event payloads have string keys only")
            }

            /// Reads an event back; an older schema is lifted to today's.
            pub fn from_stored(name: &str, schema: u16, payload: &str) -> Result<Self, Corrupt> {
                let bad = |e: serde_json::Error| Corrupt::BadPayload { name: name.into(), reason: e.to_string() };
                match (name, schema) {
                    $(($wire, $schema) => Ok(Self::$name(serde_json::from_str(payload).map_err(bad)?)),)*
                    _ => match upcast::lift(upcast::STEPS, name, schema, payload)? {
                        Some((schema, payload)) => Self::from_stored(name, schema, &payload),
                        None => Err(Corrupt::UnknownEvent { name: name.into(), schema }),
                    },
                }
            }
        }

        $(impl From<$name> for Event { fn from(data: $name) -> Self { Self::$name(data) } })*
    };
}

events! {
    /// The gateway accepted a task. Causes `queued`.
    RunRequested = "run.requested", schema 1;
    /// A worker claimed the run for the first time. Causes `running`.
    RunStarted = "run.started", schema 1;
    /// A worker claimed a run that had been started before. Causes `running`.
    RunResumed = "run.resumed", schema 1;
    /// A worker's execution of the run broke down and it let go. Causes `queued`.
    RunInterrupted = "run.interrupted", schema 1;
    /// Which earlier turns of the session the model is shown: by reference, so the state at any event can be rebuilt.
    ContextAssembled = "context.assembled", schema 1;
    /// A model call is about to be made. Recorded before the bytes leave, so no paid call is ever unknown.
    ModelCallRequested = "model_call.requested", schema 1;
    /// No model could be asked now, so no call was made: the run waits for a timer and holds no worker's place.
    ModelCallParked = "model_call.parked", schema 1;
    /// The model answered in full.
    ModelReplied = "model.replied", schema 1;
    /// The call failed; with `retry_at` the run waits for a timer, without it the run fails.
    ModelCallFailed = "model_call.failed", schema 1;
    /// A call whose outcome a crash or a cancel took. It may have been paid for: charged at its reservation.
    ModelCallOrphaned = "model_call.orphaned", schema 1;
    /// The model asked for a tool. Calls of client tools cause `waiting` once nothing else is left to do.
    ToolCallRequested = "tool_call.requested", schema 1;
    /// A tool that must not run twice is about to run. Recorded before the effect.
    ToolCallStarted = "tool_call.started", schema 1;
    ToolCallSucceeded = "tool_call.succeeded", schema 1;
    /// The tool failed; the model is told, and goes on.
    ToolCallFailed = "tool_call.failed", schema 1;
    /// A person must decide. Causes `waiting` once nothing else is left to do.
    ApprovalRequested = "approval.requested", schema 1;
    /// A person said yes (or gave the output: then `tool_call.succeeded` follows).
    ApprovalGranted = "approval.granted", schema 1;
    /// A person said no.
    ApprovalDenied = "approval.denied", schema 1;
    /// The next model call does not fit the budget. Causes `waiting`.
    BudgetExceeded = "budget.exceeded", schema 1;
    /// A person raised the budget.
    BudgetRaised = "budget.raised", schema 1;
    /// Someone asked for the run to stop; the worker at work obeys at once.
    CancelRequested = "cancel.requested", schema 1;
    /// Terminal.
    RunCompleted = "run.completed", schema 1;
    /// Terminal.
    RunFailed = "run.failed", schema 1;
    /// Terminal.
    RunCancelled = "run.cancelled", schema 1;
}

impl Event {
    /// After this, nothing follows.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::RunCompleted(_) | Self::RunFailed(_) | Self::RunCancelled(_))
    }

    /// The same question asked of a name, for readers that do not parse payloads.
    pub fn is_terminal_name(name: &str) -> bool {
        matches!(name, "run.completed" | "run.failed" | "run.cancelled")
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRequested {
    pub agent: AgentRef,
    pub model: String,
    /// Asked in this order where the model cannot answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fallbacks: Vec<String>,
    pub session_id: SessionId,
    pub input: Vec<Message>,
    /// False for the run its session was created with: there is no earlier turn to look for.
    pub continues_session: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub server_tools: Vec<AgentTool>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub client_tools: Vec<ToolSpec>,
    pub limits: Limits,
    #[serde(default)]
    pub terms: Box<Terms>,
    pub deadline: Time,
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub metadata: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunStarted {
    pub worker: String,
    /// The claim in force from here on.
    pub epoch: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunResumed {
    pub worker: String,
    pub epoch: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContextAssembled {
    /// The earlier runs whose question and answer are shown, oldest first.
    pub turns: Vec<RunId>,
    /// SHA-256 of the messages they became, in hex.
    pub digest: String,
    /// How long those are.
    #[serde(default)]
    pub bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunInterrupted {
    pub worker: String,
    pub reason: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelCallRequested {
    /// Counts the run's turns of the loop from 1.
    pub step: u32,
    /// Counts the tries of this step from 1.
    pub attempt: u32,
    pub model: String,
    /// Whose model it is, where the worker said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// What the call may cost; charged if its outcome is lost. Output is a wall, input an estimate.
    pub reserved_output_tokens: u32,
    #[serde(default)]
    pub reserved_input_tokens: u64,
    #[serde(default)]
    pub reserved_cost_microusd: u64,
    /// By when the step must have ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_deadline: Option<Time>,
}

impl ModelCallRequested {
    pub fn reserved(&self) -> Usage {
        Usage {
            input_tokens: self.reserved_input_tokens,
            output_tokens: self.reserved_output_tokens.into(),
            cost_microusd: self.reserved_cost_microusd,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelCallParked {
    pub step: u32,
    /// The try that was not made, and will be: it does not count twice.
    pub attempt: u32,
    /// A stable word: `breaker_open`, `rate_limited`, `retry_budget`, `provider_busy`, `tenant_busy`.
    pub reason: String,
    pub until: Time,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelReplied {
    pub step: u32,
    pub attempt: u32,
    pub text: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    pub usage: Usage,
    pub model: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finish_reason: Option<String>,
    pub latency_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_token_ms: Option<u64>,
    /// The length in bytes of each delta the text was streamed in: with it every delta, live or not, can be
    /// rebuilt from the log, and any cursor inside the step resumed exactly.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deltas: Vec<u32>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelCallFailed {
    pub step: u32,
    pub attempt: u32,
    /// A stable word: `rate_limited`, `unavailable`, `timeout`, `connection`, `malformed`, `rejected`.
    pub class: String,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Time>,
    /// The provider's outage, not this call's fault: it does not count against `limits.model_attempts_max`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub excused: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelCallOrphaned {
    pub step: u32,
    pub attempt: u32,
    pub charged_output_tokens: u32,
    #[serde(default)]
    pub charged_input_tokens: u64,
    #[serde(default)]
    pub charged_cost_microusd: u64,
}

impl ModelCallOrphaned {
    pub fn charged(&self) -> Usage {
        Usage {
            input_tokens: self.charged_input_tokens,
            output_tokens: self.charged_output_tokens.into(),
            cost_microusd: self.charged_cost_microusd,
        }
    }
}

/// Who runs a tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Executor {
    /// The worker.
    Server,
    /// The client: the run waits for it to post the output.
    Client,
    /// Nobody: the model asked for a tool that does not exist.
    Nobody,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolCallRequested {
    pub step: u32,
    #[serde(flatten)]
    pub call: ToolCall,
    pub executor: Executor,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolCallStarted {
    pub tool_call_id: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolCallSucceeded {
    pub tool_call_id: String,
    pub name: String,
    pub output: String,
    pub duration_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolCallFailed {
    pub tool_call_id: String,
    pub name: String,
    /// What the model is told.
    pub error: String,
    pub duration_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ApprovalRequested {
    /// The version of this event.
    pub approval_id: ApprovalId,
    #[serde(flatten)]
    pub question: Question,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ApprovalGranted {
    pub approval_id: ApprovalId,
    pub by: String,
    #[serde(flatten)]
    pub subject: Subject,
    /// Given instead of running the tool again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ApprovalDenied {
    pub approval_id: ApprovalId,
    pub by: String,
    #[serde(flatten)]
    pub subject: Subject,
    /// In the person's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The tool call that was decided on, exactly. Neither, for a model call.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Subject {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arguments_sha256: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BudgetExceeded {
    /// The model call that waits.
    pub step: u32,
    pub attempt: u32,
    #[serde(flatten)]
    pub shortage: Shortage,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BudgetRaised {
    pub by: String,
    /// The new amounts of what was raised.
    #[serde(flatten)]
    pub to: Amounts,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CancelRequested {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunCompleted {
    pub output: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunFailed {
    pub error: RunError,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunCancelled {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Why a run failed: a stable code for programs, a sentence for people.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunError {
    pub code: String,
    pub message: String,
}
