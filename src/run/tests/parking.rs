//! No model can be asked: the run waits for one without holding a worker, and without its tries being counted.

use super::*;
use crate::run::{Next, Refusal, Status, WaitingOn, next};

fn parked(step: u32, attempt: u32, until: i64) -> Event {
    ModelCallParked {
        step,
        attempt,
        reason: "breaker_open".into(),
        until: at(until),
    }
    .into()
}

fn routed(step_began: i64) -> Event {
    let Event::ModelCallRequested(asked) = model_call(1, 1, step_began, FIRST_INPUT) else {
        panic!("a model call is one");
    };
    ModelCallRequested {
        model: "big".into(),
        provider: Some("spare".into()),
        ..asked
    }
    .into()
}

#[test]
fn a_call_goes_where_the_worker_routes_it_and_says_so() {
    given([requested()])
        .when(to("spare", "big", advance(1, 1)))
        .then_expect_events(vec![
            RunStarted {
                worker: "worker-1".into(),
                epoch: 1,
            }
            .into(),
            routed(1),
        ]);
}

#[test]
fn a_run_that_finds_no_model_waits_for_one_and_then_makes_the_same_attempt() {
    let waiting = || vec![requested(), parked_until(9, advance(1, 1))];
    let run = run_after(waiting());
    assert_eq!(
        (run.status(), run.waiting_on(), next(&run)),
        (
            Status::Waiting,
            Some(WaitingOn::Timer { until: at(9) }),
            Next::RetryModelCallAt(at(9))
        )
    );
    given(waiting())
        .when(advance(8, 2))
        .then_expect_error(Refusal::NothingToDo(Status::Waiting));
    given(waiting())
        .when(to("spare", "big", advance(9, 2)))
        .then_expect_events(vec![resumed(2), routed(9)]);
    given(waiting())
        .when(parked_until(30, Command::RetryModelCall { now: at(9) }))
        .then_expect_events(vec![parked(1, 1, 30)]);
}

#[test]
fn what_came_before_the_call_is_recorded_although_the_call_is_parked() {
    let story = [requested(), advance(1, 1), reply(2, 1, 1, "", &[("c1", "lookup")])];
    given(story)
        .when(parked_until(9, results(3, &[("c1", Ok("x"))])))
        .then_expect_events(vec![succeeded("c1", "lookup", "x", 2), parked(2, 1, 9)]);
}

#[test]
fn a_call_that_a_crash_took_is_charged_also_where_the_next_is_parked() {
    given([requested(), advance(1, 1)])
        .when(parked_until(70, advance(60, 2)))
        .then_expect_events(vec![resumed(2), orphaned(1, 1), parked(1, 2, 70)]);
}

#[test]
fn nobody_is_parked_beyond_the_deadline_and_a_run_that_is_over_is_not_parked() {
    given([requested()])
        .when(parked_until(9_999, advance(1, 1)))
        .then_expect_events(vec![
            RunStarted {
                worker: "worker-1".into(),
                epoch: 1,
            }
            .into(),
            parked(1, 1, 600),
        ]);
    let names = then_names(given([requested()]), parked_until(9_999, advance(600, 1)));
    assert_eq!(names, ["run.started", "run.failed"]);
}

#[test]
fn claims_that_find_no_model_never_make_a_run_poison() {
    let mut story = vec![requested()];
    for epoch in 1..=20 {
        let now = 10 * epoch as i64;
        story.push(parked_until(now + 10, advance(now, epoch)));
    }
    given(story)
        .when(advance(300, 21))
        .then_expect_events(vec![resumed(21), model_call(1, 1, 300, FIRST_INPUT)]);
}

#[test]
fn an_outage_does_not_use_up_the_attempts_and_other_failures_do() {
    let mut story = vec![requested(), advance(1, 1)];
    for attempt in 1..=10 {
        let now = 10 * i64::from(attempt);
        story.push(excused(now, 1, attempt, now + 5));
        story.push(Command::RetryModelCall { now: at(now + 5) });
    }
    for attempt in 11..=12 {
        let now = 10 * i64::from(attempt);
        story.push(failure(now, 1, attempt, Some(now + 5)));
        story.push(Command::RetryModelCall { now: at(now + 5) });
    }
    assert_eq!(
        then_names(given(story), failure(130, 1, 13, Some(135))),
        ["model_call.failed", "run.failed"],
        "three failures of its own are as many as there may be"
    );
}

#[test]
fn an_outage_is_waited_for_up_to_the_deadline() {
    let story = [requested(), advance(1, 1), excused(500, 1, 1, 9_999)];
    assert_eq!(next(&run_after(story.clone())), Next::RetryModelCallAt(at(600)));
    assert_eq!(
        then_names(given(story), Command::RetryModelCall { now: at(600) }),
        ["run.failed"]
    );
}

#[test]
fn a_new_step_counts_its_attempts_from_nothing() {
    let story = [
        requested(),
        advance(1, 1),
        excused(2, 1, 1, 3),
        Command::RetryModelCall { now: at(3) },
        reply(4, 1, 2, "", &[("c1", "lookup")]),
    ];
    assert_eq!(run_after(story).excused_attempts, 0);
}

#[test]
fn the_time_without_a_model_is_not_the_steps() {
    let slow = || {
        let mut request = request();
        request.limits.step_seconds_max = 20;
        vec![Command::Request(request)]
    };
    let parked = slow().into_iter().chain([parked_until(100, advance(1, 1))]);
    assert_eq!(
        then_names(given(parked), advance(100, 2)),
        ["run.resumed", "model_call.requested"]
    );
    let away = slow().into_iter().chain([advance(1, 1), excused(10, 1, 1, 100)]);
    assert_eq!(
        then_names(given(away), Command::RetryModelCall { now: at(100) }),
        ["model_call.requested"]
    );
}
