//! The models hold, and would not if a guard were missing.

use std::collections::BTreeSet;

use steadfast_protocol::{
    explore::Report,
    ownership, projection, stream,
    suite::{self, Case},
};

fn describe(case: &Case, report: &Report) -> String {
    let ways = report
        .broken
        .iter()
        .map(|(property, way)| format!("\n{property}\n  {}", way.join("\n  ")));
    let Case {
        model, bounds, lacking, ..
    } = case;
    format!(
        "{model} ({bounds}) [{lacking}]: {} states{}",
        report.states,
        ways.collect::<String>()
    )
}

#[test]
fn the_protocol_keeps_every_property_in_every_state_and_two_searches_find_the_same_states() {
    for case in suite::short() {
        let report = case.explore();
        println!("{}", describe(&case, &report));
        assert!(report.broken.is_empty(), "{}", describe(&case, &report));
        assert_eq!(report.states, case.count(), "{} ({})", case.model, case.bounds);
    }
}

#[test]
fn every_mutant_breaks_the_property_it_is_there_for() {
    for case in suite::caught() {
        let report = case.explore();
        println!("{}", describe(&case, &report));
        let broken: Vec<_> = report.broken.iter().map(|(property, _)| Some(*property)).collect();
        assert_eq!(broken, [case.breaks], "{}", describe(&case, &report));
    }
}

#[test]
fn every_property_has_a_mutant_that_breaks_it() {
    use ownership::{I1, I2, I4, I5, I6, I7};
    let properties = [I1, I2, I4, I5, I6, I7, ownership::PROGRESS];
    let properties =
        properties
            .into_iter()
            .chain([projection::I11, projection::PROGRESS, stream::I10, stream::PROGRESS]);
    let broken: BTreeSet<_> = suite::caught().iter().filter_map(|case| case.breaks).collect();
    assert_eq!(broken, properties.collect());
}

#[test]
fn a_guard_with_another_behind_it_saves_work_and_nothing_else() {
    for case in suite::spared() {
        let report = case.explore();
        println!("{}", describe(&case, &report));
        assert!(report.broken.is_empty(), "{}", describe(&case, &report));
    }
}
