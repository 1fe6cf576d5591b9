//! Crashes, retries, limits and cancels, told in sentences: every run has an end, and nothing follows it.

use super::*;
use crate::run::{Next, Refusal, Status, WaitingOn, agent::CutOffTool, next, state::ToolState};

fn running() -> [Command; 2] {
    [requested(), advance(1, 1)]
}

/// The same for an agent that has cut-off tools reported to the model.
fn running_with_reports() -> [Command; 2] {
    let mut reports = request();
    reports.terms.policies.cut_off_tool = CutOffTool::Report;
    [Command::Request(reports), advance(1, 1)]
}

fn with(story: impl IntoIterator<Item = Command>, more: impl IntoIterator<Item = Command>) -> Vec<Command> {
    story.into_iter().chain(more).collect()
}

#[test]
fn a_takeover_orphans_the_open_call_charges_its_reservation_and_tries_again() {
    given(running())
        .when(advance(60, 2))
        .then_expect_events(vec![resumed(2), orphaned(1, 1), first_call(2)]);
    let run = run_after(with(running(), [advance(60, 2)]));
    assert_eq!(run.usage.output_tokens, u64::from(LIMITS.output_tokens_max));
    given(with(running(), [advance(60, 2)]))
        .when(reply(61, 1, 1, "from the dead", &[]))
        .then_expect_error(Refusal::NoSuchModelCall { step: 1, attempt: 1 });
}

#[test]
fn by_policy_an_unsafe_tool_that_was_cut_off_is_not_repeated_and_the_model_is_told() {
    let story = with(running_with_reports(), [reply(2, 1, 1, "", &[("c1", "pay")])]);
    let events = given(story).when(advance(60, 2)).inspect_result().expect("accepted");
    let names: Vec<_> = events.iter().map(Event::name).collect();
    assert_eq!(names, ["run.resumed", "tool_call.failed", "model_call.requested"]);
    let Event::ToolCallFailed(told) = &events[1] else {
        panic!("{:?}", events[1])
    };
    assert!(
        told.error.contains("may or may not have taken effect"),
        "{}",
        told.error
    );
}

#[test]
fn a_harmless_tool_that_was_cut_off_is_run_again() {
    let story = with(running(), [reply(2, 1, 1, "", &[("c1", "lookup"), ("c2", "pay")])]);
    let run = run_after(with(story, [advance(60, 2)]));
    let Next::RunTools(tools) = next(&run) else {
        panic!("{:?}", next(&run))
    };
    assert_eq!(
        (tools.len(), &*tools[0].call.id, tools[0].state),
        (1, "c1", ToolState::Requested)
    );
}

#[test]
fn a_takeover_of_a_run_with_only_client_calls_left_waits_for_the_client() {
    let story = with(
        running_with_reports(),
        [reply(2, 1, 1, "", &[("c1", "ask"), ("c2", "pay")])],
    );
    let run = run_after(with(story, [advance(60, 2)]));
    assert!(
        matches!(next(&run), Next::Wait(WaitingOn::ToolOutputs { .. })),
        "{:?}",
        next(&run)
    );
}

#[test]
fn a_failed_call_waits_for_its_retry_and_is_then_tried_again() {
    let waiting = || with(running(), [failure(2, 1, 1, Some(10))]);
    let run = run_after(waiting());
    assert_eq!(
        (run.status(), run.waiting_on()),
        (Status::Waiting, Some(WaitingOn::Timer { until: at(10) }))
    );
    assert_eq!(next(&run), Next::RetryModelCallAt(at(10)));
    given(waiting())
        .when(Command::RetryModelCall { now: at(10) })
        .then_expect_events(vec![first_call(2)]);
    given(running())
        .when(Command::RetryModelCall { now: at(10) })
        .then_expect_error(Refusal::NothingToDo(Status::Running));
}

#[test]
fn another_worker_takes_a_retry_up_when_its_time_has_come() {
    let waiting = || with(running(), [failure(2, 1, 1, Some(10))]);
    given(waiting())
        .when(advance(9, 2))
        .then_expect_error(Refusal::NothingToDo(Status::Waiting));
    given(waiting())
        .when(advance(10, 2))
        .then_expect_events(vec![resumed(2), first_call(2)]);
}

