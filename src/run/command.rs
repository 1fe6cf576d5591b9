//! Orders to a run, and the reasons to refuse them.

use super::{
    AgentRef, Amounts, ApprovalId, BudgetLimit, Decision, Limits, Message, RunId, SessionId, Status, Terms, Time,
    ToolCall, ToolSpec, Usage, agent::AgentTool,
};

/// An order. Whatever is not a function of the run's past comes in here: time, ids, the outside world's answers.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// The gateway: a client posted a task.
    Request(Request),
    /// The worker: another order, and where the model call may go that it may cause. Without it: to the run's model.
    Routed(Route, Box<Self>),
    /// The worker: a claim was won; go on from wherever the run stands.
    Advance {
        now: Time,
        worker: String,
        epoch: u64,
        context: Option<Context>,
    },
    /// The worker: the model answered.
    RecordReply {
        now: Time,
        step: u32,
        attempt: u32,
        reply: ModelReply,
    },
    /// The worker: the call failed. `retry_at` is the retry policy's word; none means it will not help. `excused`: the
    /// provider is known to be away, so the try does not count.
    RecordModelFailure {
        now: Time,
        step: u32,
        attempt: u32,
        class: String,
        message: String,
        retry_at: Option<Time>,
        excused: bool,
    },
    /// The worker: the pause after a failed call is over.
    RetryModelCall { now: Time },
    /// The worker: tools have ended.
    RecordToolResults { now: Time, results: Vec<ToolResult> },
    /// The gateway: the client posts what its tools returned.
    SubmitToolOutputs { now: Time, outputs: Vec<ToolOutput> },
    /// The gateway: a person decides what an approval asked.
    ResolveApproval {
        now: Time,
        approval_id: ApprovalId,
        /// What the person had before their eyes, where they say it.
        arguments_sha256: Option<String>,
        decision: Decision,
        by: String,
    },
    /// The gateway: a person raises the run's budget to these amounts.
    RaiseBudget { now: Time, to: Amounts, by: String },
    /// The gateway: someone wants the run to stop.
    Cancel { now: Time, reason: Option<String> },
    /// The worker: it has let go of what it was doing, the run may end as cancelled.
    ConfirmCancel { now: Time },
    /// The worker: the time of the step or the run is over.
    TimeOut { now: Time },
    /// The worker: its execution of the run broke down; it lets go of the run.
    Interrupt { now: Time, worker: String, reason: String },
    /// The worker: the run cannot go on for a reason outside its own rules.
    Fail { now: Time, code: String, message: String },
}

/// Where a model call may go, as the worker sees its providers now.
#[derive(Debug, Clone, PartialEq)]
pub enum Route {
    To {
        provider: String,
        model: String,
    },
    /// Nowhere before `until`.
    Park {
        until: Time,
        reason: &'static str,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    pub now: Time,
    pub agent: AgentRef,
    pub model: String,
    pub fallbacks: Vec<String>,
    pub server_tools: Vec<AgentTool>,
    pub client_tools: Vec<ToolSpec>,
    pub limits: Limits,
    pub terms: Box<Terms>,
    pub session_id: SessionId,
    pub continues_session: bool,
    pub input: Vec<Message>,
    pub metadata: serde_json::Value,
    pub idempotency_key: Option<String>,
}

/// The earlier turns of the session, chosen by the worker before the first model call.
#[derive(Debug, Clone, PartialEq)]
pub struct Context {
    pub turns: Vec<RunId>,
    pub digest: String,
    /// How long their messages are.
    pub bytes: u64,
}

/// What came back from a model.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ModelReply {
    pub text: String,
    pub tool_calls: Vec<ToolCall>,
    pub usage: Usage,
    pub model: String,
    pub provider_id: Option<String>,
    pub finish_reason: Option<String>,
    pub latency_ms: u64,
    pub first_token_ms: Option<u64>,
    pub deltas: Vec<u32>,
}

/// How a tool run by the worker ended.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolResult {
    pub tool_call_id: String,
    pub outcome: Result<String, String>,
    pub duration_ms: u64,
}

/// What a client says its tool returned.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolOutput {
    pub tool_call_id: String,
    pub outcome: Result<String, String>,
}

/// Why a command cannot happen: the sender's doing, and what would help.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Refusal {
    #[error("the run was requested already")]
    AlreadyRequested,
    #[error("the run has not been requested")]
    NotRequested,
    #[error("the run has ended as {0}; nothing can be added to it")]
    AlreadyEnded(Status),
    #[error("the input is empty; give at least one message")]
    EmptyInput,
    #[error("the last message of the input is from {0}; it must be from user")]
    InputNotFromUser(&'static str),
    #[error("two tools of this run are called {0}; give each its own name")]
    DuplicateTool(String),
    #[error("the run has nothing to do for a worker: it is {0}")]
    NothingToDo(Status),
    #[error("no model call of step {step}, attempt {attempt} is open")]
    NoSuchModelCall { step: u32, attempt: u32 },
    #[error("no tool call {0} was made by this run")]
    UnknownToolCall(String),
    #[error("tool call {0} is not for the client to answer")]
    NotAClientTool(String),
    #[error("tool call {0} was answered before, with another output")]
    OutputDiffers(String),
    #[error("tool call {0} appears twice; send one output for each call")]
    DuplicateOutput(String),
    #[error("no outputs were given")]
    NoOutputs,
    #[error("no cancel was requested")]
    NoCancelRequested,
    #[error("this run has asked for no approval {0}")]
    UnknownApproval(ApprovalId),
    #[error("approval {0} was resolved before, with another decision")]
    DecisionDiffers(ApprovalId),
    #[error("approval {0} is about a call with other arguments; look at it again before you decide")]
    OtherArguments(ApprovalId),
    #[error("approval {0} is about a model call: allow it or deny it, an output can be given for a tool call only")]
    NothingToEdit(ApprovalId),
    #[error("the new budget names no amount; give steps, tokens, usd or seconds")]
    NoAmounts,
    #[error("this run has no budget of {}; there is nothing to raise", .0.as_str())]
    NoSuchBudget(BudgetLimit),
    #[error("the budget is {} already; it can only be raised", .limit.shown(*.now))]
    BudgetLowered { limit: BudgetLimit, now: u64 },
}
