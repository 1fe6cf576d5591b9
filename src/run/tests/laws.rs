//! Laws that hold for every sequence of commands, sensible or not.
//!
//! A failing case is shrunk and printed with its seed. `PROPTEST_CASES=100000 cargo test -p steadfast laws` looks longer.

use proptest::{prelude::*, sample::Index};

use super::*;
use crate::run::{
    Amounts, ApprovalId, Decision, Next, Refusal, Status, WaitingOn,
    agent::{CutOffTool, OrphanedCall, Policies},
    budget::{Budget, OnBreach},
    next,
    state::{Call, OpenTool},
    transition,
};

/// Runs that live side by side.
const RUNS: usize = 2;

/// One thing somebody tries. What depends on the run's state is chosen when it is tried.
#[derive(Debug, Clone)]
enum Try {
    Request {
        endless: bool,
        metadata: bool,
        tools_twice: bool,
        terms: Terms,
    },
    Advance {
        context: bool,
    },
    Reply {
        aim: Aim,
        text: String,
        calls: Vec<(u8, u8)>,
    },
    Failure {
        aim: Aim,
        retry_in: Option<i64>,
        excused: bool,
    },
    Retry,
    Results {
        picks: Vec<(Index, bool)>,
        stranger: bool,
    },
    Outputs {
        picks: Vec<(Index, bool)>,
        again: Option<(Index, bool)>,
        stranger: bool,
    },
    Cancel {
        reason: bool,
    },
    ConfirmCancel,
    Resolve {
        pick: Index,
        decision: u8,
        stranger: bool,
    },
    Raise {
        by: i64,
        steps: bool,
    },
    Interrupt,
    TimeOut,
    Fail,
    /// Something else, while no model can be asked for so many seconds.
    Parked {
        seconds: i64,
        what: Box<Try>,
    },
}

/// Whether a worker's report names the call that is open, or any.
#[derive(Debug, Clone)]
enum Aim {
    True,
    At(u32, u32),
}

fn aim() -> impl Strategy<Value = Aim> {
    prop_oneof![5 => Just(Aim::True), 1 => (0..5_u32, 0..5_u32).prop_map(|(step, attempt)| Aim::At(step, attempt))]
}

fn picks() -> impl Strategy<Value = Vec<(Index, bool)>> {
    prop::collection::vec(any::<(Index, bool)>(), 0..4)
}

fn rarely() -> impl Strategy<Value = bool> {
    prop::bool::weighted(0.1)
}

fn terms() -> impl Strategy<Value = Terms> {
    let policies = (0..3_usize, any::<bool>()).prop_map(|(call, report)| Policies {
        orphaned_call: [OrphanedCall::Retry, OrphanedCall::Fail, OrphanedCall::Ask][call],
        cut_off_tool: if report { CutOffTool::Report } else { CutOffTool::Ask },
    });
    let budget = (prop::option::of(50..400_u64), prop::option::of(1..3_u64), any::<bool>());
    let budget = budget.prop_map(|(tokens, steps, fail)| Budget {
        amounts: Amounts {
            tokens,
            steps,
            ..Amounts::default()
        },
        on_breach: if fail { OnBreach::Fail } else { OnBreach::Ask },
    });
    (policies, prop::option::of(budget)).prop_map(|(policies, budget)| Terms {
        policies,
        budget: budget.unwrap_or_default(),
        ..Terms::default()
    })
}

fn attempt() -> impl Strategy<Value = Try> {
    let park = prop::option::weighted(0.1, -5..60_i64);
    (attempt_with_a_model(), park).prop_map(|(what, park)| match park {
        Some(seconds) => Try::Parked {
            seconds,
            what: Box::new(what),
        },
        None => what,
    })
}

