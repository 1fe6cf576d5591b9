//! The machines before a model, alone and together: sentences first, then laws over random histories.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::{
    Admission, Bulkheads, Phase,
    breaker::{Breaker, Pass, Verdict},
    budget::RetryBudget,
    gate::{End, Gate, Reason},
    in_order,
};
use crate::model::{ErrorClass, ModelError, admission::Try, link::Link};

const FIRST: Try = Try {
    attempt: 1,
    retry: false,
};
const SECOND: Duration = Duration::from_secs(1);

fn start() -> Instant {
    crate::clock::instant()
}

fn error(class: ErrorClass) -> ModelError {
    ModelError::new(class, "of a test")
}

/// Calls that end at once.
fn calls(breaker: &mut Breaker, verdict: Verdict, count: u32, now: Instant) {
    for _ in 0..count {
        let pass = breaker.enter(now).expect("it lets calls through");
        breaker.leave(pass, verdict, now, 1.0);
    }
}

fn is_open(breaker: &Breaker) -> bool {
    matches!(breaker.phase(), Phase::Open { .. })
}

#[test]
fn it_opens_at_twenty_calls_of_which_half_failed_and_not_before() {
    let now = start();
    let mut breaker = Breaker::new(now);
    calls(&mut breaker, Verdict::Healthy, 10, now);
    calls(&mut breaker, Verdict::Failing, 9, now);
    assert!(!is_open(&breaker), "nineteen calls are too few");
    calls(&mut breaker, Verdict::Failing, 1, now);
    assert!(is_open(&breaker), "ten of twenty failed");

    let mut breaker = Breaker::new(now);
    calls(&mut breaker, Verdict::Healthy, 11, now);
    calls(&mut breaker, Verdict::Failing, 10, now);
    assert!(!is_open(&breaker), "ten of twenty-one are less than half");
}

#[test]
fn what_is_older_than_thirty_seconds_is_forgotten() {
    let now = start();
    let mut breaker = Breaker::new(now);
    calls(&mut breaker, Verdict::Failing, 15, now);
    let later = now + 31 * SECOND;
    calls(&mut breaker, Verdict::Healthy, 1, later);
    assert_eq!(breaker.recent(later), (1, 0));
    calls(&mut breaker, Verdict::Failing, 9, later);
    assert!(!is_open(&breaker));
}

#[test]
fn with_thin_traffic_five_failures_in_a_row_open_it_if_they_are_no_burst() {
    let now = start();
    let mut breaker = Breaker::new(now);
    calls(&mut breaker, Verdict::Failing, 8, now);
    assert!(!is_open(&breaker), "a burst within a moment is no outage yet");
    calls(&mut breaker, Verdict::Failing, 1, now + SECOND);
    assert!(is_open(&breaker));

    let mut breaker = Breaker::new(now);
    for attempt in 0..4 {
        calls(&mut breaker, Verdict::Failing, 1, now + attempt * 30 * SECOND);
    }
    assert!(!is_open(&breaker), "four are too few");
    calls(&mut breaker, Verdict::Failing, 1, now + 120 * SECOND);
    assert!(is_open(&breaker), "slow failures are failures in a row too");

    let mut breaker = Breaker::new(now);
    calls(&mut breaker, Verdict::Healthy, 1, now);
    calls(&mut breaker, Verdict::Failing, 8, now + SECOND);
    calls(&mut breaker, Verdict::Failing, 1, now + 3 * SECOND);
    assert!(!is_open(&breaker), "somebody was answered lately");
}

#[test]
fn open_it_lets_nothing_through_then_one_probe_at_a_time_and_three_successes_close_it() {
    let now = start();
    let mut breaker = Breaker::new(now);
    calls(&mut breaker, Verdict::Failing, 20, now);
    assert_eq!(breaker.enter(now + 4 * SECOND), Err(Some(now + 5 * SECOND)));
    let now = now + 5 * SECOND;
    for success in 1..=3 {
        let probe = breaker.enter(now).expect("a probe");
        assert_eq!(
            breaker.enter(now),
            Err(None),
            "two probes at a time before success {success}"
        );
        breaker.leave(probe, Verdict::Healthy, now, 1.0);
    }
    assert_eq!(breaker.phase(), Phase::Closed);
    calls(&mut breaker, Verdict::Failing, 4, now);
    assert!(!is_open(&breaker), "what was before is forgotten");
}

