//! What a person decides, told in sentences: cut-off tools, orphaned calls, and budgets.

use super::*;
use crate::run::{
    Amounts, ApprovalId, BudgetLimit, Decision, Next, Question, Refusal, Shortage, Status, WaitingOn,
    agent::{CutOffTool, OrphanedCall, Policies, Price},
    budget::{Budget, OnBreach},
    next,
    state::ToolState,
};

fn with(story: impl IntoIterator<Item = Command>, more: impl IntoIterator<Item = Command>) -> Vec<Command> {
    story.into_iter().chain(more).collect()
}

fn running(terms: Terms) -> Vec<Command> {
    vec![
        Command::Request(Request {
            terms: Box::new(terms),
            ..request()
        }),
        advance(1, 1),
    ]
}

fn policies(orphaned_call: OrphanedCall, cut_off_tool: CutOffTool) -> Terms {
    Terms {
        policies: Policies {
            orphaned_call,
            cut_off_tool,
        },
        ..Terms::default()
    }
}

fn budget(amounts: Amounts, on_breach: OnBreach) -> Terms {
    Terms {
        budget: Budget { amounts, on_breach },
        ..Terms::default()
    }
}

fn tokens(tokens: u64) -> Amounts {
    Amounts {
        tokens: Some(tokens),
        ..Amounts::default()
    }
}

fn raise(seconds: i64, to: Amounts) -> Command {
    Command::RaiseBudget {
        now: at(seconds),
        to,
        by: "ada".into(),
    }
}

/// `pay` was running when its worker was lost; the second claim asked a person, in version 8.
fn cut_off(calls: &[(&str, &str)]) -> Vec<Command> {
    with(running(Terms::default()), [reply(2, 1, 1, "", calls), advance(60, 2)])
}

const ASKED: ApprovalId = ApprovalId(8);

fn resolve(seconds: i64, id: ApprovalId, decision: Decision) -> Command {
    Command::ResolveApproval {
        now: at(seconds),
        approval_id: id,
        arguments_sha256: None,
        decision,
        by: "ada".into(),
    }
}

fn deny(reason: &str) -> Decision {
    Decision::Deny {
        reason: Some(reason.into()),
    }
}

fn edit(output: &str) -> Decision {
    Decision::Edit { output: output.into() }
}

/// SHA-256 of `{}`.
const NO_ARGUMENTS: &str = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";

#[test]
fn a_cut_off_tool_that_must_not_run_twice_waits_for_a_person() {
    let story = with(running(Terms::default()), [reply(2, 1, 1, "", &[("c1", "pay")])]);
    let asked = ApprovalRequested {
        approval_id: ASKED,
        question: Question::CutOffTool {
            tool_call: call("c1", "pay"),
            arguments_sha256: NO_ARGUMENTS.into(),
        },
    };
    given(story)
        .when(advance(60, 2))
        .then_expect_events(vec![resumed(2), asked.into()]);
    let run = run_after(cut_off(&[("c1", "pay")]));
    let Some(WaitingOn::Approval { approvals }) = run.waiting_on() else {
        panic!("{:?}", run.waiting_on())
    };
    assert_eq!(
        (run.status(), run.claimed, approvals[0].id),
        (Status::Waiting, false, ASKED)
    );
    given(cut_off(&[("c1", "pay")]))
        .when(advance(90, 3))
        .then_expect_error(Refusal::NothingToDo(Status::Waiting));
}

#[test]
fn a_person_may_have_the_tool_run_again_and_that_is_recorded_before_it_is() {
    let allowed = || with(cut_off(&[("c1", "pay")]), [resolve(70, ASKED, Decision::Allow)]);
    let granted = ApprovalGranted {
        approval_id: ASKED,
        by: "ada".into(),
        subject: Subject {
            tool_call_id: Some("c1".into()),
            arguments_sha256: Some(NO_ARGUMENTS.into()),
        },
        output: None,
    };
    given(cut_off(&[("c1", "pay")]))
        .when(resolve(70, ASKED, Decision::Allow))
        .then_expect_events(vec![granted.into()]);
    assert_eq!(next(&run_after(allowed())), Next::Claim);
    assert_eq!(
        then_names(given(allowed()), advance(71, 3)),
        ["run.resumed", "tool_call.started"]
    );
    let run = run_after(with(allowed(), [advance(71, 3)]));
    assert!(matches!(next(&run), Next::RunTools(tools) if tools.len() == 1 && tools[0].state == ToolState::Started));

    let again = with(allowed(), [advance(71, 3), advance(130, 4)]);
    let run = run_after(again.clone());
    let open: Vec<_> = run.open_approvals().map(|approval| approval.id).collect();
    assert_eq!(open.len(), 1, "cut off a second time, it is asked a second time");
    assert_ne!(open[0], ASKED);
    given(again)
        .when(resolve(140, ASKED, Decision::Allow))
        .then_expect_events(vec![]);
}

