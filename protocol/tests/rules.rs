//! The model's rules of a run are the run's own: every order to every run that the model knows, given to both.

use steadfast::run::{
    AgentRef, Command, Event, Limits, Message, ModelReply, Run, SessionId, Time, command::Request, transition,
};
use steadfast_protocol::ownership::decide::{Call, Fact, Rules, View};

const ATTEMPTS_MAX: u8 = 3;

fn now() -> Time {
    Time::from_timestamp(1_750_000_000, 0).expect("a second of the year 2025")
}

fn request() -> Command {
    Command::Request(Request {
        terms: Default::default(),
        now: now(),
        agent: AgentRef {
            name: "a".into(),
            version: "f00d".into(),
        },
        model: "m".into(),
        fallbacks: vec![],
        server_tools: vec![],
        client_tools: vec![],
        limits: Limits {
            model_attempts_max: ATTEMPTS_MAX.into(),
            claims_max: 100,
            ..Limits::default()
        },
        session_id: SessionId::default(),
        continues_session: false,
        input: vec![Message::user("?")],
        metadata: serde_json::Value::Null,
        idempotency_key: None,
    })
}

/// An event as the model writes it.
fn fact(event: &Event) -> Fact {
    let small = |number: u32| u8::try_from(number).expect("a small number");
    let claimed = |epoch| Fact::Claimed {
        epoch: u8::try_from(epoch).expect("a small number"),
        worker: 0,
        again: false,
    };
    match event {
        Event::RunRequested(_) => Fact::Requested,
        Event::RunStarted(e) => claimed(e.epoch),
        Event::RunResumed(e) => claimed(e.epoch),
        Event::ModelCallRequested(e) => Fact::CallRequested(small(e.attempt)),
        Event::ModelReplied(e) => Fact::Replied(small(e.attempt)),
        Event::ModelCallFailed(e) => Fact::CallFailed(small(e.attempt)),
        Event::ModelCallOrphaned(e) => Fact::Orphaned(small(e.attempt)),
        Event::CancelRequested(_) => Fact::CancelRequested,
        Event::RunCompleted(_) => Fact::Completed,
        Event::RunCancelled(_) => Fact::Cancelled,
        Event::RunFailed(_) => Fact::Failed,
        other => panic!("the model knows no {}", other.name()),
    }
}

/// Every order there is, as the run takes it and as the model does.
fn orders(run: &Run, view: View, rules: Rules) -> Vec<(Command, Option<Vec<Fact>>)> {
    let epoch = run.epoch + 1;
    let claimed = Fact::Claimed {
        epoch: u8::try_from(epoch).expect("a small number"),
        worker: 0,
        again: false,
    };
    let advance = Command::Advance {
        now: now(),
        worker: "w".into(),
        epoch,
        context: None,
    };
    let mut orders = vec![
        (advance, rules.advance(view, claimed)),
        (
            Command::Cancel {
                now: now(),
                reason: None,
            },
            rules.cancel(view),
        ),
        (Command::ConfirmCancel { now: now() }, rules.confirm_cancel(view)),
    ];
    for attempt in 1..=ATTEMPTS_MAX {
        let reply = ModelReply {
            text: "!".into(),
            ..ModelReply::default()
        };
        let (step, of) = (1, u32::from(attempt));
        orders.push((
            Command::RecordReply {
                now: now(),
                step,
                attempt: of,
                reply,
            },
            rules.reply(view, attempt),
        ));
        let (class, message, retry_at) = ("timeout".into(), String::new(), Some(now()));
        let failure = Command::RecordModelFailure {
            now: now(),
            step,
            attempt: of,
            class,
            message,
            retry_at,
            excused: false,
        };
        orders.push((failure, rules.failure(view, attempt)));
    }
    orders
}

#[test]
fn the_run_and_its_model_decide_the_same_in_every_state_the_model_knows() {
    let rules = Rules {
        attempts_max: ATTEMPTS_MAX,
        orphan_recorded: true,
    };
    let (first, run) = transition(&Run::default(), request()).expect("accepted");
    let mut open = vec![(run, first.iter().map(fact).collect::<Vec<_>>())];
    let (mut runs, mut decided, mut ended) = (0, 0, 0);
    while let Some((run, log)) = open.pop() {
        let view = View::fold(log.iter().copied());
        runs += 1;
        ended += usize::from(view.ended);
        assert_eq!(
            (view.ended, view.cancel),
            (run.outcome.is_some(), run.cancel.is_some()),
            "{log:?}"
        );
        assert_eq!(
            view.call == Call::Idle,
            run.call == steadfast::run::state::Call::Idle,
            "{log:?}"
        );
        for (command, expected) in orders(&run, view, rules) {
            let told = format!("{command:?} after {log:?}");
            let answer = transition(&run, command).ok().filter(|(events, _)| !events.is_empty());
            let facts = answer
                .as_ref()
                .map(|(events, _)| events.iter().map(fact).collect::<Vec<_>>());
            assert_eq!(facts, expected, "{told}");
            let Some((_, after)) = answer else { continue };
            decided += 1;
            open.push((after, log.iter().copied().chain(facts.into_iter().flatten()).collect()));
        }
    }
    println!("{runs} runs, {decided} orders that were followed");
    assert!(runs > 60 && ended > 40, "{runs} runs, {ended} of them ended");
}
