//! `cargo run -p steadfast-protocol [long | NAME]`: explores the models and their mutants and prints a table; with the
//! name of a mutant, the shortest way to what it breaks.

use std::{process::ExitCode, time::Instant};

use steadfast_protocol::suite::{self, Case};

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        None => table(suite::short()),
        Some("long") => table(suite::long()),
        Some(name) => ways(name),
    }
}

fn table(cases: Vec<Case>) -> ExitCode {
    let mut sound = true;
    println!("| model | bounds | states | seconds | properties |\n|---|---|---|---|---|");
    for case in cases {
        let began = Instant::now();
        let report = case.explore();
        let seconds = began.elapsed().as_secs_f64();
        let broken: Vec<_> = report.broken.iter().map(|(property, _)| *property).collect();
        let verdict = if broken.is_empty() {
            "hold".into()
        } else {
            format!("BROKEN: {}", broken.join("; "))
        };
        println!(
            "| {} | {} | {} | {seconds:.1} | {verdict} |",
            case.model, case.bounds, report.states
        );
        for (property, way) in &report.broken {
            eprintln!("{property}\n  {}", way.join("\n  "));
        }
        sound &= broken.is_empty();
    }
    println!("\n| model | without | breaks | states looked at | steps to it |\n|---|---|---|---|---|");
    for case in suite::caught().into_iter().chain(suite::spared()) {
        let report = case.explore();
        let breaks = case.breaks.unwrap_or("nothing: another guard stands behind it");
        let steps = report.broken.first().map(|(_, way)| way.len().to_string());
        let steps = steps.unwrap_or_else(|| "none".into());
        println!(
            "| {} | {} | {breaks} | {} | {steps} |",
            case.model, case.lacking, report.states
        );
        sound &= report.broken.is_empty() == case.breaks.is_none();
    }
    if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn ways(name: &str) -> ExitCode {
    let cases: Vec<_> = suite::caught()
        .into_iter()
        .filter(|case| case.lacking == name)
        .collect();
    if cases.is_empty() {
        let known: Vec<_> = suite::caught().into_iter().map(|case| case.lacking).collect();
        eprintln!("there is no mutant {name:?}; say long, or one of: {}", known.join(", "));
        return ExitCode::FAILURE;
    }
    for case in cases {
        for (property, way) in case.explore().broken {
            println!("{}, without {name}: {property}\n  {}", case.model, way.join("\n  "));
        }
    }
    ExitCode::SUCCESS
}