#[test]
fn a_call_the_provider_rejects_fails_the_run() {
    let names = then_names(given(running()), failure(2, 1, 1, None));
    assert_eq!(names, ["model_call.failed", "run.failed"]);
    let run = run_after(with(running(), [failure(2, 1, 1, None)]));
    assert_eq!(next(&run), Next::Ended(Status::Failed));
    let end = log_of(with(running(), [failure(2, 1, 1, None)])).pop();
    let message = "the model call of step 1 failed after 1 attempt: the provider said no";
    assert_eq!(end, Some(failed_with("model_rejected", message)));
}

#[test]
fn the_last_attempt_is_not_followed_by_another() {
    let retry = |seconds| Command::RetryModelCall { now: at(seconds) };
    let third = with(
        running(),
        [failure(2, 1, 1, Some(3)), retry(3), failure(4, 1, 2, Some(5)), retry(5)],
    );
    let message = "the model call of step 1 failed after 3 attempts: the provider said no";
    let events = given(third.clone())
        .when(failure(6, 1, 3, Some(7)))
        .inspect_result()
        .expect("accepted");
    assert_eq!(events[1..], [failed_with("model_unavailable", message)]);
    let message = "the model call of step 1 was tried 3 times (limits.model_attempts_max)";
    given(third).when(advance(60, 2)).then_expect_events(vec![
        resumed(2),
        orphaned(1, 3),
        failed_with("model_attempts", message),
    ]);
}

#[test]
fn a_run_that_takes_too_many_steps_fails() {
    let step = |n: u32| {
        let id = format!("c{n}");
        [reply(2, n, 1, "", &[(&id, "lookup")]), results(3, &[(&id, Ok("more"))])]
    };
    let [asked, answered] = step(3);
    let story = with(with(with(running(), step(1)), step(2)), [asked]);
    let message = "the run took 3 steps without an answer (limits.steps_max)";
    given(story).when(answered).then_expect_events(vec![
        succeeded("c3", "lookup", "more", 2),
        failed_with("step_limit", message),
    ]);
}

#[test]
fn a_run_fails_at_its_deadline_wherever_it_stands() {
    let deadline = "the run did not end within 600 s (limits.run_seconds_max)";
    let last_names = |story: Vec<Command>, command: Command| then_names(given(story), command);
    given([requested()]).when(advance(600, 1)).then_expect_events(vec![
        RunStarted {
            worker: "worker-1".into(),
            epoch: 1,
        }
        .into(),
        failed_with("deadline", deadline),
    ]);
    given(running()).when(advance(600, 2)).then_expect_events(vec![
        resumed(2),
        orphaned(1, 1),
        failed_with("deadline", deadline),
    ]);
    for calls in [[("c1", "ask")], [("c1", "lookup")]] {
        let story = with(running(), [reply(2, 1, 1, "", &calls)]);
        assert_eq!(last_names(story, advance(600, 2)), ["run.resumed", "run.failed"]);
    }
    let story = with(running(), [failure(2, 1, 1, Some(599))]);
    assert_eq!(
        last_names(story.clone(), advance(600, 2)),
        ["run.resumed", "run.failed"]
    );
    assert_eq!(
        last_names(story, Command::RetryModelCall { now: at(600) }),
        ["run.failed"]
    );
    let names = last_names(running().into(), failure(2, 1, 1, Some(600)));
    assert_eq!(
        names,
        ["model_call.failed", "run.failed"],
        "a retry after the deadline is none"
    );
    let two = with(running(), [reply(2, 1, 1, "", &[("c1", "lookup"), ("c2", "lookup")])]);
    assert_eq!(
        last_names(two, results(600, &[("c1", Ok("x"))])),
        ["tool_call.succeeded", "run.failed"]
    );
}

#[test]
fn an_answer_that_comes_after_the_deadline_is_still_an_answer() {
    let names = then_names(given(running()), reply(700, 1, 1, "better late", &[]));
    assert_eq!(names, ["model.replied", "run.completed"]);
}