fn attempt_with_a_model() -> impl Strategy<Value = Try> {
    let calls = prop::collection::vec((0..5_u8, 0..5_u8), 0..4);
    prop_oneof![
        8 => (rarely(), any::<bool>(), rarely(), terms()).prop_map(|(endless, metadata, tools_twice, terms)| {
            Try::Request { endless, metadata, tools_twice, terms }
        }),
        5 => any::<bool>().prop_map(|context| Try::Advance { context }),
        6 => (aim(), ".{0,8}", calls).prop_map(|(aim, text, calls)| Try::Reply { aim, text, calls }),
        3 => (aim(), prop::option::weighted(0.8, -5..60_i64), any::<bool>())
            .prop_map(|(aim, retry_in, excused)| Try::Failure { aim, retry_in, excused }),
        3 => Just(Try::Retry),
        6 => (picks(), rarely()).prop_map(|(picks, stranger)| Try::Results { picks, stranger }),
        6 => (picks(), prop::option::weighted(0.3, any::<(Index, bool)>()), rarely())
            .prop_map(|(picks, again, stranger)| Try::Outputs { picks, again, stranger }),
        1 => any::<bool>().prop_map(|reason| Try::Cancel { reason }),
        1 => Just(Try::ConfirmCancel),
        4 => (any::<Index>(), 0..3_u8, rarely())
            .prop_map(|(pick, decision, stranger)| Try::Resolve { pick, decision, stranger }),
        3 => (-1..300_i64, any::<bool>()).prop_map(|(by, steps)| Try::Raise { by, steps }),
        1 => prop::bool::weighted(0.3).prop_map(|late| if late { Try::TimeOut } else { Try::Interrupt }),
        1 => prop::bool::weighted(0.2).prop_map(|fail| if fail { Try::Fail } else { Try::Retry }),
    ]
}

/// Which run, how many seconds later, and what.
fn story() -> impl Strategy<Value = Vec<(usize, i64, Try)>> {
    let pause = prop_oneof![8 => 0..5_i64, 2 => 5..60_i64, 1 => 300..700_i64];
    prop::collection::vec((0..RUNS, pause, attempt()), 1..60)
}

fn outcome(well: bool) -> Result<String, String> {
    if well { Ok("out".into()) } else { Err("broke".into()) }
}

fn command_for(run: &Run, now: Time, what: Try) -> Command {
    let open = match run.call {
        Call::Open { attempt } => (run.step, attempt),
        _ => (run.step, 1),
    };
    let aimed = |aim| match aim {
        Aim::True => open,
        Aim::At(step, attempt) => (step, attempt),
    };
    let id = |pick: &Index, tools: &[&OpenTool]| match tools {
        [] => "nobody's".to_owned(),
        tools => pick.get(tools).call.id.clone(),
    };
    let of = |executor| {
        run.open_tools
            .iter()
            .filter(move |tool| tool.executor == executor)
            .collect::<Vec<_>>()
    };
    match what {
        Try::Request {
            endless,
            metadata,
            tools_twice,
            terms,
        } => {
            let mut request = request();
            request.now = now;
            request.terms = Box::new(terms);
            if endless {
                request.limits.run_seconds_max = u64::MAX;
            }
            if metadata {
                request.metadata =
                    serde_json::json!({"user": "ö\u{0}\n\"", "n": [1, -2, 0.5, 1e300], "deep": {"": null}});
                request.idempotency_key = Some("key".into());
            }
            if tools_twice {
                request.client_tools.push(request.client_tools[0].clone());
            }
            Command::Request(request)
        }
        Try::Advance { context: shown } => Command::Advance {
            now,
            worker: "w".into(),
            epoch: run.epoch + 1,
            context: shown.then(|| context(9)),
        },
        Try::Reply { aim, text, calls } => {
            let (step, attempt) = aimed(aim);
            let names = ["lookup", "pay", "ask", "nothing", "ask"];
            let ids = ["", "a", "b", "c", "call_1_1"];
            let tool_calls = (calls.iter())
                .map(|(id, name)| call(ids[*id as usize], names[*name as usize]))
                .collect();
            let reply = ModelReply {
                deltas: vec![text.len() as u32],
                text,
                tool_calls,
                usage: spent(),
                first_token_ms: Some(1),
                ..ModelReply::default()
            };
            Command::RecordReply {
                now,
                step,
                attempt,
                reply,
            }
        }
        Try::Failure { aim, retry_in, excused } => {
            let (step, attempt) = aimed(aim);
            Command::RecordModelFailure {
                now,
                step,
                attempt,
                class: "timeout".into(),
                message: "too slow".into(),
                retry_at: retry_in.map(|seconds| now + chrono::TimeDelta::seconds(seconds)),
                excused,
            }
        }
        Try::Retry => Command::RetryModelCall { now },
        Try::Results { picks, stranger } => {
            let mut tools = of(Executor::Server);
            if stranger {
                tools.extend(of(Executor::Client));
            }
            let result = |(pick, well): &(Index, bool)| ToolResult {
                tool_call_id: id(pick, &tools),
                outcome: outcome(*well),
                duration_ms: 1,
            };
            Command::RecordToolResults {
                now,
                results: picks.iter().map(result).collect(),
            }
        }
        Try::Outputs { picks, again, stranger } => {
            let mut tools = of(Executor::Client);
            if stranger {
                tools.extend(of(Executor::Server));
            }
            let again = again.filter(|_| !run.client_outputs.is_empty());
            let before = again.map(|(pick, well)| (pick.get(&run.client_outputs).0.clone(), well));
            let posted = picks.iter().map(|(pick, well)| (id(pick, &tools), *well));
            let outputs = (before.into_iter().chain(posted))
                .map(|(tool_call_id, well)| ToolOutput {
                    tool_call_id,
                    outcome: outcome(well),
                })
                .collect();
            Command::SubmitToolOutputs { now, outputs }
        }
        Try::Cancel { reason } => Command::Cancel {
            now,
            reason: reason.then(|| "enough".into()),
        },
        Try::ConfirmCancel => Command::ConfirmCancel { now },
        Try::Parked { seconds, what } => {
            let route = Route::Park {
                until: now + chrono::TimeDelta::seconds(seconds),
                reason: "breaker_open",
            };
            Command::Routed(route, Box::new(command_for(run, now, *what)))
        }
        Try::Resolve {
            pick,
            decision,
            stranger,
        } => Command::ResolveApproval {
            now,
            approval_id: match run.approvals.as_slice() {
                [] => ApprovalId(1),
                _ if stranger => ApprovalId(1),
                asked => pick.get(asked).id,
            },
            arguments_sha256: None,
            decision: match decision {
                0 => Decision::Allow,
                1 => Decision::Deny { reason: None },
                _ => Decision::Edit { output: "out".into() },
            },
            by: "ada".into(),
        },
        Try::Raise { by, steps } => {
            let raised = |now: u64| now.saturating_add_signed(by);
            let to = Amounts {
                tokens: run.budget.tokens.map(raised),
                steps: run.budget.steps.map(raised).filter(|_| steps),
                ..Amounts::default()
            };
            Command::RaiseBudget {
                now,
                to,
                by: "ada".into(),
            }
        }
        Try::Interrupt => Command::Interrupt {
            now,
            worker: "w".into(),
            reason: "it panicked".into(),
        },
        Try::TimeOut => Command::TimeOut { now },
        Try::Fail => Command::Fail {
            now,
            code: "x".into(),
            message: "y".into(),
        },
    }
}