#[test]
fn a_person_may_say_that_the_tool_is_not_repeated_or_what_it_came_to() {
    let denied = log_of(with(
        cut_off(&[("c1", "pay")]),
        [resolve(70, ASKED, deny("paid already"))],
    ));
    let Some(Event::ToolCallFailed(told)) = denied.last() else {
        panic!("{:?}", denied.last())
    };
    assert!(
        told.error.contains("may or may not have taken effect") && told.error.ends_with(": paid already"),
        "{}",
        told.error
    );
    assert_eq!(denied[denied.len() - 2].name(), "approval.denied");
    let names = then_names(given(cut_off(&[("c1", "pay")])), resolve(70, ASKED, edit("receipt 7")));
    assert_eq!(names, ["approval.granted", "tool_call.succeeded"]);
    for decision in [deny("paid already"), edit("receipt 7")] {
        let story = with(cut_off(&[("c1", "pay")]), [resolve(70, ASKED, decision)]);
        assert_eq!(
            then_names(given(story), advance(71, 3)),
            ["run.resumed", "model_call.requested"]
        );
    }
}

#[test]
fn a_decision_is_taken_once_and_is_bound_to_what_it_is_about() {
    let decided = || with(cut_off(&[("c1", "pay")]), [resolve(70, ASKED, edit("receipt 7"))]);
    given(decided())
        .when(resolve(71, ASKED, edit("receipt 7")))
        .then_expect_events(vec![]);
    for other in [Decision::Allow, edit("receipt 8"), deny("no")] {
        given(decided())
            .when(resolve(71, ASKED, other))
            .then_expect_error(Refusal::DecisionDiffers(ASKED));
    }
    given(with(decided(), [cancel(80)]))
        .when(resolve(81, ASKED, edit("receipt 7")))
        .then_expect_events(vec![]);
    given(with(cut_off(&[("c1", "pay")]), [cancel(80)]))
        .when(resolve(81, ASKED, Decision::Allow))
        .then_expect_error(Refusal::AlreadyEnded(Status::Cancelled));
    given(decided())
        .when(resolve(71, ApprovalId(3), Decision::Allow))
        .then_expect_error(Refusal::UnknownApproval(ApprovalId(3)));
    let seen = |sha: &str| Command::ResolveApproval {
        now: at(70),
        approval_id: ASKED,
        arguments_sha256: Some(sha.into()),
        decision: Decision::Allow,
        by: "ada".into(),
    };
    given(cut_off(&[("c1", "pay")]))
        .when(seen("0000"))
        .then_expect_error(Refusal::OtherArguments(ASKED));
    assert_eq!(
        then_names(given(cut_off(&[("c1", "pay")])), seen(NO_ARGUMENTS)),
        ["approval.granted"]
    );
}

#[test]
fn harmless_tools_go_on_while_a_person_is_asked_and_a_yes_meanwhile_waits_for_them() {
    let story = || {
        with(
            running(Terms::default()),
            [reply(2, 1, 1, "", &[("c1", "pay"), ("c2", "lookup")]), advance(60, 2)],
        )
    };
    let run = run_after(story());
    let asked = run.open_approvals().next().expect("an approval").id;
    assert!(matches!(next(&run), Next::RunTools(tools) if tools.len() == 1 && tools[0].call.id == "c2"));
    let waits = run_after(with(story(), [results(61, &[("c2", Ok("18 °C"))])]));
    assert_eq!(waits.status(), Status::Waiting);

    let allowed = || with(story(), [resolve(61, asked, Decision::Allow)]);
    let run = run_after(allowed());
    assert!(
        matches!(next(&run), Next::RunTools(tools) if tools.len() == 1 && tools[0].call.id == "c2"),
        "not before it is recorded as started"
    );
    let names = then_names(given(allowed()), results(62, &[("c2", Ok("18 °C"))]));
    assert_eq!(names, ["tool_call.succeeded", "tool_call.started"]);
}

