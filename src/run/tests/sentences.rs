//! The life of a run, told in sentences: from the request over model calls and tools to the answer.

use super::*;
use crate::run::{Next, Refusal, Status, WaitingOn, next};

#[test]
fn a_request_is_recorded_with_its_deadline() {
    let Request {
        agent,
        model,
        fallbacks,
        session_id,
        input,
        server_tools,
        client_tools,
        limits,
        terms,
        ..
    } = request();
    let fact = RunRequested {
        agent,
        model,
        fallbacks,
        session_id,
        input,
        continues_session: false,
        server_tools,
        client_tools,
        limits,
        terms,
        deadline: at(600),
        metadata: serde_json::Value::Null,
        idempotency_key: None,
    };
    (TestFramework::<Run>::with(()).given_no_previous_events())
        .when(requested())
        .then_expect_events(vec![fact.into()]);
    let run = run_after([requested()]);
    assert_eq!((run.status(), next(&run)), (Status::Queued, Next::Claim));
}

#[test]
fn a_request_without_end_gets_a_deadline_all_the_same() {
    let mut endless = request();
    endless.limits.run_seconds_max = u64::MAX;
    assert_eq!(run_after([Command::Request(endless)]).status(), Status::Queued);
}

#[test]
fn a_bad_request_is_refused_by_name() {
    let refused = |change: fn(&mut Request), refusal| {
        let mut request = request();
        change(&mut request);
        (TestFramework::<Run>::with(()).given_no_previous_events())
            .when(Command::Request(request))
            .then_expect_error(refusal);
    };
    refused(|r| r.input.clear(), Refusal::EmptyInput);
    refused(
        |r| r.input.push(Message::System { content: "s".into() }),
        Refusal::InputNotFromUser("system"),
    );
    refused(
        |r| r.client_tools[0].name = "pay".into(),
        Refusal::DuplicateTool("pay".into()),
    );
    refused(
        |r| r.server_tools.push(r.server_tools[0].clone()),
        Refusal::DuplicateTool("lookup".into()),
    );
    given([requested()])
        .when(requested())
        .then_expect_error(Refusal::AlreadyRequested);
}

#[test]
fn nothing_happens_to_a_run_that_was_not_requested() {
    for command in every_other_command() {
        (TestFramework::<Run>::with(()).given_no_previous_events())
            .when(command)
            .then_expect_error(Refusal::NotRequested);
    }
}

/// One of each command but the request.
pub fn every_other_command() -> Vec<Command> {
    vec![
        advance(1, 1),
        reply(1, 1, 1, "text", &[]),
        failure(1, 1, 1, None),
        Command::RetryModelCall { now: at(1) },
        results(1, &[("c1", Ok("x"))]),
        outputs(1, &[("c1", Ok("x"))]),
        cancel(1),
        Command::ConfirmCancel { now: at(1) },
        Command::TimeOut { now: at(1) },
        Command::Interrupt {
            now: at(1),
            worker: "worker-1".into(),
            reason: "x".into(),
        },
        Command::RaiseBudget {
            now: at(1),
            to: Default::default(),
            by: "ada".into(),
        },
        Command::Fail {
            now: at(1),
            code: "x".into(),
            message: "x".into(),
        },
    ]
}

#[test]
fn the_first_claim_starts_the_run_and_asks_the_model() {
    let started = RunStarted {
        worker: "worker-1".into(),
        epoch: 1,
    };
    given([requested()])
        .when(advance(1, 1))
        .then_expect_events(vec![started.into(), first_call(1)]);
    let run = run_after([requested(), advance(1, 1)]);
    assert_eq!(run.status(), Status::Running);
    assert_eq!(next(&run), Next::CallModel { step: 1, attempt: 1 });
}

#[test]
fn the_turns_shown_to_the_model_are_recorded_once() {
    let with_context = |seconds, epoch| Command::Advance {
        now: at(seconds),
        worker: format!("worker-{epoch}"),
        epoch,
        context: Some(context(epoch.into())),
    };
    let names = then_names(given([requested()]), with_context(1, 1));
    assert_eq!(names, ["run.started", "context.assembled", "model_call.requested"]);
    let names = then_names(given([requested(), with_context(1, 1)]), with_context(2, 2));
    assert_eq!(names, ["run.resumed", "model_call.orphaned", "model_call.requested"]);
    assert_eq!(
        run_after([requested(), with_context(1, 1)]).turns,
        Some(context(1).turns)
    );
}

#[test]
fn a_reply_without_tool_calls_completes_the_run() {
    let events = given([requested(), advance(1, 1)])
        .when(reply(2, 1, 1, "Sunny.", &[]))
        .inspect_result()
        .expect("accepted");
    let end = RunCompleted {
        output: "Sunny.".into(),
    };
    assert_eq!(events[0].name(), "model.replied");
    assert_eq!(events[1..], [end.into()]);
    let run = run_after([requested(), advance(1, 1), reply(2, 1, 1, "Sunny.", &[])]);
    assert_eq!((run.status(), run.usage), (Status::Completed, spent()));
    assert_eq!(next(&run), Next::Ended(Status::Completed));
}

