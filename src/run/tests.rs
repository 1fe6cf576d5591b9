//! The run, tested from outside in: sentences (given, when, then), laws that hold for any sequence of commands, and
//! recorded logs that every later build must still read.

mod golden;
mod laws;
mod parking;
mod sentences;
mod sentences_about_ends;
mod sentences_about_people;
mod spoilt;
mod upcasting;

use cqrs_es::test::{AggregateTestExecutor, TestFramework};

use super::{
    AgentRef, Command, Event, Limits, Message, ModelReply, RunId, SessionId, Time, ToolCall, ToolOutput, ToolResult,
    ToolSpec, Usage,
    agent::{AgentTool, Terms},
    command::{Context, Request, Route},
    decide,
    event::*,
    state::Run,
};

const LIMITS: Limits = Limits {
    steps_max: 3,
    run_seconds_max: 600,
    step_seconds_max: 600,
    tool_seconds_max: 30,
    output_tokens_max: 100,
    model_attempts_max: 3,
    claims_max: 3,
    history_turns_max: 5,
    history_chars_max: 1000,
};

/// So many seconds into the story.
fn at(seconds: i64) -> Time {
    Time::from_timestamp(1_750_000_000 + seconds, 0).expect("a second of the year 2025")
}

/// A run with a harmless tool, one that must not run twice, and one of the client's.
fn request() -> Request {
    let server = |name: &str, retry_safe| AgentTool {
        name: name.into(),
        retry_safe,
    };
    Request {
        now: at(0),
        agent: AgentRef {
            name: "assistant".into(),
            version: "f00d".into(),
        },
        model: "scripted".into(),
        fallbacks: vec![],
        server_tools: vec![server("lookup", true), server("pay", false)],
        client_tools: vec![ToolSpec {
            name: "ask".into(),
            description: "Asks the person.".into(),
            parameters: serde_json::json!({"type": "object"}),
        }],
        limits: LIMITS,
        terms: Box::default(),
        session_id: SessionId(uuid::Uuid::from_u128(7)),
        continues_session: false,
        input: vec![Message::user("What is the weather?")],
        metadata: serde_json::Value::Null,
        idempotency_key: None,
    }
}

fn requested() -> Command {
    Command::Request(request())
}

fn advance(seconds: i64, epoch: u64) -> Command {
    Command::Advance {
        now: at(seconds),
        worker: format!("worker-{epoch}"),
        epoch,
        context: None,
    }
}

fn reply(seconds: i64, step: u32, attempt: u32, text: &str, calls: &[(&str, &str)]) -> Command {
    let tool_calls = calls.iter().map(|(id, name)| call(id, name)).collect();
    Command::RecordReply {
        now: at(seconds),
        step,
        attempt,
        reply: ModelReply {
            text: text.into(),
            tool_calls,
            usage: spent(),
            model: "scripted-1".into(),
            latency_ms: 5,
            ..ModelReply::default()
        },
    }
}

fn spent() -> Usage {
    Usage {
        input_tokens: 10,
        output_tokens: 4,
        cost_microusd: 3,
    }
}

fn call(id: &str, name: &str) -> ToolCall {
    ToolCall {
        id: id.into(),
        name: name.into(),
        arguments: "{}".into(),
    }
}

fn failure(seconds: i64, step: u32, attempt: u32, retry_at: Option<i64>) -> Command {
    Command::RecordModelFailure {
        now: at(seconds),
        step,
        attempt,
        class: if retry_at.is_some() { "unavailable" } else { "rejected" }.into(),
        message: "the provider said no".into(),
        retry_at: retry_at.map(at),
        excused: false,
    }
}

/// The same failure, of a provider known to be away.
fn excused(seconds: i64, step: u32, attempt: u32, retry_at: i64) -> Command {
    let mut failure = failure(seconds, step, attempt, Some(retry_at));
    if let Command::RecordModelFailure { excused, .. } = &mut failure {
        *excused = true;
    }
    failure
}

fn parked_until(seconds: i64, command: Command) -> Command {
    let route = Route::Park {
        until: at(seconds),
        reason: "breaker_open",
    };
    Command::Routed(route, Box::new(command))
}

fn to(provider: &str, model: &str, command: Command) -> Command {
    let route = Route::To {
        provider: provider.into(),
        model: model.into(),
    };
    Command::Routed(route, Box::new(command))
}

