//! Which scenarios are played, in which order and for how long.

use std::{
    panic::AssertUnwindSafe,
    time::{Duration, Instant},
};

use futures::{FutureExt, future::LocalBoxFuture};

use super::{Case, Report};

/// One way to hurt a system.
pub struct Scenario {
    /// What it is called on the command line and in the table.
    pub name: &'static str,
    /// One line about what is done and what must hold.
    pub about: &'static str,
    /// Played in the long form only, unless it is named.
    pub long_only: bool,
    pub play: for<'a> fn(&'a mut Case) -> LocalBoxFuture<'a, ()>,
}

/// What was ordered.
pub struct Suite {
    pub scenarios: Vec<&'static Scenario>,
    /// Scenarios are played again and again for so long; None: the short form, each once.
    pub time: Option<Duration>,
    pub seed: u64,
    /// Whether a promised time that was not kept fails a scenario.
    pub strict: bool,
}

impl Suite {
    pub async fn play(&self) -> Report {
        let begun = Instant::now();
        let mut report = Report::new(self.seed, self.time, self.strict);
        for round in 0.. {
            for (at, scenario) in self.scenarios.iter().enumerate() {
                let over = self.time.is_some_and(|time| begun.elapsed() >= time);
                // Each is played once, also when the time is short.
                if over && round > 0 {
                    return report;
                }
                let seed = self.seed.wrapping_add(1_000 * round + at as u64);
                let case = self.one(scenario, seed).await;
                report.add(case, begun.elapsed());
            }
            if self.time.is_none_or(|time| begun.elapsed() >= time) {
                break;
            }
        }
        report
    }

    async fn one(&self, scenario: &Scenario, seed: u64) -> Case {
        let begun = Instant::now();
        let mut case = Case::new(scenario.name, self.time.is_some(), self.strict, seed);
        println!("{}: {}", scenario.name, scenario.about);
        // A fixture that gives up panics; the others are played all the same.
        let played = AssertUnwindSafe((scenario.play)(&mut case)).catch_unwind().await;
        if let Err(panic) = played {
            let said = panic.downcast_ref::<String>().map(String::as_str);
            let said = said
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or_default();
            case.violations
                .push(format!("the scenario did not come to its end: {said}"));
        }
        for violation in case.violations.iter().take(20) {
            println!("  VIOLATED {violation}");
        }
        println!(
            "{}: {} after {:.0} s: {} faults, {}",
            scenario.name,
            case.verdict(),
            begun.elapsed().as_secs_f64(),
            case.faults,
            case.settled
        );
        case
    }
}