#[test]
fn the_policy_says_what_follows_an_orphaned_call() {
    let story = |policy| running(policies(policy, CutOffTool::Ask));
    assert_eq!(
        then_names(given(story(OrphanedCall::Retry)), advance(60, 2)),
        ["run.resumed", "model_call.orphaned", "model_call.requested"]
    );
    let message = "the outcome of the model call of step 1, attempt 1, was lost with its worker; the agent's policy is not \
                   to repeat it (policies.orphaned_call)";
    given(story(OrphanedCall::Fail))
        .when(advance(60, 2))
        .then_expect_events(vec![resumed(2), orphaned(1, 1), failed_with("orphaned_call", message)]);
    let asked = || with(story(OrphanedCall::Ask), [advance(60, 2)]);
    let run = run_after(asked());
    let id = run.open_approvals().next().expect("an approval").id;
    assert_eq!((run.status(), run.usage.output_tokens), (Status::Waiting, 100));
    given(asked())
        .when(resolve(70, id, edit("x")))
        .then_expect_error(Refusal::NothingToEdit(id));
    given(with(asked(), [resolve(70, id, Decision::Allow)]))
        .when(advance(71, 3))
        .then_expect_events(vec![resumed(3), model_call(1, 2, 71, FIRST_INPUT)]);
    assert_eq!(
        then_names(given(asked()), resolve(70, id, deny("too dear"))),
        ["approval.denied", "run.failed"]
    );
}

#[test]
fn an_orphaned_call_is_charged_in_tokens_and_money() {
    let terms = Terms {
        price: Some(Price {
            input_usd_per_million: 2.0,
            output_usd_per_million: 10.0,
        }),
        prompt_bytes: 300,
        ..Terms::default()
    };
    let run = run_after(with(running(terms), [advance(60, 2)]));
    let input = (300_u64 + 20).div_ceil(3) + 4;
    let charged = Usage {
        input_tokens: input,
        output_tokens: 100,
        cost_microusd: 2 * input + 10 * 100,
    };
    assert_eq!((run.usage, run.reserved), (charged, charged));
}

#[test]
fn a_call_the_budget_does_not_hold_is_not_made_and_the_run_waits() {
    let story = || running(budget(tokens(100), OnBreach::Ask));
    let shortage = Shortage {
        limit: BudgetLimit::Tokens,
        budget: 100,
        spent: 0,
        needed: 100 + FIRST_INPUT,
    };
    let run = run_after(story());
    assert_eq!(run.waiting_on(), Some(WaitingOn::Budget { shortage }));
    assert_eq!((run.status(), run.claimed), (Status::Waiting, false));
    given(story())
        .when(advance(2, 2))
        .then_expect_error(Refusal::NothingToDo(Status::Waiting));
    let short = run_after(with(story(), [raise(5, tokens(105))]));
    assert_eq!(short.status(), Status::Waiting, "raised, and still too little");
    let enough = || with(story(), [raise(5, tokens(111))]);
    assert_eq!(next(&run_after(enough())), Next::Claim);
    given(enough())
        .when(advance(6, 2))
        .then_expect_events(vec![resumed(2), model_call(1, 1, 6, FIRST_INPUT)]);
}

#[test]
fn a_budget_may_fail_the_run_instead() {
    let story = [Command::Request(Request {
        terms: Box::new(budget(tokens(100), OnBreach::Fail)),
        ..request()
    })];
    let message = "the run's budget of 100 tokens does not hold the next model call: 0 tokens spent, and it needs 111 \
                   tokens (budget.tokens)";
    let events = given(story).when(advance(1, 1)).inspect_result().expect("accepted");
    assert_eq!(events[1..], [failed_with("budget", message)]);
}

#[test]
fn steps_money_and_time_are_budgets_too() {
    let price = Some(Price {
        input_usd_per_million: 0.0,
        output_usd_per_million: 1.0,
    });
    let cases = [
        (
            Amounts {
                steps: Some(1),
                ..Amounts::default()
            },
            BudgetLimit::Steps,
        ),
        (
            Amounts {
                usd: Some(102),
                ..Amounts::default()
            },
            BudgetLimit::Usd,
        ),
        (
            Amounts {
                seconds: Some(3),
                ..Amounts::default()
            },
            BudgetLimit::Seconds,
        ),
    ];
    for (amounts, limit) in cases {
        let terms = Terms {
            price,
            ..budget(amounts, OnBreach::Ask)
        };
        let story = with(running(terms), [reply(2, 1, 1, "", &[("c1", "lookup")])]);
        let run = run_after(with(story, [results(3, &[("c1", Ok("x"))])]));
        match run.waiting_on() {
            Some(WaitingOn::Budget { shortage }) => assert_eq!(shortage.limit, limit),
            other => panic!("{amounts:?}: {other:?}"),
        }
    }
}