/// A log as it grows, and the state that was kept beside it.
#[derive(Default)]
struct Life {
    log: Vec<Event>,
    live: Run,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_tried_the_laws_of_a_run_hold(story in story(), cut in any::<Index>()) {
        let mut lives: [Life; RUNS] = Default::default();
        let mut now = at(0);
        for (which, pause, what) in story {
            now += chrono::TimeDelta::seconds(pause);
            let life = &mut lives[which];
            let command = command_for(&life.live, now, what);
            let was_ended = life.live.outcome.is_some();
            // The contract is that this returns, whatever the command.
            let Ok((events, after)) = transition(&life.live, command) else {
                continue;
            };
            prop_assert!(!was_ended || events.is_empty(), "after the end: {events:?}");
            for event in events {
                life.live = std::mem::take(&mut life.live).evolve(&event);
                life.log.push(event);
            }
            prop_assert_eq!(&after, &life.live, "the run that was answered is the run after the facts");
            prop_assert_eq!(life.live.version, life.log.len() as u64, "versions are 1, 2, 3 and so on");
            prop_assert_eq!(&Run::fold(&life.log), &life.live, "a replay from zero is the live state");
            status_and_next_agree(&life.live, life.log.last())?;
        }
        for life in &lives {
            one_end_at_most(&life.log)?;
            every_model_call_is_accounted_for(&life.log, &life.live)?;
            every_tool_call_ends_at_most_once(&life.log)?;
            no_unsafe_tool_starts_twice_without_a_person(&life.log)?;
            no_call_is_made_that_the_budget_does_not_hold(&life.log)?;
            a_replay_through_json_is_the_live_state(life, &cut)?;
        }
    }