#[test]
fn a_vain_probe_doubles_the_pause_up_to_a_minute_and_a_success_does_not_yet_shorten_it() {
    let mut now = start();
    let mut breaker = Breaker::new(now);
    calls(&mut breaker, Verdict::Failing, 20, now);
    for seconds in [5, 10, 20, 40, 60, 60] {
        let Phase::Open { until } = breaker.phase() else {
            panic!("it is {:?}", breaker.phase())
        };
        assert_eq!(until - now, seconds * SECOND);
        now = until;
        calls(&mut breaker, Verdict::Healthy, 1, now);
        calls(&mut breaker, Verdict::Failing, 1, now);
    }
}

#[test]
fn chance_shortens_the_pause_to_half_at_the_most() {
    for (jitter, expected) in [
        (0.0, 2_500),
        (0.5, 3_750),
        (1.0, 5_000),
        (f64::NAN, 5_000),
        (9.0, 5_000),
    ] {
        let now = start();
        let mut breaker = Breaker::new(now);
        let passes: Vec<Pass> = (0..20).map(|_| breaker.enter(now).expect("closed")).collect();
        for pass in passes {
            breaker.leave(pass, Verdict::Failing, now, jitter);
        }
        let until = now + Duration::from_millis(expected);
        assert_eq!(breaker.phase(), Phase::Open { until });
    }
}

#[test]
fn a_probe_that_says_nothing_makes_room_for_the_next() {
    let now = start();
    let mut breaker = Breaker::new(now);
    calls(&mut breaker, Verdict::Failing, 20, now);
    calls(&mut breaker, Verdict::Unknown, 9, now + 5 * SECOND);
    assert_eq!(
        breaker.phase(),
        Phase::HalfOpen {
            successes: 0,
            probing: false
        }
    );
}

#[test]
fn calls_that_began_before_it_opened_do_not_close_or_open_it_again() {
    let now = start();
    let mut breaker = Breaker::new(now);
    let early: Vec<Pass> = (0..9).map(|_| breaker.enter(now).expect("closed")).collect();
    calls(&mut breaker, Verdict::Failing, 20, now);
    let probe = breaker.enter(now + 5 * SECOND).expect("a probe");
    for (at, pass) in early.into_iter().enumerate() {
        let verdict = if at % 2 == 0 {
            Verdict::Healthy
        } else {
            Verdict::Failing
        };
        breaker.leave(pass, verdict, now + 5 * SECOND, 1.0);
    }
    assert_eq!(
        breaker.enter(now + 5 * SECOND),
        Err(None),
        "the probe is still under way"
    );
    breaker.leave(probe, Verdict::Healthy, now + 5 * SECOND, 1.0);
    assert_eq!(
        breaker.phase(),
        Phase::HalfOpen {
            successes: 1,
            probing: false
        }
    );
}

#[test]
fn patience_that_was_asked_for_is_given_and_is_no_failure() {
    let now = start();
    let mut gate = Gate::new(9, now);
    for round in 0..30 {
        let now = now + 7 * round * SECOND;
        let pass = gate.enter(false, now).expect("the pause is over");
        let asked = ModelError {
            retry_after: Some(7 * SECOND),
            ..error(ErrorClass::RateLimited)
        };
        assert!(!gate.leave(pass, End::Failed(&asked), now, 0.5), "it does not count");
        let blocked = gate.enter(false, now + 6 * SECOND).expect_err("too early");
        assert_eq!((blocked.until, blocked.reason), (now + 7 * SECOND, Reason::RateLimited));
        assert_eq!(gate.standing(now).phase, Phase::Closed);
    }
}

#[test]
fn a_shorter_pause_does_not_shorten_a_longer_one() {
    let now = start();
    let mut gate = Gate::new(9, now);
    let passes = [0, 1].map(|_| gate.enter(false, now).expect("open to all"));
    for (pass, seconds) in passes.into_iter().zip([9, 2]) {
        let asked = ModelError {
            retry_after: Some(seconds * SECOND),
            ..error(ErrorClass::RateLimited)
        };
        gate.leave(pass, End::Failed(&asked), now, 0.5);
    }
    assert_eq!(gate.standing(now).paused_until, Some(now + 9 * SECOND));
}