#[test]
fn a_reply_to_another_call_is_refused() {
    let refusal = |step, attempt| Refusal::NoSuchModelCall { step, attempt };
    for (step, attempt) in [(1, 2), (2, 1), (0, 0)] {
        given([requested(), advance(1, 1)])
            .when(reply(2, step, attempt, "late", &[]))
            .then_expect_error(refusal(step, attempt));
        given([requested(), advance(1, 1)])
            .when(failure(2, step, attempt, None))
            .then_expect_error(refusal(step, attempt));
    }
    given([requested()])
        .when(reply(2, 1, 1, "early", &[]))
        .then_expect_error(refusal(1, 1));
}

#[test]
fn a_harmless_tool_is_asked_for_and_an_unsafe_one_is_marked_as_started() {
    let names = then_names(
        given([requested(), advance(1, 1)]),
        reply(2, 1, 1, "", &[("c1", "lookup"), ("c2", "pay")]),
    );
    assert_eq!(
        names,
        [
            "model.replied",
            "tool_call.requested",
            "tool_call.requested",
            "tool_call.started"
        ]
    );
    let run = run_after([
        requested(),
        advance(1, 1),
        reply(2, 1, 1, "", &[("c1", "lookup"), ("c2", "pay")]),
    ]);
    let Next::RunTools(tools) = next(&run) else {
        panic!("{:?}", next(&run))
    };
    assert_eq!(
        tools.iter().map(|tool| &*tool.call.id).collect::<Vec<_>>(),
        ["c1", "c2"]
    );
}

#[test]
fn a_tool_that_does_not_exist_is_answered_to_the_model_at_once() {
    let events = given([requested(), advance(1, 1)])
        .when(reply(2, 1, 1, "", &[("c1", "teleport")]))
        .inspect_result()
        .expect("accepted");
    let told = ToolCallFailed {
        tool_call_id: "c1".into(),
        name: "teleport".into(),
        error: "there is no tool \"teleport\"; the tools are: lookup, pay, ask".into(),
        duration_ms: 0,
    };
    let input = input_after(&[&format!("error: {}", told.error)]);
    assert_eq!(events[2..], [told.into(), model_call(2, 1, 2, input)]);
}

#[test]
fn tool_calls_without_an_id_of_their_own_are_given_one() {
    let twice = reply(2, 1, 1, "", &[("", "lookup"), ("same", "lookup"), ("same", "lookup")]);
    let run = run_after([requested(), advance(1, 1), twice]);
    let ids: Vec<_> = run.open_tools.iter().map(|tool| tool.call.id.as_str()).collect();
    assert_eq!(ids, ["call_1_1", "same", "call_1_3"]);
    let Some(Message::Assistant { tool_calls, .. }) = run.messages.last().map(|message| &**message) else {
        panic!("the model's message is not the last")
    };
    assert_eq!(tool_calls[2].id, "call_1_3", "the model is shown the ids the run uses");
}

#[test]
fn the_model_is_asked_again_only_when_all_parallel_tools_have_ended() {
    let story = || {
        [
            requested(),
            advance(1, 1),
            reply(2, 1, 1, "", &[("c1", "lookup"), ("c2", "lookup")]),
        ]
    };
    given(story())
        .when(results(3, &[("c2", Ok("two"))]))
        .then_expect_events(vec![succeeded("c2", "lookup", "two", 2)]);
    let one_ended = || story().into_iter().chain([results(3, &[("c2", Ok("two"))])]);
    let Next::RunTools(left) = next(&run_after(one_ended())) else {
        panic!("a tool is still to run")
    };
    assert_eq!(left.len(), 1);
    given(one_ended())
        .when(results(4, &[("c1", Ok("one"))]))
        .then_expect_events(vec![
            succeeded("c1", "lookup", "one", 2),
            model_call(2, 1, 4, input_after(&["two", "one"])),
        ]);
    given(story())
        .when(results(4, &[("c1", Ok("one")), ("c2", Ok("two"))]))
        .then_expect_events(vec![
            succeeded("c1", "lookup", "one", 2),
            succeeded("c2", "lookup", "two", 2),
            model_call(2, 1, 4, input_after(&["one", "two"])),
        ]);
}

#[test]
fn a_failed_tool_is_told_to_the_model_and_the_run_goes_on() {
    let run = run_after([
        requested(),
        advance(1, 1),
        reply(2, 1, 1, "", &[("c1", "lookup")]),
        results(3, &[("c1", Err("no such city"))]),
    ]);
    assert_eq!(
        run.messages.last().map(|message| message.content()),
        Some("error: no such city")
    );
    assert_eq!(next(&run), Next::CallModel { step: 2, attempt: 1 });
}

#[test]
fn tool_results_nobody_asked_for_are_refused() {
    let story = || {
        [
            requested(),
            advance(1, 1),
            reply(2, 1, 1, "", &[("c1", "lookup"), ("c2", "ask")]),
        ]
    };
    let unknown = |id: &str| Refusal::UnknownToolCall(id.into());
    given(story())
        .when(results(3, &[("c9", Ok("x"))]))
        .then_expect_error(unknown("c9"));
    given(story())
        .when(results(3, &[("c1", Ok("x")), ("c1", Ok("x"))]))
        .then_expect_error(unknown("c1"));
    given(story())
        .when(results(3, &[("c2", Ok("the client's to answer"))]))
        .then_expect_error(unknown("c2"));
    given(story())
        .when(results(3, &[]))
        .then_expect_error(Refusal::NoOutputs);
}