    #[test]
    fn reading_any_payload_answers_and_never_panics(name in prop::sample::select(Event::NAMES), text in ".{0,64}") {
        let _ = Event::from_stored(name, 1, &text);
        prop_assert!(Event::from_stored(name, 2, &text).is_err(), "a schema of the future was read");
    }
}

fn status_and_next_agree(run: &Run, last: Option<&Event>) -> Result<(), TestCaseError> {
    let (status, todo) = (run.status(), next(run));
    let ended = last.is_some_and(Event::is_terminal);
    prop_assert_eq!(status.is_terminal(), ended);
    prop_assert_eq!(
        matches!(todo, Next::Ended(as_what) if as_what == status),
        ended,
        "{:?}",
        todo
    );
    if ended || run.request.is_none() {
        return Ok(());
    }
    let held = run.claimed;
    match status {
        Status::Queued => prop_assert_eq!((held, &todo), (false, &Next::Claim)),
        Status::Waiting => match run.waiting_on() {
            Some(WaitingOn::Timer { until }) if held => prop_assert_eq!(&todo, &Next::RetryModelCallAt(until)),
            Some(on) => prop_assert_eq!((held, &todo), (false, &Next::Wait(on))),
            None => prop_assert!(false, "waiting on nothing"),
        },
        _ if run.cancel.is_some() => prop_assert_eq!((held, &todo), (true, &Next::ConfirmCancel)),
        _ => match &todo {
            Next::CallModel { step, attempt } => {
                prop_assert_eq!(
                    (held, *step, &run.call),
                    (true, run.step, &Call::Open { attempt: *attempt })
                );
            }
            Next::RunTools(tools) => prop_assert!(held && !tools.is_empty(), "nothing to do while running"),
            other => prop_assert!(false, "{other:?} while running"),
        },
    }
    // Only a worker that holds the run has a call open: nobody else could say how it ended.
    prop_assert!(
        held || !matches!(run.call, Call::Open { .. }),
        "an open call nobody makes"
    );
    Ok(())
}

fn one_end_at_most(log: &[Event]) -> Result<(), TestCaseError> {
    let end = log.iter().position(Event::is_terminal);
    prop_assert!(end.is_none_or(|at| at + 1 == log.len()), "facts after the end");
    Ok(())
}

fn every_model_call_is_accounted_for(log: &[Event], run: &Run) -> Result<(), TestCaseError> {
    let mut open = None;
    let mut asked = Vec::new();
    let mut excused = 0;
    let mut answered = Vec::new();
    let mut charged = Usage::default();
    for event in log {
        let outcome = match event {
            Event::ModelCallRequested(e) => {
                prop_assert_eq!(open, None, "a call while another is open");
                let expected = match asked.last() {
                    Some((step, attempt)) if *step == e.step => (*step, attempt + 1),
                    Some((step, _)) => (step + 1, 1),
                    None => (1, 1),
                };
                prop_assert_eq!((e.step, e.attempt), expected, "steps and attempts count up");
                if e.attempt == 1 {
                    excused = 0;
                }
                prop_assert!(e.step <= LIMITS.steps_max && e.attempt - excused <= LIMITS.model_attempts_max);
                open = Some((e.step, e.attempt));
                asked.push((e.step, e.attempt));
                continue;
            }
            Event::ModelReplied(e) => {
                prop_assert!(!answered.contains(&e.step), "step {} was answered twice", e.step);
                answered.push(e.step);
                charged += e.usage;
                (e.step, e.attempt)
            }
            Event::ModelCallFailed(e) => {
                excused += u32::from(e.excused);
                (e.step, e.attempt)
            }
            Event::ModelCallOrphaned(e) => {
                charged += e.charged();
                (e.step, e.attempt)
            }
            _ => continue,
        };
        prop_assert_eq!(open, Some(outcome), "an outcome of no open call");
        open = None;
    }
    prop_assert!(
        run.outcome.is_none() || open.is_none(),
        "an ended run with an open call"
    );
    prop_assert_eq!(run.usage, charged, "usage is the sum of what was charged");
    Ok(())
}

