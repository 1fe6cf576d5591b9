//! Every scenario there is: one file each, listed here.

mod agent_run;
mod backlog;
mod catch_up;
mod cold_start;
mod growth;
mod idle_streams;
mod live_streams;
mod long_run;
mod long_session;

use futures::future::LocalBoxFuture;

use super::{
    Figures, Options,
    costs::Watched,
    figures::{Cell, Table, count, number},
    plot::{Plot, Series},
    stats::Growth,
};
use crate::Result;

/// One way to use a system.
pub struct Scenario {
    /// What it is called on the command line.
    pub name: &'static str,
    /// One line about what is done and what is told.
    pub about: &'static str,
    /// What `--size` is a number of, and how many without it; with `--full`.
    pub size: Option<(&'static str, u64, u64)>,
    /// It stops single roles or looks into Postgres.
    pub distributed_only: bool,
    pub measure: for<'a> fn(&'a Options) -> LocalBoxFuture<'a, Result<Figures>>,
}

impl Scenario {
    /// The number this scenario is about.
    fn size(&self, options: &Options) -> u64 {
        let (_, usual, full) = self.size.unwrap_or(("", 1, 1));
        options.size_or(usual, full).max(1)
    }
}

/// In the order in which all of them are measured.
pub static SCENARIOS: &[Scenario] = &[
    agent_run::SCENARIO,
    cold_start::SCENARIO,
    long_run::SCENARIO,
    long_session::SCENARIO,
    idle_streams::SCENARIO,
    live_streams::SCENARIO,
    backlog::SCENARIO,
    catch_up::SCENARIO,
    growth::SCENARIO,
];

/// A stretch of something that goes on and on: steps of a run, turns of a session.
#[derive(Debug, Clone)]
struct Stretch {
    /// How many there were at its end.
    upto: u64,
    /// Of each.
    ms: f64,
    /// Of each, by process.
    cpu_ms: Vec<f64>,
}

/// As a table, `unit` being what is counted.
fn stretches_table(title: &str, unit: &str, watched: &[Watched], stretches: &[Stretch]) -> Table {
    let mut columns = vec![format!("{unit}s"), format!("ms_a_{unit}"), format!("cpu_ms_a_{unit}")];
    columns.extend(watched.iter().map(|process| format!("{}_cpu_ms", process.name)));
    let mut table = Table::new(title, columns);
    for stretch in stretches {
        let mut cells: Vec<Cell> = vec![count(stretch.upto), number(stretch.ms, 2)];
        cells.push(number(ours(watched, &stretch.cpu_ms), 3));
        cells.extend(stretch.cpu_ms.iter().map(|ms| number(*ms, 3)));
        table.row(cells);
    }
    table
}

/// How each process's cost grows, and that of all but the model. The first stretch is left out: it has the start in it.
fn stretches_growth(figures: &mut Figures, name: &str, unit: &str, watched: &[Watched], stretches: &[Stretch]) {
    let stretches = stretches.get(1..).unwrap_or_default();
    let mut say = |what: &str, cost: &dyn Fn(&Stretch) -> f64| {
        let points: Vec<(f64, f64)> = stretches
            .iter()
            .map(|stretch| (stretch.upto as f64, cost(stretch)))
            .collect();
        if let Some(growth) = Growth::of(&points) {
            figures.note(format!("{what} a {unit}: {growth}"));
        }
    };
    say("latency, ms", &|stretch| stretch.ms);
    say("CPU of all but the model, ms", &|stretch| {
        ours(watched, &stretch.cpu_ms)
    });
    // One step waits for the other, so the model's CPU is time that passes.
    say("latency less the model's CPU, ms", &|stretch| {
        let all: f64 = stretch.cpu_ms.iter().sum();
        stretch.ms - (all - ours(watched, &stretch.cpu_ms))
    });
    let mut series = vec![];
    for (at, process) in watched.iter().enumerate() {
        let name = format!("CPU of {}, ms", process.name);
        let cost = |stretch: &Stretch| stretch.cpu_ms.get(at).copied().unwrap_or_default();
        say(&name, &cost);
        series.push(Series {
            name: process.name.clone(),
            points: stretches
                .iter()
                .map(|stretch| (stretch.upto as f64, cost(stretch)))
                .collect(),
        });
    }
    figures.plots.push(Plot {
        name: name.into(),
        title: format!("{name}: CPU of one more {unit}"),
        x: format!("{unit}s so far"),
        y: "ms".into(),
        logarithmic: false,
        series,
    });
}

/// One cost of one more, against how much there is: as a note and as a plot.
fn growth_of(figures: &mut Figures, name: &str, what: &str, x: &str, points: Vec<(f64, f64)>) {
    if let Some(growth) = Growth::of(&points) {
        figures.note(format!("{what}: {growth}"));
    }
    let series = vec![Series {
        name: "one more".into(),
        points,
    }];
    figures.plots.push(Plot {
        name: name.into(),
        title: format!("{name}: {what}"),
        x: x.into(),
        y: String::new(),
        logarithmic: false,
        series,
    });
}

/// The sum without the model's.
fn ours(watched: &[Watched], cpu_ms: &[f64]) -> f64 {
    let costs = watched
        .iter()
        .zip(cpu_ms)
        .filter(|(process, _)| process.name != "model");
    costs.map(|(_, ms)| ms).sum()
}