#[test]
fn a_run_waits_for_its_client_tools_and_goes_on_with_their_outputs() {
    let waiting = || {
        [
            requested(),
            advance(1, 1),
            reply(2, 1, 1, "", &[("c1", "ask"), ("c2", "ask")]),
        ]
    };
    let run = run_after(waiting());
    let tool_calls = vec![call("c1", "ask"), call("c2", "ask")];
    assert_eq!(run.status(), Status::Waiting);
    assert_eq!(next(&run), Next::Wait(WaitingOn::ToolOutputs { tool_calls }));
    given(waiting())
        .when(advance(3, 2))
        .then_expect_error(Refusal::NothingToDo(Status::Waiting));

    given(waiting())
        .when(outputs(3, &[("c1", Ok("yes"))]))
        .then_expect_events(vec![succeeded("c1", "ask", "yes", 0)]);
    let answered = || {
        waiting()
            .into_iter()
            .chain([outputs(3, &[("c1", Ok("yes")), ("c2", Err("no"))])])
    };
    let run = run_after(answered());
    assert_eq!((run.status(), next(&run)), (Status::Queued, Next::Claim));
    given(answered()).when(advance(4, 2)).then_expect_events(vec![
        resumed(2),
        model_call(2, 1, 4, input_after(&["yes", "error: no"])),
    ]);
}

#[test]
fn the_same_output_again_is_harmless_and_another_is_refused() {
    let story = || {
        [
            requested(),
            advance(1, 1),
            reply(2, 1, 1, "", &[("c1", "ask"), ("c2", "ask")]),
            outputs(3, &[("c1", Ok("yes"))]),
        ]
    };
    given(story())
        .when(outputs(4, &[("c1", Ok("yes"))]))
        .then_expect_events(vec![]);
    given(story())
        .when(outputs(4, &[("c1", Ok("yes")), ("c2", Ok("two"))]))
        .then_expect_events(vec![succeeded("c2", "ask", "two", 0)]);
    for other in [Ok("no"), Err("yes")] {
        given(story())
            .when(outputs(4, &[("c2", Ok("two")), ("c1", other)]))
            .then_expect_error(Refusal::OutputDiffers("c1".into()));
    }
    let ended = || story().into_iter().chain([cancel(5)]);
    given(ended())
        .when(outputs(6, &[("c1", Ok("yes"))]))
        .then_expect_events(vec![]);
    given(ended())
        .when(outputs(6, &[("c2", Ok("two"))]))
        .then_expect_error(Refusal::AlreadyEnded(Status::Cancelled));
}

#[test]
fn outputs_that_fit_no_open_client_call_are_refused_by_name() {
    let story = || {
        [
            requested(),
            advance(1, 1),
            reply(2, 1, 1, "", &[("c1", "lookup"), ("c2", "ask")]),
        ]
    };
    let refused = |posted: &[(&str, Result<&str, &str>)], refusal| {
        given(story()).when(outputs(3, posted)).then_expect_error(refusal);
    };
    refused(&[], Refusal::NoOutputs);
    refused(&[("c1", Ok("x"))], Refusal::NotAClientTool("c1".into()));
    refused(&[("c9", Ok("x"))], Refusal::UnknownToolCall("c9".into()));
    refused(
        &[("c2", Ok("x")), ("c2", Ok("x"))],
        Refusal::DuplicateOutput("c2".into()),
    );
}

/// A worker that runs a tool holds the run, in whatever order the model asked for the two.
#[test]
fn the_clients_tools_are_waited_for_only_when_the_workers_have_ended() {
    for calls in [[("c1", "ask"), ("s1", "lookup")], [("s1", "lookup"), ("c1", "ask")]] {
        let story = || [requested(), advance(1, 1), reply(2, 1, 1, "", &calls)];
        let run = run_after(story());
        assert_eq!(run.status(), Status::Running, "{calls:?}");
        assert!(matches!(next(&run), Next::RunTools(tools) if tools.len() == 1 && tools[0].call.id == "s1"));

        let worker_first = || story().into_iter().chain([results(3, &[("s1", Ok("s"))])]);
        assert_eq!(run_after(worker_first()).status(), Status::Waiting);
        let run = run_after(worker_first().chain([outputs(4, &[("c1", Ok("c"))])]));
        assert_eq!(next(&run), Next::Claim);

        let client_first = || story().into_iter().chain([outputs(3, &[("c1", Ok("c"))])]);
        assert_eq!(run_after(client_first()).status(), Status::Running);
        given(client_first())
            .when(results(4, &[("s1", Ok("s"))]))
            .then_expect_events(vec![
                succeeded("s1", "lookup", "s", 2),
                model_call(2, 1, 4, input_after(&["c", "s"])),
            ]);
    }
}
