//! A failing plan made smaller: entries are left out one at a time, as long as it still fails in the same way.

use crate::{
    guard::Guard,
    plan::{Noise, Plan},
    simulation::Simulator,
};

/// Simulations one shrinking may take.
const TRIES_MAX: usize = 300;

/// The smallest plan found that breaks the same invariant, and how many were tried.
pub fn shrink(
    simulator: &Simulator,
    plan: &Plan,
    broken: Option<Guard>,
    invariant: &str,
) -> Result<(Plan, usize), String> {
    let (mut best, mut tried) = (plan.clone(), 0);
    loop {
        let mut smaller = None;
        for candidate in candidates(&best) {
            if tried >= TRIES_MAX {
                break;
            }
            tried += 1;
            let outcome = simulator.run(&candidate, broken, false)?;
            if outcome
                .violations
                .iter()
                .any(|violation| violation.invariant == invariant)
            {
                smaller = Some(candidate);
                break;
            }
        }
        match smaller {
            Some(candidate) => best = candidate,
            None => return Ok((best, tried)),
        }
    }
}

/// The plan with one thing less, the largest first.
fn candidates(plan: &Plan) -> Vec<Plan> {
    let mut smaller = Vec::new();
    let mut with = |change: &dyn Fn(&mut Plan)| {
        let mut candidate = plan.clone();
        change(&mut candidate);
        smaller.push(candidate);
    };
    if plan.noise != Noise::default() {
        with(&|plan| plan.noise = Noise::default());
    }
    if plan.conversations.len() > 1 {
        for at in 0..plan.conversations.len() {
            with(&|plan| _ = plan.conversations.remove(at));
        }
    }
    for (at, conversation) in plan.conversations.iter().enumerate() {
        if conversation.tasks.len() > 1 {
            for task in 0..conversation.tasks.len() {
                with(&|plan| _ = plan.conversations[at].tasks.remove(task));
            }
        }
    }
    for at in 0..plan.faults.len() {
        with(&|plan| _ = plan.faults.remove(at));
    }
    if plan.skews.iter().any(|skew| *skew != 0) {
        with(&|plan| plan.skews.iter_mut().for_each(|skew| *skew = 0));
    }
    for noise in plan.noise.quieter() {
        with(&|plan| plan.noise = noise);
    }
    smaller
}
