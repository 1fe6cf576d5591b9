//! Read models that are behind: how fast the projector follows the log, and how fast each is built anew.

use std::time::{Duration, Instant};

use futures::FutureExt;
use sqlx::{Connection, PgConnection};

use super::{Scenario, growth_of};
use crate::{
    Result,
    bench::{
        Figures, Options,
        costs::Reading,
        figures::{Table, count, number, text},
        filler,
        level::BEHIND,
        rig::{Rig, Setup},
        settled::Ended,
    },
};

pub const SCENARIO: Scenario = Scenario {
    name: "catch-up",
    about: "a log that grew while no projector was up: how fast one follows it, and how fast each read model is rebuilt",
    size: Some(("events", 200_000, 1_000_000)),
    distributed_only: true,
    measure: |options| measure(options).boxed_local(),
};

const PARTS: u64 = 10;
const LOOK: Duration = Duration::from_millis(50);
const STANDSTILL_MAX: Duration = Duration::from_secs(60);
const REBUILD_MAX: Duration = Duration::from_secs(3600);

async fn measure(options: &Options) -> Result<Figures> {
    let mut figures = Figures::default();
    let events = SCENARIO.size(options);
    let mut rig = Rig::start(options, Setup::default()).await?;
    // A real run, to be copied.
    let level = rig.load(1, 1).await?;
    level.judge(&mut figures);
    let projector = &mut rig.stack.projectors[0];
    projector.sigterm();
    projector.wait_exit(Duration::from_secs(30)).await;
    println!("catch-up: filling the log up to {events} events");
    let mut connection = PgConnection::connect(&rig.database()?).await?;
    let filled = filler::fill(&mut connection, events).await?;
    let behind = behind_of(&mut connection).await?;

    println!("catch-up: a projector follows");
    // Measured from here: it applies events long before it says that it is ready.
    rig.stack.projectors[0].launch();
    let table = follow(&rig, behind, &mut connection, &mut figures).await?;
    figures.tables.push(table);

    let ran = rig
        .stack
        .cli_within(REBUILD_MAX, &["projections", "rebuild", "all"])
        .await;
    figures.require(ran.code == Some(0), format!("a rebuild failed: {}", ran.stderr));
    let mut table = Table::new(
        "catch-up: each read model built anew, beside the old one",
        ["read_model", "events", "seconds", "events_per_second"],
    );
    for (name, events, seconds) in ran.stdout.lines().filter_map(rebuilt) {
        table.row([
            text(name),
            count(events),
            number(seconds, 1),
            number(events as f64 / seconds, 0),
        ]);
    }
    figures.tables.push(table);
    figures.settings = rig.settings.clone();
    figures.note(
        "the events are copies of one run of two model calls and a tool call, each with ids and hashes of its own",
    );
    // Nobody executes a copy.
    let ended = level.ended() + Ended::completed(filled.copies, 0);
    rig.settle(&ended, &mut figures).await;
    Ok(figures)
}

/// The projector on its way to the end of the log, `behind` events away.
async fn follow(rig: &Rig, behind: u64, connection: &mut PgConnection, figures: &mut Figures) -> Result<Table> {
    let watched: Vec<_> = rig
        .ours()
        .into_iter()
        .filter(|one| one.name == "projector" || one.name == "postgres")
        .collect();
    let mut table = Table::new(
        "catch-up: one projector keeps all read models",
        [
            "events",
            "events_per_second",
            "projector_cpu_us_an_event",
            "postgres_cpu_us_an_event",
            "projector_mib",
        ],
    );
    let mut points = vec![];
    let begun = Instant::now();
    let (mut before, mut applied_before, mut moved) = (Reading::take(&watched), 0, Instant::now());
    let part = behind.div_ceil(PARTS);
    loop {
        tokio::time::sleep(LOOK).await;
        let over = behind_of(connection).await? == 0;
        let applied = applied(rig).await;
        if applied >= applied_before + part || (over && applied > applied_before) {
            let now = Reading::take(&watched);
            let (each, cpu) = ((applied - applied_before) as f64, now.cpu_ms_since(&before));
            let us: Vec<f64> = cpu.iter().map(|ms| ms * 1e3 / each).collect();
            let memory = watched
                .iter()
                .find(|one| one.name == "projector")
                .map_or(0, |one| one.own_bytes());
            let mut cells = vec![count(applied), number(each / now.seconds_since(&before), 0)];
            cells.extend(us.iter().map(|us| number(*us, 1)));
            cells.push(number(memory as f64 / (1024.0 * 1024.0), 1));
            table.row(cells);
            points.push((applied as f64, us.iter().sum()));
            (before, applied_before, moved) = (now, applied, Instant::now());
        }
        if over {
            break;
        }
        if moved.elapsed() > STANDSTILL_MAX {
            figures.fault(format!(
                "the projector stands still {} events before the end",
                behind_of(connection).await?
            ));
            return Ok(table);
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    figures.note(format!(
        "the projector came to the end of {behind} events in {seconds:.1} s: {:.0} events a second",
        behind as f64 / seconds
    ));
    let what = "CPU of projector and Postgres for an event, microseconds";
    growth_of(figures, SCENARIO.name, what, "events applied", points);
    Ok(table)
}

/// Events the projector applied since its start, each counted once.
async fn applied(rig: &Rig) -> u64 {
    let projector = &rig.stack.projectors[0];
    let events = projector.metric("steadfast_projection_events_total", "run_list").await;
    events.unwrap_or_default() as u64
}

/// Events that the read model furthest behind has not applied.
pub async fn behind_of(connection: &mut PgConnection) -> Result<u64> {
    let behind: i64 = sqlx::query_scalar(BEHIND).fetch_one(connection).await?;
    Ok(behind.max(0).unsigned_abs())
}

/// `NAME: rebuilt from N events in S s`
fn rebuilt(line: &str) -> Option<(&str, u64, f64)> {
    let (name, rest) = line.split_once(": rebuilt from ")?;
    let (events, rest) = rest.split_once(" events in ")?;
    let seconds = rest.strip_suffix(" s")?;
    Some((name, events.parse().ok()?, seconds.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_rebuild_says_is_understood() {
        assert_eq!(
            rebuilt("run_list: rebuilt from 1200 events in 0.4 s"),
            Some(("run_list", 1200, 0.4))
        );
        assert_eq!(rebuilt("run_list: 12 events"), None);
    }
}