#[test]
fn failures_count_as_long_as_the_breaker_is_closed() {
    let now = start();
    let mut gate = Gate::new(99, now);
    for call in 1..=20 {
        let pass = gate.enter(false, now).expect("closed");
        let counts = gate.leave(pass, End::Failed(&error(ErrorClass::Timeout)), now, 1.0);
        assert_eq!(counts, call < 20, "call {call}");
    }
    let probe = gate.enter(false, now + 5 * SECOND).expect("a probe");
    assert!(!gate.leave(
        probe,
        End::Failed(&error(ErrorClass::Connection)),
        now + 5 * SECOND,
        1.0
    ));
    // What is the call's own fault counts in every phase.
    let later = now + 60 * SECOND;
    for class in [ErrorClass::Malformed, ErrorClass::Rejected] {
        let probe = gate.enter(false, later).expect("a probe");
        assert!(gate.leave(probe, End::Failed(&error(class)), later, 1.0), "{class}");
    }
}

#[test]
fn there_are_as_many_places_as_were_given() {
    let now = start();
    let mut gate = Gate::new(2, now);
    let first = gate.enter(false, now).expect("a place");
    gate.enter(false, now).expect("a place");
    let blocked = gate.enter(false, now).expect_err("no place");
    assert_eq!(blocked.reason, Reason::ProviderBusy);
    gate.leave(first, End::Replied, now, 0.5);
    gate.enter(false, now).expect("the place that was given back");
}

