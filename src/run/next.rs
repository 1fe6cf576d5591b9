//! What must be done now, as data. Only the worker acts on it.

use super::{
    Run, Status, Time,
    event::Executor,
    state::{Call, OpenTool, ToolState, WaitingOn},
};

#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// Ask the model; the call is recorded as open.
    CallModel { step: u32, attempt: u32 },
    /// Run these, at the same time.
    RunTools(Vec<OpenTool>),
    /// The last model call failed; try again at this time.
    RetryModelCallAt(Time),
    /// Let go of everything and confirm.
    ConfirmCancel,
    /// Nothing, until somebody else adds a fact.
    Wait(WaitingOn),
    /// Claim it first.
    Claim,
    /// Nothing, ever.
    Ended(Status),
}

pub fn next(run: &Run) -> Next {
    if run.outcome.is_some() {
        return Next::Ended(run.status());
    }
    if run.cancel.is_some() {
        return Next::ConfirmCancel;
    }
    match (run.waiting_on(), &run.call) {
        (Some(WaitingOn::Timer { until }), _) if run.claimed => Next::RetryModelCallAt(until),
        (Some(waiting_on), _) => Next::Wait(waiting_on),
        (None, _) if !run.claimed => Next::Claim,
        (None, Call::Open { attempt }) => Next::CallModel {
            step: run.step,
            attempt: *attempt,
        },
        (None, _) => Next::RunTools(
            run.open_tools
                .iter()
                .filter(|tool| tool.executor == Executor::Server)
                .filter(|tool| matches!(tool.state, ToolState::Requested | ToolState::Started))
                .cloned()
                .collect(),
        ),
    }
}
