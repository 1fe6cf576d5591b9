//! The run: one task given to an agent, from request to its terminal state. The aggregate.
//!
//! Everything here is a pure function of its arguments. Time, ids and random choices come in with the command, so
//! a fold of the same events gives the same run on every machine and in every year.
//!
//! * [`decide`](decide::decide): may this command happen, and which facts does it cause?
//! * [`evolve`](state::Run::evolve): what is the run after this fact?
//! * [`next`](next::next): what must be done now, as data? Only the worker acts on it, so a replay acts on nothing.
//!
//! ```text
//! queued -> running <-> waiting (tool outputs | approval | budget | timer) -> completed | failed | cancelled
//! ```

pub mod agent;
pub mod approval;
pub mod budget;
pub mod command;
pub mod decide;
pub mod event;
pub mod ids;
pub mod message;
mod messages;
pub mod next;
pub mod seam;
pub mod state;
pub mod upcast;

#[cfg(test)]
mod tests;

pub use agent::{Agent, AgentRef, Limits, Terms};
pub use approval::{Approval, Decision, Question};
pub use budget::{Amounts, Budget, BudgetLimit, Shortage};
pub use command::{Command, ModelReply, Refusal, ToolOutput, ToolResult};
pub use decide::{decide, transition};
pub use event::{Corrupt, Event};
pub use ids::{ApprovalId, BadId, RunId, SessionId, TenantId};
pub use message::{Message, ToolCall, ToolSpec, Usage};
pub use messages::Messages;
pub use next::{Next, next};
pub use state::{Run, Status, WaitingOn};

/// A moment, in UTC, with the microseconds a database keeps.
pub type Time = chrono::DateTime<chrono::Utc>;
