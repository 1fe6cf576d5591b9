//! Logs no build of ours would write: each broken promise about money and people is found and named.

use steadfast::run::{
    AgentRef, Amounts, ApprovalId, Limits, Message, Question, Terms, Time, ToolCall, Usage,
    budget::Budget,
    event::{
        ApprovalGranted, ApprovalRequested, Executor, ModelCallRequested, ModelReplied, RunRequested, RunStarted,
        Subject, ToolCallRequested, ToolCallStarted,
    },
};

use super::*;

fn requested(tokens: Option<u64>) -> Event {
    RunRequested {
        agent: AgentRef {
            name: "a".into(),
            version: "1".into(),
        },
        model: "m".into(),
        fallbacks: vec![],
        session_id: SessionId::default(),
        input: vec![Message::user("go")],
        continues_session: false,
        server_tools: vec![],
        client_tools: vec![],
        limits: Limits::default(),
        terms: Box::new(Terms {
            budget: Budget {
                amounts: Amounts {
                    tokens,
                    ..Amounts::default()
                },
                ..Budget::default()
            },
            ..Terms::default()
        }),
        deadline: Time::default(),
        metadata: Default::default(),
        idempotency_key: None,
    }
    .into()
}

fn claimed() -> Event {
    RunStarted {
        worker: "w".into(),
        epoch: 1,
    }
    .into()
}

fn asks(step: u32, reserved_output_tokens: u32) -> Event {
    ModelCallRequested {
        step,
        attempt: 1,
        model: "m".into(),
        provider: None,
        reserved_output_tokens,
        reserved_input_tokens: 0,
        reserved_cost_microusd: 0,
        step_deadline: None,
    }
    .into()
}

fn answers(step: u32) -> Event {
    ModelReplied {
        step,
        attempt: 1,
        text: String::new(),
        tool_calls: vec![],
        usage: Usage::default(),
        model: "m".into(),
        provider_id: None,
        finish_reason: None,
        latency_ms: 1,
        first_token_ms: None,
        deltas: vec![],
    }
    .into()
}

fn pay() -> ToolCall {
    ToolCall {
        id: "c1".into(),
        name: "pay".into(),
        arguments: "{}".into(),
    }
}

fn starts() -> Event {
    ToolCallStarted {
        tool_call_id: "c1".into(),
    }
    .into()
}

/// A payment that has started once.
fn paying() -> Vec<Event> {
    let requested_call = ToolCallRequested {
        step: 1,
        call: pay(),
        executor: Executor::Server,
    };
    vec![
        requested(None),
        claimed(),
        asks(1, 10),
        answers(1),
        requested_call.into(),
        starts(),
    ]
}

fn asked() -> Event {
    ApprovalRequested {
        approval_id: ApprovalId(7),
        question: Question::about_tool(&pay()),
    }
    .into()
}

fn granted(arguments_sha256: Option<String>) -> Event {
    ApprovalGranted {
        approval_id: ApprovalId(7),
        by: "ada".into(),
        subject: Subject {
            tool_call_id: Some("c1".into()),
            arguments_sha256,
        },
        output: None,
    }
    .into()
}

/// The invariants that the log breaks.
fn broken(log: Vec<Event>) -> Vec<&'static str> {
    let mut check = RunCheck::new(RunId::default());
    let mut findings = Findings::default();
    for event in log {
        check.version += 1;
        check.fold(&event, &mut findings);
    }
    let report = findings.into_report();
    report.violations.iter().map(|violation| violation.invariant).collect()
}

fn with(mut log: Vec<Event>, more: impl IntoIterator<Item = Event>) -> Vec<Event> {
    log.extend(more);
    log
}

#[test]
fn a_tool_that_started_twice_without_a_person_breaks_i9() {
    let hash = Question::about_tool(&pay()).arguments_sha256().map(String::from);
    assert_eq!(broken(paying()), [""; 0]);
    assert_eq!(
        broken(with(paying(), [asked(), granted(hash.clone()), starts()])),
        [""; 0]
    );
    assert_eq!(broken(with(paying(), [starts()])), ["I9"]);
    assert_eq!(
        broken(with(paying(), [asked(), granted(hash), starts(), starts()])),
        ["I9"]
    );
}

#[test]
fn a_decision_about_other_arguments_or_about_nothing_breaks_i9() {
    let hash = Question::about_tool(&pay()).arguments_sha256().map(String::from);
    assert_eq!(broken(with(paying(), [asked(), granted(Some("00".into()))])), ["I9"]);
    assert_eq!(broken(with(paying(), [granted(hash.clone())])), ["I9"]);
    assert_eq!(
        broken(with(paying(), [asked(), granted(hash.clone()), granted(hash)])),
        ["I9"]
    );
}

#[test]
fn a_step_answered_twice_breaks_i7() {
    let log = vec![requested(None), claimed(), asks(1, 10), answers(1)];
    assert_eq!(broken(log.clone()), [""; 0]);
    assert_eq!(broken(with(log, [asks(1, 10), answers(1)])), ["I7"]);
}

#[test]
fn a_call_the_budget_did_not_hold_breaks_i8() {
    let log = |tokens| vec![requested(Some(tokens)), claimed(), asks(1, 10)];
    assert_eq!(broken(log(10)), [""; 0]);
    assert_eq!(broken(log(9)), ["I8"]);
}