fn results(seconds: i64, ended: &[(&str, Result<&str, &str>)]) -> Command {
    let result = |(id, outcome): &(&str, Result<&str, &str>)| ToolResult {
        tool_call_id: (*id).into(),
        outcome: outcome.map(Into::into).map_err(Into::into),
        duration_ms: 2,
    };
    Command::RecordToolResults {
        now: at(seconds),
        results: ended.iter().map(result).collect(),
    }
}

fn outputs(seconds: i64, posted: &[(&str, Result<&str, &str>)]) -> Command {
    let output = |(id, outcome): &(&str, Result<&str, &str>)| ToolOutput {
        tool_call_id: (*id).into(),
        outcome: outcome.map(Into::into).map_err(Into::into),
    };
    Command::SubmitToolOutputs {
        now: at(seconds),
        outputs: posted.iter().map(output).collect(),
    }
}

fn cancel(seconds: i64) -> Command {
    Command::Cancel {
        now: at(seconds),
        reason: Some("enough".into()),
    }
}

/// The log these commands leave; each must be accepted.
fn log_of(commands: impl IntoIterator<Item = Command>) -> Vec<Event> {
    let mut log = Vec::new();
    for command in commands {
        let words = format!("{command:?}");
        let events = decide(&Run::fold(&log), command).unwrap_or_else(|refusal| panic!("{words}: {refusal}"));
        log.extend(events);
    }
    log
}

fn run_after(commands: impl IntoIterator<Item = Command>) -> Run {
    Run::fold(&log_of(commands))
}

fn given(commands: impl IntoIterator<Item = Command>) -> AggregateTestExecutor<Run> {
    TestFramework::<Run>::with(()).given(log_of(commands))
}

/// The names of the events a command causes.
fn then_names(executor: AggregateTestExecutor<Run>, command: Command) -> Vec<&'static str> {
    let events = executor.when(command).inspect_result();
    events
        .expect("the command is accepted")
        .iter()
        .map(Event::name)
        .collect()
}

/// A try of the first step, which began in the first second.
fn first_call(attempt: u32) -> Event {
    model_call(1, attempt, 1, FIRST_INPUT)
}

/// What the question of [`request`] is estimated at: 20 bytes.
const FIRST_INPUT: u64 = 20_u64.div_ceil(3) + 4;

/// What the second step is estimated at: what the first one counted, and the tools' messages since.
fn input_after(contents: &[&str]) -> u64 {
    let bytes: usize = contents.iter().map(|content| content.len()).sum();
    spent().tokens() + (bytes as u64).div_ceil(3) + 4 * contents.len() as u64
}

fn model_call(step: u32, attempt: u32, step_began: i64, reserved_input_tokens: u64) -> Event {
    ModelCallRequested {
        step,
        attempt,
        model: "scripted".into(),
        provider: None,
        reserved_output_tokens: LIMITS.output_tokens_max,
        reserved_input_tokens,
        reserved_cost_microusd: 0,
        step_deadline: Some(at(step_began) + LIMITS.step_time()),
    }
    .into()
}

fn orphaned(step: u32, attempt: u32) -> Event {
    ModelCallOrphaned {
        step,
        attempt,
        charged_output_tokens: LIMITS.output_tokens_max,
        charged_input_tokens: FIRST_INPUT,
        charged_cost_microusd: 0,
    }
    .into()
}

fn resumed(epoch: u64) -> Event {
    RunResumed {
        worker: format!("worker-{epoch}"),
        epoch,
    }
    .into()
}

fn succeeded(id: &str, name: &str, output: &str, duration_ms: u64) -> Event {
    ToolCallSucceeded {
        tool_call_id: id.into(),
        name: name.into(),
        output: output.into(),
        duration_ms,
    }
    .into()
}

fn failed_with(code: &str, message: &str) -> Event {
    RunFailed {
        error: RunError {
            code: code.into(),
            message: message.into(),
        },
    }
    .into()
}

fn cancelled() -> Event {
    RunCancelled {
        reason: Some("enough".into()),
    }
    .into()
}

fn context(turn: u128) -> Context {
    Context {
        turns: vec![RunId(uuid::Uuid::from_u128(turn))],
        digest: "d1ge57".into(),
        bytes: 30,
    }
}