fn every_tool_call_ends_at_most_once(log: &[Event]) -> Result<(), TestCaseError> {
    let mut open: Vec<&str> = Vec::new();
    let mut seen: Vec<&str> = Vec::new();
    for event in log {
        match event {
            Event::ToolCallRequested(e) => {
                prop_assert!(!seen.contains(&&*e.call.id), "two calls with the id {}", e.call.id);
                seen.push(&e.call.id);
                open.push(&e.call.id);
            }
            Event::ToolCallSucceeded(ToolCallSucceeded { tool_call_id, .. })
            | Event::ToolCallFailed(ToolCallFailed { tool_call_id, .. }) => {
                let at = open.iter().position(|id| id == tool_call_id);
                prop_assert!(at.is_some(), "{} ended without being open", tool_call_id);
                open.remove(at.unwrap_or_default());
            }
            Event::ModelCallRequested(_) => prop_assert!(open.is_empty(), "the model was asked before its tools ended"),
            _ => {}
        }
    }
    Ok(())
}

fn no_unsafe_tool_starts_twice_without_a_person(log: &[Event]) -> Result<(), TestCaseError> {
    let mut started: Vec<&str> = Vec::new();
    for event in log {
        match event {
            Event::ToolCallStarted(e) => {
                prop_assert!(!started.contains(&&*e.tool_call_id), "{} started again", e.tool_call_id);
                started.push(&e.tool_call_id);
            }
            Event::ApprovalGranted(e) => started.retain(|id| Some(*id) != e.subject.tool_call_id.as_deref()),
            _ => {}
        }
    }
    Ok(())
}

/// What is spent and reserved stays within the budget in force; only a reply that counts more than was estimated passes
/// it, and the call after that is not made.
fn no_call_is_made_that_the_budget_does_not_hold(log: &[Event]) -> Result<(), TestCaseError> {
    let mut run = Run::default();
    for event in log {
        let spent = run.usage.tokens();
        if let (Event::ModelCallRequested(e), Some(budget)) = (event, run.budget.tokens) {
            prop_assert!(
                spent + e.reserved().tokens() <= budget,
                "{} of {} tokens",
                spent,
                budget
            );
        }
        if let (Event::ModelCallRequested(e), Some(budget)) = (event, run.budget.steps) {
            prop_assert!(u64::from(e.step) <= budget, "step {} of {}", e.step, budget);
        }
        run = run.evolve(event);
    }
    Ok(())
}

fn a_replay_through_json_is_the_live_state(life: &Life, cut: &Index) -> Result<(), TestCaseError> {
    let mut run = Run::default();
    let snapshot_at = cut.index(life.log.len() + 1);
    for (at, event) in life.log.iter().enumerate() {
        if at == snapshot_at {
            let json = serde_json::to_string(&run).map_err(|e| TestCaseError::fail(e.to_string()))?;
            run = serde_json::from_str(&json).map_err(|e| TestCaseError::fail(e.to_string()))?;
        }
        let payload = event.payload();
        let read = Event::from_stored(event.name(), event.schema(), &payload);
        let read = read.map_err(|e| TestCaseError::fail(e.to_string()))?;
        prop_assert_eq!(&read.payload(), &payload, "the bytes are the same when written again");
        run = run.evolve(&read);
    }
    prop_assert_eq!(&run, &life.live);
    Ok(())
}

/// The generator would prove little if it never got anywhere.
#[test]
fn the_generator_reaches_every_event_and_every_refusal_that_has_a_state() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let (mut events_seen, mut refusals_seen) = (std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
    for _ in 0..2000 {
        let story = story().new_tree(&mut runner).expect("no filters").current();
        let mut lives: [Run; RUNS] = Default::default();
        let mut now = at(0);
        for (which, pause, what) in story {
            now += chrono::TimeDelta::seconds(pause);
            match decide(&lives[which], command_for(&lives[which], now, what)) {
                Ok(events) => {
                    for event in events {
                        events_seen.insert(event.name());
                        lives[which] = std::mem::take(&mut lives[which]).evolve(&event);
                    }
                }
                Err(refusal) => drop(refusals_seen.insert(word(&refusal))),
            }
        }
    }
    let missing: Vec<_> = Event::NAMES
        .iter()
        .filter(|name| !events_seen.contains(**name))
        .collect();
    assert!(missing.is_empty(), "never happened: {missing:?}");
    assert!(refusals_seen.len() >= 12, "{refusals_seen:?}");
}

fn word(refusal: &Refusal) -> String {
    let debug = format!("{refusal:?}");
    debug.split(['(', ' ', '{']).next().unwrap_or_default().into()
}
