//! Two builds in turn, pair by pair, in one sitting: what disturbs one of a pair mostly disturbs the other too.

use std::path::Path;

use super::{
    Build, Figures, Options,
    figures::{Table, count, number, text},
    level::{self, Level},
    rig::{Rig, Setup},
    stats::{Ratio, mean},
};
use crate::Result;

/// What is compared of each level. Of the first more is better, of the others less.
type Measure = (&'static str, fn(&Level) -> f64);
const MEASURES: [Measure; 4] = [
    ("runs_per_second", |level| level.runs_per_second),
    ("cpu_ms_per_run", Level::cpu_ms_per_run),
    ("final_ms_p50", |level| level.final_ms_p50.unwrap_or(f64::NAN)),
    ("final_ms_p99", |level| level.final_ms_p99.unwrap_or(f64::NAN)),
];

/// Measures this build and another one, each on a clean system every time, and who begins changes from pair to pair.
pub async fn compare(options: &Options, this: &Build, other: &Build, pairs: u64) -> Result<Figures> {
    let mut figures = Figures::default();
    figures.tables.push(builds(this, other));
    if this.sha256 == other.sha256 {
        figures.note("both builds are the same program: what differs is chance");
    }
    // For as long as the program runs, as the paths of builds are.
    let program: &'static Path = Box::leak(other.path.clone().into_boxed_path());
    for clients in &options.c {
        let mut levels: Vec<(Level, Level)> = vec![];
        for pair in 0..pairs {
            println!("{clients} clients: pair {} of {pairs}", pair + 1);
            let ours_first = pair.is_multiple_of(2);
            let (mut ours, mut theirs) = (None, None);
            for ours_now in [ours_first, !ours_first] {
                let (name, program) = if ours_now {
                    ("this", options.program)
                } else {
                    ("other", Some(program))
                };
                let mut of_one = Figures::default();
                let level = once(options, program, *clients, &mut of_one).await?;
                let at = format!("{clients} clients, pair {}, {name} build", pair + 1);
                let faults = of_one.faults.iter().map(|fault| format!("{at}: {fault}"));
                figures.faults.extend(faults);
                let notes = of_one.notes.iter().map(|note| format!("{at}: {note}"));
                figures.notes.extend(notes);
                figures.settings.append(&mut of_one.settings);
                if ours_now {
                    ours = Some(level)
                } else {
                    theirs = Some(level)
                }
            }
            levels.extend(theirs.zip(ours));
        }
        figures.tables.push(table(*clients, &levels));
        figures.tables.push(each(*clients, &levels));
    }
    figures.settings.insert("pairs".into(), pairs.into());
    figures.settings.insert("seconds".into(), options.seconds.into());
    Ok(figures)
}

async fn once(options: &Options, program: Option<&'static Path>, clients: u32, figures: &mut Figures) -> Result<Level> {
    let options = Options {
        program,
        ..options.clone()
    };
    let mut rig = Rig::start(&options, Setup::default()).await?;
    let level = rig.load(clients, options.seconds).await?;
    level.judge(figures);
    figures.settings = rig.settings.clone();
    // A build that is fast because it loses runs is not to be compared.
    rig.settle(&level.ended(), figures).await;
    Ok(level)
}

/// Which programs they are.
fn builds(this: &Build, other: &Build) -> Table {
    let mut table = Table::new("the two builds", ["build", "version", "sha256", "path"]);
    for (name, build) in [("this", this), ("other", other)] {
        let path = build.path.display().to_string();
        table.row([text(name), text(&build.version), text(&build.sha256), text(path)]);
    }
    table
}

/// What the ratios are made of, in the order in which it was measured: who begins changes from pair to pair.
fn each(clients: u32, levels: &[(Level, Level)]) -> Table {
    let mut columns = vec!["pair".to_owned(), "build".into()];
    columns.extend(
        levels
            .first()
            .map(|(other, _)| level::columns(other))
            .unwrap_or_default(),
    );
    let mut table = Table::new(format!("{clients} clients: each measurement, in its order"), columns);
    for (at, (other, this)) in levels.iter().enumerate() {
        let (this, other) = (("this", this), ("other", other));
        let order = if at.is_multiple_of(2) {
            [this, other]
        } else {
            [other, this]
        };
        for (name, level) in order {
            let whose = [count(at + 1), text(name)];
            table.row(whose.into_iter().chain(level::cells(level)));
        }
    }
    table
}

/// From pairs of (the other build, this build).
fn table(clients: u32, levels: &[(Level, Level)]) -> Table {
    let mut table = Table::new(
        format!(
            "{clients} clients, {} pairs: this build against the other",
            levels.len()
        ),
        [
            "measure",
            "other",
            "this",
            "this_to_other",
            "low_95",
            "high_95",
            "verdict",
        ],
    );
    for (name, measure) in MEASURES {
        let pairs: Vec<(f64, f64)> = levels
            .iter()
            .map(|(other, this)| (measure(other), measure(this)))
            .collect();
        let (others, these): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
        let ratio = Ratio::of(&pairs);
        let more_is_better = name == "runs_per_second";
        let verdict = match ratio.is_a_difference() {
            // A build of which no run ended has no times.
            _ if !ratio.low.is_finite() => "not measured",
            false => "no difference shown",
            true if (ratio.ratio > 1.0) == more_is_better => "better",
            true => "worse",
        };
        table.row([
            text(name),
            number(mean(&others), 3),
            number(mean(&these), 3),
            number(ratio.ratio, 3),
            number(ratio.low, 3),
            number(ratio.high, 3),
            text(verdict),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(runs_per_second: f64, ms: f64) -> Level {
        Level {
            clients: 1,
            runs: 1,
            completed: 1,
            errors: 0,
            runs_per_second,
            first_event_ms_p50: None,
            first_event_ms_p99: None,
            final_ms_p50: Some(ms),
            final_ms_p99: None,
            processes: vec![],
            events_behind: 0,
        }
    }

    #[test]
    fn a_difference_beyond_chance_gets_a_verdict_and_another_none() {
        let levels = [
            (level(100.0, 5.0), level(120.0, 5.0)),
            (level(50.0, 5.0), level(60.5, 6.0)),
            (level(80.0, 6.0), level(95.5, 5.0)),
        ];
        let shown = table(64, &levels).to_string();
        let line = |name: &str| {
            shown
                .lines()
                .find(|line| line.contains(name))
                .unwrap_or_default()
                .to_owned()
        };
        assert!(line("runs_per_second").ends_with("better |"), "{shown}");
        assert!(line("final_ms_p50").contains("no difference shown"), "{shown}");
        assert!(line("final_ms_p99").contains("not measured"), "{shown}");
    }

    #[test]
    fn each_measurement_is_told_in_its_order() {
        let levels = [
            (level(100.0, 5.0), level(120.0, 5.0)),
            (level(50.0, 5.0), level(60.0, 6.0)),
        ];
        let shown = each(64, &levels).to_string();
        let rows: Vec<Vec<&str>> = shown
            .lines()
            .filter(|line| line.starts_with('|'))
            .map(|line| line.split('|').map(str::trim).collect())
            .collect();
        let at = rows[0].iter().position(|name| *name == "runs per second").unwrap();
        let told: Vec<[&str; 3]> = rows[2..].iter().map(|row| [row[1], row[2], row[at]]).collect();
        let expected = [
            ["1", "this", "120"],
            ["1", "other", "100"],
            ["2", "other", "50"],
            ["2", "this", "60"],
        ];
        assert_eq!(told, expected, "{shown}");
    }
}
