//! Many seeds, each twice where it matters, and the guards taken away one by one.

use std::{ops::Range, thread};

use steadfast_simulation::{Guard, Outcome, Plan, Simulator, shrink::shrink};

/// Seeds of the default tests.
const SEEDS: u64 = 2_000;
/// Seeds played twice.
const TWICE: u64 = 100;
/// A guard that is gone is missed within so many seeds; fencing by the epoch alone is rarely the last wall.
const MISSED_WITHIN: u64 = 60;
const MISSED_WITHIN_BY_LATE_WORKERS: u64 = 2_000;
/// Few seeds leave a run in its line with nothing else to bring it back.
const MISSED_WITHIN_BY_FULL_WORKERS: u64 = 2_000;

fn play(seed: u64, without: Option<Guard>) -> Outcome {
    let simulator = Simulator::new().expect("a simulator");
    simulator.run(&Plan::of(seed), without, false).expect("a simulation")
}

/// Spread over the processors; each simulation stays on one thread.
fn spread<T: Send>(seeds: Range<u64>, play: impl Fn(u64) -> Option<T> + Sync) -> Vec<T> {
    let threads = thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let play = &play;
    thread::scope(|scope| {
        let part = |thread: u64| {
            let seeds = seeds.clone().filter(move |seed| seed % threads == thread);
            scope.spawn(move || seeds.filter_map(play).collect::<Vec<T>>())
        };
        let parts: Vec<_> = (0..threads).map(part).collect();
        parts
            .into_iter()
            .flat_map(|part| part.join().expect("a part of the seeds"))
            .collect()
    })
}

#[test]
fn every_invariant_holds_under_every_fault_of_every_seed() {
    let broken = spread(0..SEEDS, |seed| {
        let outcome = play(seed, None);
        let first = outcome.violations.into_iter().next()?;
        Some(format!(
            "{}: {} (make simulate SEED={seed})",
            first.invariant, first.what
        ))
    });
    assert!(broken.is_empty(), "{} seeds fail:\n{}", broken.len(), broken.join("\n"));
}

#[test]
fn the_same_seed_is_the_same_story_to_the_last_line() {
    let differ = spread(0..TWICE, |seed| {
        let (once, again) = (play(seed, None).trace, play(seed, None).trace);
        assert!(once.lines > 10, "seed {seed} has no story");
        ((once.hash, once.lines) != (again.hash, again.lines)).then_some(seed)
    });
    assert!(
        differ.is_empty(),
        "seeds {differ:?} were played differently the second time"
    );
    assert_ne!(
        play(0, None).trace.hash,
        play(1, None).trace.hash,
        "all seeds are the same story"
    );
}

#[test]
fn each_guard_is_missed_when_it_is_gone_and_under_its_own_name() {
    for guard in Guard::ALL {
        let (invariant, within) = match guard {
            Guard::Epoch => ("I5 fencing", MISSED_WITHIN_BY_LATE_WORKERS),
            Guard::Lease => ("I7 duplicate bound", MISSED_WITHIN),
            Guard::Position => ("I11 projections", MISSED_WITHIN),
            Guard::Redriver => ("I4 progress", MISSED_WITHIN),
            Guard::Lines => ("I4 progress", MISSED_WITHIN_BY_FULL_WORKERS),
            Guard::StepReset | Guard::TailResume => ("I10 stream exactness", MISSED_WITHIN),
            Guard::IdempotencyKey => ("I3 command once", MISSED_WITHIN),
        };
        let missed = |seed| {
            let outcome = play(seed, Some(guard));
            outcome
                .violations
                .iter()
                .any(|violation| violation.invariant == invariant)
        };
        assert!(
            (0..within).any(missed),
            "{guard:?} is gone and {invariant} holds for {within} seeds"
        );
    }
}

#[test]
fn a_failing_seed_shrinks_to_a_smaller_plan_that_fails_the_same_way() {
    let simulator = Simulator::new().expect("a simulator");
    let invariant = "I3 command once";
    let guard = Some(Guard::IdempotencyKey);
    let fails = |plan: &Plan| {
        let outcome = simulator.run(plan, guard, false).expect("a simulation");
        outcome
            .violations
            .iter()
            .any(|violation| violation.invariant == invariant)
    };
    let size = |plan: &Plan| plan.runs() + plan.faults.len();
    let plan = (0..MISSED_WITHIN)
        .map(Plan::of)
        .find(|plan| size(plan) > 8 && fails(plan));
    let plan = plan.expect("a large seed that fails");
    let (small, _) = shrink(&simulator, &plan, guard, invariant).expect("a smaller plan");
    assert!(fails(&small), "the smaller plan does not fail");
    assert!(size(&small) < size(&plan), "{} was not made smaller", size(&plan));
}