#[test]
fn the_chain_begins_with_the_first_link_and_moves_on_every_second_attempt() {
    let chain: Vec<Link> = ["a", "b", "c"].map(Link::read).into();
    let first = |attempt| {
        in_order(&chain, attempt)
            .map(|link| link.model.as_str())
            .collect::<String>()
    };
    let orders: Vec<String> = (1..=7).map(first).collect();
    assert_eq!(orders, ["abc", "abc", "bca", "bca", "cab", "cab", "abc"]);
    assert_eq!(in_order(&[], 3).count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_ticket_that_is_dropped_gives_its_place_back_and_wakes_who_waits() {
    let admission = std::sync::Arc::new(Admission::new(Bulkheads {
        per_tenant: 1,
        ..Bulkheads::default()
    }));
    let chain = [Link::read("m")];
    let (one, other) = ("one".parse().expect("a tenant"), "other".parse().expect("a tenant"));
    let ticket = admission.admit(&chain, FIRST, &one).expect("a place");
    let blocked = admission
        .admit(&chain, FIRST, &one)
        .map(drop)
        .expect_err("one at a time");
    assert_eq!(blocked.reason, Reason::TenantBusy);
    assert!(
        admission.admit(&chain, FIRST, &other).is_ok(),
        "one tenant does not hold up another"
    );
    let began = crate::clock::instant();
    let waiting = tokio::spawn({
        let (admission, chain, one) = (admission.clone(), chain.clone(), one.clone());
        async move { admission.wait(&chain, FIRST, &one, 500 * SECOND).await }
    });
    tokio::task::yield_now().await;
    drop(ticket);
    waiting.await.expect("it is woken");
    assert_eq!(
        crate::clock::instant(),
        began,
        "without waiting for the time to look again"
    );
    assert!(admission.admit(&chain, FIRST, &one).is_ok());
}

#[tokio::test(start_paused = true)]
async fn who_cannot_be_let_in_in_time_is_told_at_once() {
    let admission = std::sync::Arc::new(Admission::new(Bulkheads::default()));
    let (chain, tenant) = ([Link::read("m")], "one".parse().expect("a tenant"));
    let mut ticket = admission.admit(&chain, FIRST, &tenant).expect("a place");
    ticket.call_made();
    let asked = ModelError {
        retry_after: Some(60 * SECOND),
        ..error(ErrorClass::RateLimited)
    };
    ticket.failed(&asked);
    let began = crate::clock::instant();
    admission.wait(&chain, FIRST, &tenant, 2 * SECOND).await;
    assert_eq!(crate::clock::instant(), began);
    admission.wait(&chain, FIRST, &tenant, 61 * SECOND).await;
    assert_eq!(crate::clock::instant() - began, 60 * SECOND);
}

/// What happens at a gate: how long after, how it ends, and how long it takes.
#[derive(Debug, Clone)]
struct Call {
    after_ms: u64,
    retry: bool,
    end: u8,
    takes_ms: u64,
    jitter: f64,
}

fn history() -> impl Strategy<Value = Vec<Call>> {
    let call = (0..3_000_u64, any::<bool>(), 0..7_u8, 0..5_000_u64, 0.0..1.0_f64);
    let call = call.prop_map(|(after_ms, retry, end, takes_ms, jitter)| Call {
        after_ms,
        retry,
        end,
        takes_ms,
        jitter,
    });
    prop::collection::vec(call, 1..300)
}

proptest! {
    #[test]
    fn an_open_breaker_lets_no_more_than_one_probe_through_for_each_opening(history in history()) {
        let mut now = start();
        let mut breaker = Breaker::new(now);
        let mut under_way: Vec<(Instant, Pass, Verdict, f64)> = Vec::new();
        let mut probes = 0_usize;
        for call in history {
            now += Duration::from_millis(call.after_ms);
            under_way.sort_by_key(|(ends, ..)| *ends);
            while under_way.first().is_some_and(|(ends, ..)| *ends <= now) {
                let (ends, pass, verdict, jitter) = under_way.remove(0);
                let before = breaker.phase();
                breaker.leave(pass, verdict, ends, jitter);
                if let (Phase::HalfOpen { .. }, Phase::Open { until }) = (before, breaker.phase()) {
                    let pause = until - ends;
                    prop_assert!(pause >= Duration::from_millis(2_500) && pause <= 60 * SECOND, "{pause:?}");
                }
            }
            let before = breaker.phase();
            let entered = breaker.enter(now);
            match before {
                Phase::Closed => prop_assert!(entered.is_ok()),
                Phase::Open { until } => prop_assert_eq!(entered.is_ok(), now >= until),
                Phase::HalfOpen { probing, .. } => prop_assert_eq!(entered.is_ok(), !probing),
            }
            if let Ok(pass) = entered {
                probes += usize::from(before != Phase::Closed);
                let verdict = [Verdict::Failing, Verdict::Healthy, Verdict::Unknown][usize::from(call.end) % 3];
                under_way.push((now + Duration::from_millis(call.takes_ms), pass, verdict, call.jitter));
            }
            let (calls, failures) = breaker.recent(now);
            prop_assert!(failures <= calls);
        }
        prop_assert!(probes <= 300);
    }

    #[test]
    fn retries_never_exceed_a_tenth_of_the_requests_and_the_floor(history in history()) {
        let began = start();
        let (mut now, mut budget) = (began, RetryBudget::new(began));
        let (mut requests, mut retries) = (0_u32, 0_u32);
        for call in history {
            now += Duration::from_millis(call.after_ms / 20);
            if call.retry {
                match budget.take(now) {
                    Ok(()) => retries += 1,
                    Err(until) => {
                        prop_assert!(until > now && until - now <= SECOND);
                        prop_assert!(budget.clone().take(until + Duration::from_millis(2)).is_ok());
                    }
                }
            } else {
                requests += 1;
                budget.earn();
            }
            let allowed = 20.0 + 0.1 * f64::from(requests) + (now - began).as_secs_f64();
            prop_assert!(f64::from(retries) <= allowed + 1e-6, "{retries} retries of {requests} requests");
        }
    }

    #[test]
    fn a_gate_keeps_its_pause_its_places_and_its_count(history in history(), places in 1..5_usize) {
        let mut now = start();
        let mut gate = Gate::new(places, now);
        let mut under_way: Vec<(Instant, super::gate::Pass, Call)> = Vec::new();
        let mut paused_until = now;
        for call in history {
            now += Duration::from_millis(call.after_ms / 4);
            under_way.sort_by_key(|(ends, ..)| *ends);
            while under_way.first().is_some_and(|(ends, ..)| *ends <= now) {
                let (ends, pass, call) = under_way.remove(0);
                let failed = match call.end {
                    0 => Some(error(ErrorClass::Unavailable)),
                    1 => Some(error(ErrorClass::Malformed)),
                    2 => Some(ModelError {
                        retry_after: Some(Duration::from_millis(call.takes_ms)),
                        ..error(ErrorClass::RateLimited)
                    }),
                    _ => None,
                };
                let end = match (&failed, call.end) {
                    (Some(error), _) => End::Failed(error),
                    (None, 3) => End::Unmade,
                    (None, 4) => End::Dropped,
                    (None, _) => End::Replied,
                };
                gate.leave(pass, end, ends, call.jitter);
                if call.end == 2 {
                    paused_until = paused_until.max(ends + Duration::from_millis(call.takes_ms));
                }
            }
            match gate.enter(call.retry, now) {
                Ok(pass) => {
                    prop_assert!(now >= paused_until, "called {:?} too early", paused_until - now);
                    under_way.push((now + Duration::from_millis(call.takes_ms), pass, call));
                }
                Err(blocked) => prop_assert!(blocked.until > now),
            }
            prop_assert!(under_way.len() <= places);
            prop_assert_eq!(gate.standing(now).in_flight, under_way.len());
        }
    }
}
