//! The run as its events tell it: the fold.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{
    Event, Message, RunId, Time, ToolCall, Usage,
    event::{Executor, RunError, RunRequested},
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
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolState {
    Requested,
    Started,
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
    pub request: Option<RunRequested>,
    /// The claim in force; 0 before the first.
    pub epoch: u64,
    /// Claims since the last step forward.
    pub fruitless_claims: u32,
    /// True between a claim and the next wait or end.
    pub claimed: bool,
    /// Earlier turns shown to the model; `None` until they are chosen.
    pub turns: Option<Vec<RunId>>,
    /// This run's own part of the conversation, input included.
    pub messages: Vec<Message>,
    pub step: u32,
    pub call: Call,
    /// Tries of this step's model call that do not count, because the provider was away.
    #[serde(default)]
    pub excused_attempts: u32,
    pub open_tools: Vec<OpenTool>,
    /// Client outputs already taken, so a repeated post is told apart from a contradicting one.
    pub client_outputs: Vec<(String, Result<String, String>)>,
    pub usage: Usage,
    /// `Some(None)` is a cancel without a reason; in JSON that is `null`, and no cancel is no field.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub cancel: Option<Option<String>>,
    pub outcome: Option<Outcome>,
}

fn present<'de, D: serde::Deserializer<'de>>(field: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(field).map(Some)
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
        if let Call::Backoff { retry_at, .. } = self.call {
            return Some(WaitingOn::Timer { until: retry_at });
        }
        let for_the_client = |tool: &&OpenTool| tool.executor == Executor::Client;
        if self.open_tools.is_empty() || !self.open_tools.iter().all(|tool| for_the_client(&tool)) {
            return None;
        }
        Some(WaitingOn::ToolOutputs {
            tool_calls: self.open_tools.iter().map(|tool| tool.call.clone()).collect(),
        })
    }

    /// The run after one more fact. Total: what `decide` would refuse is folded as far as it has a meaning, because
    /// the log is the truth and `steadfast check` is who complains.
    pub fn evolve(mut self, event: &Event) -> Self {
        self.version += 1;
        match event {
            Event::RunRequested(e) => {
                self.messages = e.input.clone();
                self.request = Some(e.clone());
            }
            Event::RunStarted(e) => self.claim(e.epoch),
            Event::RunResumed(e) => self.claim(e.epoch),
            Event::ContextAssembled(e) => self.turns = Some(e.turns.clone()),
            Event::ModelCallRequested(e) => {
                self.step = e.step;
                self.call = Call::Open { attempt: e.attempt };
            }
            Event::ModelCallParked(e) => {
                // The claim that found no model was neither in vain nor a step forward.
                self.fruitless_claims = self.fruitless_claims.saturating_sub(1);
                self.step = e.step;
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
            }
            Event::ModelCallFailed(e) => {
                // A failure that was recorded is a step forward: tries have a limit of their own.
                self.fruitless_claims = 0;
                self.excused_attempts = self.excused_attempts.saturating_add(e.excused.into());
                self.call = match e.retry_at {
                    Some(retry_at) => Call::Backoff {
                        attempt: e.attempt,
                        retry_at,
                    },
                    None => Call::Idle,
                };
            }
            Event::ModelCallOrphaned(e) => {
                self.call = Call::Idle;
                self.usage.output_tokens = self.usage.output_tokens.saturating_add(e.charged_output_tokens.into());
            }
            Event::ToolCallRequested(e) => self.open_tools.push(OpenTool {
                call: e.call.clone(),
                executor: e.executor,
                state: ToolState::Requested,
            }),
            Event::ToolCallStarted(e) => {
                for tool in self.open_tools.iter_mut().filter(|tool| tool.call.id == e.tool_call_id) {
                    tool.state = ToolState::Started;
                }
            }
            Event::ToolCallSucceeded(e) => self.end_tool(&e.tool_call_id, Ok(&e.output)),
            Event::ToolCallFailed(e) => self.end_tool(&e.tool_call_id, Err(&e.error)),
            Event::CancelRequested(e) => self.cancel = Some(e.reason.clone()),
            Event::RunCompleted(e) => self.end(Outcome::Completed {
                output: e.output.clone(),
            }),
            Event::RunFailed(e) => self.end(Outcome::Failed { error: e.error.clone() }),
            Event::RunCancelled(e) => self.end(Outcome::Cancelled {
                reason: e.reason.clone(),
            }),
        }
        // A run that waits for the client has no worker: the next claim starts from the queue.
        if matches!(self.waiting_on(), Some(WaitingOn::ToolOutputs { .. })) {
            self.claimed = false;
        }
        self
    }

    fn claim(&mut self, epoch: u64) {
        self.epoch = epoch;
        self.claimed = true;
        self.fruitless_claims += 1;
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
    }
}
