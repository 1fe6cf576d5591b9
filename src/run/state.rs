//! The run as its events tell it: the fold.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    Amounts, Approval, ApprovalId, Decision, Event, Message, Messages, Question, RunId, Shortage, Time, ToolCall,
    Usage,
    approval::Resolution,
    event::{ApprovalRequested, Executor, RunError, RunRequested},
};

/// Changes whenever the fold or the shape of [`Run`] changes: snapshots of another version are not read.
pub const STATE_VERSION: u32 = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Queued,
    Running,
    Waiting,
    Completed,
    Failed,
    Cancelled,
}

impl Status {
    pub const ALL: [Self; 6] = [
        Self::Queued,
        Self::Running,
        Self::Waiting,
        Self::Completed,
        Self::Failed,
        Self::Cancelled,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a waiting run waits for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum WaitingOn {
    /// The client posts the outputs of these calls.
    ToolOutputs { tool_calls: Vec<ToolCall> },
    /// A person decides each of these. Comes before the client's outputs, which may be posted meanwhile.
    Approval { approvals: Vec<Approval> },
    /// A person raises the budget.
    Budget {
        #[serde(flatten)]
        shortage: Shortage,
    },
    /// A moment in time.
    Timer { until: Time },
}

/// Where the model call of the current step stands.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Call {
    /// None is wanted now.
    #[default]
    Idle,
    /// Recorded as about to be made, outcome unknown.
    Open { attempt: u32 },
    /// Failed, or never made because no model could be asked; to be tried (again) at this time. `attempt` is the last
    /// one that was made, 0 before the first.
    Backoff { attempt: u32, retry_at: Time },
    /// Its outcome is unknown; the agent's policy says what follows.
    Orphaned { attempt: u32 },
    /// To be made by the worker that claims the run next.
    Wanted { step: u32, attempt: u32 },
    /// As above, but the budget does not hold it.
    Unaffordable {
        step: u32,
        attempt: u32,
        shortage: Shortage,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolState {
    Requested,
    Started,
    /// Cut off; a person is asked what to do about it.
    Asked,
    /// A person allowed to run it again; recorded as started before that is done.
    Granted,
}

/// A tool call that has not ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OpenTool {
    pub call: ToolCall,
    pub executor: Executor,
    pub state: ToolState,
}

/// The fold of a run's events.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct Run {
    /// The number of events folded so far; the next one gets `version + 1`.
    pub version: u64,
    pub request: Option<Arc<RunRequested>>,
    /// The claim in force; 0 before the first.
    pub epoch: u64,
    /// Claims since the last step forward.
    pub fruitless_claims: u32,
    /// Why the last claim ended before its time, where its worker could say so.
    pub interrupted: Option<String>,
    /// True between a claim and the next wait or end.
    pub claimed: bool,
    /// Earlier turns shown to the model; `None` until they are chosen.
    pub turns: Option<Vec<RunId>>,
    /// This run's own part of the conversation, input included.
    pub messages: Messages,
    pub step: u32,
    pub call: Call,
    /// Tries of this step's model call that do not count, because the provider was away.
    #[serde(default)]
    pub excused_attempts: u32,
    pub open_tools: Vec<OpenTool>,
    /// Client outputs already taken, so a repeated post is told apart from a contradicting one.
    pub client_outputs: Vec<(String, Result<String, String>)>,
    pub usage: Usage,
    /// The budget in force: the requested one, as raised since.
    pub budget: Amounts,
    /// What was asked of people, in order.
    pub approvals: Vec<Approval>,
    /// By when the step must have ended; `None` while there is none, and once it waited for people or a provider.
    pub step_deadline: Option<Time>,
    /// What was spent when the model answered last, and how many messages it had seen: where estimates begin.
    pub last_reply: Option<LastReply>,
    /// What the open call may cost.
    pub reserved: Usage,
    /// Earlier turns of the session, in bytes.
    pub history_bytes: u64,
    /// `Some(None)` is a cancel without a reason; in JSON that is `null`, and no cancel is no field.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub cancel: Option<Option<String>>,
    pub outcome: Option<Outcome>,
}

fn present<'de, D: serde::Deserializer<'de>>(field: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(field).map(Some)
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LastReply {
    /// Input and output of that call: about what the next one is shown.
    pub tokens: u64,
    pub messages: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Completed { output: String },
    Failed { error: RunError },
    Cancelled { reason: Option<String> },
}

impl Run {
    /// Folds events onto nothing.
    pub fn fold<'a>(events: impl IntoIterator<Item = &'a Event>) -> Self {
        events.into_iter().fold(Self::default(), |run, event| run.evolve(event))
    }

    pub fn status(&self) -> Status {
        match &self.outcome {
            Some(Outcome::Completed { .. }) => Status::Completed,
            Some(Outcome::Failed { .. }) => Status::Failed,
            Some(Outcome::Cancelled { .. }) => Status::Cancelled,
            None if self.waiting_on().is_some() => Status::Waiting,
            None if self.claimed => Status::Running,
            None => Status::Queued,
        }
    }

    pub fn waiting_on(&self) -> Option<WaitingOn> {
        if self.outcome.is_some() || self.cancel.is_some() {
            return None;
        }
        match self.call {
            Call::Backoff { retry_at, .. } => return Some(WaitingOn::Timer { until: retry_at }),
            Call::Unaffordable { shortage, .. } => return Some(WaitingOn::Budget { shortage }),
            _ => {}
        }
        let for_others = |tool: &OpenTool| tool.executor == Executor::Client || tool.state == ToolState::Asked;
        if !self.open_tools.iter().all(for_others) {
            return None;
        }
        let approvals: Vec<Approval> = self.open_approvals().cloned().collect();
        if !approvals.is_empty() {
            return Some(WaitingOn::Approval { approvals });
        }
        if self.open_tools.is_empty() {
            return None;
        }
        Some(WaitingOn::ToolOutputs {
            tool_calls: (self.open_tools.iter())
                .filter(|tool| tool.executor == Executor::Client)
                .map(|tool| tool.call.clone())
                .collect(),
        })
    }

    /// What people have been asked and not yet answered.
    pub fn open_approvals(&self) -> impl Iterator<Item = &Approval> {
        self.approvals.iter().filter(|approval| approval.resolution.is_none())
    }

    /// The run after one more fact. Total: what `decide` would refuse is folded as far as it has a meaning, because
    /// the log is the truth and `steadfast check` is who complains.
    pub fn evolve(mut self, event: &Event) -> Self {
        self.version += 1;
        match event {
            Event::RunRequested(e) => {
                self.messages = e.input.iter().cloned().collect();
                self.budget = e.terms.budget.amounts;
                self.request = Some(Arc::new(e.clone()));
            }
            Event::RunStarted(e) => self.claim(e.epoch),
            Event::RunResumed(e) => self.claim(e.epoch),
            // The call it was about has been orphaned by an event of its own.
            Event::RunInterrupted(e) => {
                self.claimed = false;
                self.interrupted = Some(e.reason.clone());
            }
            Event::ContextAssembled(e) => {
                self.turns = Some(e.turns.clone());
                self.history_bytes = e.bytes;
            }
            Event::ModelCallRequested(e) => {
                self.step = e.step;
                self.call = Call::Open { attempt: e.attempt };
                self.reserved = e.reserved();
                self.step_deadline = e.step_deadline;
            }
            Event::ModelCallParked(e) => {
                // The claim that found no model was neither in vain nor a step forward.
                self.fruitless_claims = self.fruitless_claims.saturating_sub(1);
                self.step = e.step;
                self.step_deadline = None;
                self.call = Call::Backoff {
                    attempt: e.attempt.saturating_sub(1),
                    retry_at: e.until,
                };
            }
            Event::ModelReplied(e) => {
                self.fruitless_claims = 0;
                self.excused_attempts = 0;
                self.call = Call::Idle;
                self.usage += e.usage;
                self.messages.push(Message::Assistant {
                    content: e.text.clone(),
                    tool_calls: e.tool_calls.clone(),
                });
                self.last_reply = Some(LastReply {
                    tokens: e.usage.input_tokens.saturating_add(e.usage.output_tokens),
                    messages: self.messages.len(),
                });
            }
            Event::ModelCallFailed(e) => {
                // A failure that was recorded is a step forward: tries have a limit of their own.
                self.fruitless_claims = 0;
                self.excused_attempts = self.excused_attempts.saturating_add(e.excused.into());
                self.step_deadline = self.step_deadline.filter(|_| !e.excused);
                self.call = match e.retry_at {
                    Some(retry_at) => Call::Backoff {
                        attempt: e.attempt,
                        retry_at,
                    },
                    None => Call::Idle,
                };
            }
            Event::ModelCallOrphaned(e) => {
                self.call = Call::Orphaned { attempt: e.attempt };
                self.usage += e.charged();
            }
            Event::ToolCallRequested(e) => self.open_tools.push(OpenTool {
                call: e.call.clone(),
                executor: e.executor,
                state: ToolState::Requested,
            }),
            Event::ToolCallStarted(e) => self.set_tool(&e.tool_call_id, ToolState::Started),
            Event::ToolCallSucceeded(e) => self.end_tool(&e.tool_call_id, Ok(&e.output)),
            Event::ToolCallFailed(e) => self.end_tool(&e.tool_call_id, Err(&e.error)),
            Event::ApprovalRequested(e) => self.ask(e),
            Event::ApprovalGranted(e) => {
                let decision = match &e.output {
                    Some(output) => Decision::Edit { output: output.clone() },
                    None => Decision::Allow,
                };
                self.resolve(e.approval_id, decision, &e.by);
            }
            Event::ApprovalDenied(e) => {
                let reason = e.reason.clone();
                self.resolve(e.approval_id, Decision::Deny { reason }, &e.by);
            }
            Event::BudgetExceeded(e) => {
                self.fruitless_claims = 0;
                self.call = Call::Unaffordable {
                    step: e.step,
                    attempt: e.attempt,
                    shortage: e.shortage,
                };
            }
            Event::BudgetRaised(e) => self.raise_budget(&e.to),
            Event::CancelRequested(e) => self.cancel = Some(e.reason.clone()),
            Event::RunCompleted(e) => self.end(Outcome::Completed {
                output: e.output.clone(),
            }),
            Event::RunFailed(e) => self.end(Outcome::Failed { error: e.error.clone() }),
            Event::RunCancelled(e) => self.end(Outcome::Cancelled {
                reason: e.reason.clone(),
            }),
        }
        // A run that waits for somebody has no worker: the next claim starts from the queue.
        if (self.waiting_on()).is_some_and(|on| !matches!(on, WaitingOn::Timer { .. })) {
            self.claimed = false;
            self.step_deadline = None;
        }
        self
    }

    fn claim(&mut self, epoch: u64) {
        self.epoch = epoch;
        self.interrupted = None;
        self.claimed = true;
        self.fruitless_claims += 1;
    }

    fn ask(&mut self, asked: &ApprovalRequested) {
        self.fruitless_claims = 0;
        match &asked.question {
            Question::CutOffTool { tool_call, .. } => self.set_tool(&tool_call.id, ToolState::Asked),
            Question::OrphanedCall { step, attempt } => {
                self.call = Call::Wanted {
                    step: *step,
                    attempt: attempt.saturating_add(1),
                };
            }
        }
        self.approvals.push(Approval {
            id: asked.approval_id,
            question: asked.question.clone(),
            resolution: None,
        });
    }

    fn resolve(&mut self, id: ApprovalId, decision: Decision, by: &str) {
        let Some(approval) = self.approvals.iter_mut().find(|approval| approval.id == id) else {
            return;
        };
        let allowed = (approval.question.tool_call())
            .filter(|_| decision == Decision::Allow)
            .map(|call| call.id.clone());
        approval.resolution = Some(Resolution {
            decision,
            by: by.into(),
        });
        self.fruitless_claims = 0;
        if let Some(id) = allowed {
            self.set_tool(&id, ToolState::Granted);
        }
    }

    fn raise_budget(&mut self, to: &Amounts) {
        self.fruitless_claims = 0;
        for (limit, amount) in to.given() {
            self.budget.set(limit, amount);
        }
        if let Call::Unaffordable {
            step,
            attempt,
            shortage,
        } = self.call
            && shortage.is_covered_by(&self.budget)
        {
            self.call = Call::Wanted { step, attempt };
        }
    }

    fn set_tool(&mut self, id: &str, state: ToolState) {
        for tool in self.open_tools.iter_mut().filter(|tool| tool.call.id == id) {
            tool.state = state;
        }
    }

    fn end_tool(&mut self, id: &str, outcome: Result<&String, &String>) {
        let Some(at) = self.open_tools.iter().position(|tool| tool.call.id == id) else {
            return;
        };
        let tool = self.open_tools.remove(at);
        self.fruitless_claims = 0;
        if tool.executor == Executor::Client {
            self.client_outputs
                .push((id.into(), outcome.cloned().map_err(Clone::clone)));
        }
        let content = match outcome {
            Ok(output) => output.clone(),
            Err(error) => format!("error: {error}"),
        };
        self.messages.push(Message::Tool {
            tool_call_id: id.into(),
            content,
        });
    }

    fn end(&mut self, outcome: Outcome) {
        self.outcome = Some(outcome);
        self.claimed = false;
        self.open_tools.clear();
        self.call = Call::Idle;
        self.step_deadline = None;
    }
}