#[test]
fn a_retry_is_reserved_like_a_first_try_and_waits_likewise() {
    let story = running(budget(tokens(150), OnBreach::Ask));
    let run = run_after(with(story, [advance(60, 2)]));
    assert!(matches!(run.waiting_on(), Some(WaitingOn::Budget { shortage }) if shortage.spent == 100 + FIRST_INPUT));
    let raised = run_after(with(
        running(budget(tokens(150), OnBreach::Ask)),
        [advance(60, 2), raise(61, tokens(1000)), advance(62, 3)],
    ));
    assert_eq!(next(&raised), Next::CallModel { step: 1, attempt: 2 });
}

#[test]
fn a_budget_is_raised_and_never_lowered_or_invented() {
    let story = || running(budget(tokens(500), OnBreach::Ask));
    given(story())
        .when(raise(2, tokens(499)))
        .then_expect_error(Refusal::BudgetLowered {
            limit: BudgetLimit::Tokens,
            now: 500,
        });
    given(story()).when(raise(2, tokens(500))).then_expect_events(vec![]);
    given(story())
        .when(raise(2, Amounts::default()))
        .then_expect_error(Refusal::NoAmounts);
    let steps = Amounts {
        steps: Some(5),
        ..Amounts::default()
    };
    given(story())
        .when(raise(2, steps))
        .then_expect_error(Refusal::NoSuchBudget(BudgetLimit::Steps));
    assert_eq!(then_names(given(story()), raise(2, tokens(501))), ["budget.raised"]);
}

#[test]
fn a_run_that_waits_for_a_person_still_ends_at_its_deadline() {
    for story in [cut_off(&[("c1", "pay")]), running(budget(tokens(1), OnBreach::Ask))] {
        assert_eq!(then_names(given(story), advance(600, 9)), ["run.resumed", "run.failed"]);
    }
}

#[test]
fn a_step_that_takes_too_long_fails_by_its_own_limit() {
    let story = || {
        let mut request = request();
        request.limits.step_seconds_max = 50;
        vec![Command::Request(request), advance(1, 1)]
    };
    let message = "step 1 did not end within 50 s (limits.step_seconds_max)";
    let over = |story: Vec<Command>, command| {
        let events = given(story).when(command).inspect_result().expect("accepted");
        assert_eq!(events.last(), Some(&failed_with("step_deadline", message)));
    };
    over(story(), Command::TimeOut { now: at(51) });
    over(story(), advance(51, 2));
    let tools = with(story(), [reply(2, 1, 1, "", &[("c1", "lookup"), ("c2", "lookup")])]);
    over(tools.clone(), results(51, &[("c1", Ok("x"))]));
    over(tools, advance(51, 2));
    let cannot =
        "step 1 cannot end within 50 s (limits.step_seconds_max); its last model call failed: the provider said no";
    let events = given(story()).when(failure(20, 1, 1, Some(51))).inspect_result();
    assert_eq!(
        events.expect("accepted").last(),
        Some(&failed_with("step_deadline", cannot))
    );
    let waited = with(
        story(),
        [reply(2, 1, 1, "", &[("c1", "ask")]), outputs(90, &[("c1", Ok("x"))])],
    );
    assert_eq!(
        then_names(given(waited), advance(91, 2)),
        ["run.resumed", "model_call.requested"],
        "a step that waited for its client is not measured"
    );
}

#[test]
fn a_worker_that_broke_down_lets_go_says_why_and_is_counted_as_poison() {
    let interrupt = |seconds| Command::Interrupt {
        now: at(seconds),
        worker: "worker-1".into(),
        reason: "its execution panicked".into(),
    };
    let story = |claims: u64| {
        let mut request = request();
        request.limits.model_attempts_max = 100;
        (1..=claims).fold(vec![Command::Request(request)], |story, epoch| {
            with(story, [advance(epoch as i64, epoch), interrupt(epoch as i64)])
        })
    };
    assert_eq!(
        then_names(given(running(Terms::default())), interrupt(2)),
        ["model_call.orphaned", "run.interrupted"]
    );
    assert_eq!(next(&run_after(story(1))), Next::Claim);
    let message = "3 workers in a row claimed the run and none brought it a step forward (limits.claims_max); the last \
                   broke down during the model call of step 1: its execution panicked";
    given(story(3))
        .when(advance(9, 4))
        .then_expect_events(vec![resumed(4), failed_with("poison", message)]);
    given([requested()])
        .when(interrupt(2))
        .then_expect_error(Refusal::NothingToDo(Status::Queued));
}