#[test]
fn a_run_that_kills_its_workers_is_called_poison() {
    let mut limits = request();
    limits.limits.model_attempts_max = 100;
    let claims = |count: u64| {
        let claims = (1..=count).map(|epoch| advance(epoch as i64, epoch));
        with([Command::Request(limits.clone())], claims)
    };
    assert_eq!(run_after(claims(3)).status(), Status::Running);
    let message = "3 workers in a row claimed the run and none brought it a step forward (limits.claims_max); the last was lost \
                   during the model call of step 1: it was killed, aborted, or out of memory";
    given(claims(3)).when(advance(9, 4)).then_expect_events(vec![
        resumed(4),
        orphaned(1, 3),
        failed_with("poison", message),
    ]);
}

#[test]
fn a_step_forward_clears_the_suspicion_of_poison() {
    let story = with(
        running(),
        [
            advance(2, 2),
            advance(3, 3),
            reply(4, 1, 3, "", &[("c1", "lookup")]),
            advance(5, 4),
        ],
    );
    let run = run_after(story);
    assert_eq!((run.status(), run.fruitless_claims), (Status::Running, 1));
}

#[test]
fn a_run_nobody_holds_is_cancelled_at_once() {
    let wanted = || {
        CancelRequested {
            reason: Some("enough".into()),
        }
        .into()
    };
    given([requested()])
        .when(cancel(1))
        .then_expect_events(vec![wanted(), cancelled()]);
    let waiting = with(running(), [reply(2, 1, 1, "", &[("c1", "ask")])]);
    given(waiting)
        .when(cancel(3))
        .then_expect_events(vec![wanted(), cancelled()]);
}

#[test]
fn a_run_at_work_is_cancelled_when_its_worker_has_let_go() {
    let asked = || with(running(), [cancel(2)]);
    assert_eq!(then_names(given(running()), cancel(2)), ["cancel.requested"]);
    assert_eq!(next(&run_after(asked())), Next::ConfirmCancel);
    given(asked()).when(cancel(3)).then_expect_events(vec![]);
    given(asked())
        .when(Command::ConfirmCancel { now: at(3) })
        .then_expect_events(vec![orphaned(1, 1), cancelled()]);
    given(running())
        .when(Command::ConfirmCancel { now: at(3) })
        .then_expect_error(Refusal::NoCancelRequested);
}

#[test]
fn whatever_the_worker_brings_after_a_cancel_is_kept_and_ends_the_run() {
    let tools = with(running(), [reply(2, 1, 1, "", &[("c1", "lookup")])]);
    let backoff = with(running(), [failure(2, 1, 1, Some(5))]);
    let cases = [
        (
            running().into(),
            reply(4, 1, 1, "paid for", &[]),
            vec!["model.replied", "run.cancelled"],
        ),
        (
            running().into(),
            failure(4, 1, 1, Some(9)),
            vec!["model_call.failed", "run.cancelled"],
        ),
        (
            tools,
            results(4, &[("c1", Ok("x"))]),
            vec!["tool_call.succeeded", "run.cancelled"],
        ),
        (
            running().into(),
            advance(60, 2),
            vec!["run.resumed", "model_call.orphaned", "run.cancelled"],
        ),
        (
            backoff.clone(),
            Command::RetryModelCall { now: at(5) },
            vec!["run.cancelled"],
        ),
        (backoff, advance(4, 2), vec!["run.resumed", "run.cancelled"]),
    ];
    for (story, command, names) in cases {
        assert_eq!(then_names(given(with(story, [cancel(3)])), command), names);
    }
}

#[test]
fn a_worker_may_give_a_run_up() {
    let give_up = Command::Fail {
        now: at(2),
        code: "unknown_agent".into(),
        message: "its definition is gone".into(),
    };
    given(running()).when(give_up).then_expect_events(vec![
        orphaned(1, 1),
        failed_with("unknown_agent", "its definition is gone"),
    ]);
}

#[test]
fn a_finished_run_refuses_further_steps() {
    let ends = [
        (reply(2, 1, 1, "done", &[]), Status::Completed),
        (failure(2, 1, 1, None), Status::Failed),
    ];
    for (end, status) in ends {
        for command in super::sentences::every_other_command() {
            let told = given(with(running(), [end.clone()]))
                .when(command.clone())
                .inspect_result();
            assert_eq!(told, Err(Refusal::AlreadyEnded(status)), "{command:?}");
        }
        given(with(running(), [end]))
            .when(requested())
            .then_expect_error(Refusal::AlreadyRequested);
    }
}
