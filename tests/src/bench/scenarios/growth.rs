//! A log that grows by powers of ten: what one more event costs must not depend on how many there are.

use std::time::{Duration, Instant};

use futures::FutureExt;
use sqlx::{Connection, PgConnection};

use super::{Scenario, catch_up::behind_of, growth_of};
use crate::{
    Result,
    bench::{
        Figures, Options,
        figures::{Cell, Table, count, number},
        filler,
        rig::{Rig, Setup},
        settled::Ended,
    },
};

pub const SCENARIO: Scenario = Scenario {
    name: "growth",
    about: "the same load on a log of a thousand, ten thousand … events: runs a second, CPU of a run, sizes of tables and indexes",
    size: Some(("events at the end", 1_000_000, 10_000_000)),
    distributed_only: true,
    measure: |options| measure(options).boxed_local(),
};

const FIRST: u64 = 1_000;
/// Enough that appends share commits, and few enough that the processor is not all that is measured.
const CLIENTS: u32 = 16;
const FOLLOW_MAX: Duration = Duration::from_secs(1800);
/// Bytes of a table with its indexes, and of these alone.
const SIZE: &str = "select pg_table_size($1::regclass), pg_indexes_size($1::regclass)";

async fn measure(options: &Options) -> Result<Figures> {
    let mut figures = Figures::default();
    let last = SCENARIO.size(options);
    let mut rig = Rig::start(options, Setup::default()).await?;
    let mut connection = PgConnection::connect(&rig.database()?).await?;
    // A real run, to be copied.
    let level = rig.load(1, 1).await?;
    level.judge(&mut figures);
    let mut ended = level.ended();
    let (mut table, mut points, mut wanted) = (None, vec![], FIRST.min(last));
    loop {
        println!("growth: {wanted} events");
        let filled = filler::fill(&mut connection, wanted).await?;
        followed(&mut connection).await?;
        // What a server that has grown so far has long done by itself.
        sqlx::query("vacuum analyze").execute(&mut connection).await?;
        let level = rig.load(CLIENTS, options.seconds).await?;
        level.judge(&mut figures);
        followed(&mut connection).await?;
        // What this load has left to be cleared away.
        let begun = Instant::now();
        sqlx::query("vacuum analyze").execute(&mut connection).await?;
        let vacuum = begun.elapsed();
        // Nobody executes a copy.
        ended += level.ended() + Ended::completed(filled.copies, 0);
        let table = table.get_or_insert_with(|| {
            let columns = [
                "events",
                "runs_per_second",
                "final_ms_p50",
                "final_ms_p99",
                "cpu_ms_per_run",
            ];
            let columns = columns.iter().map(ToString::to_string);
            let processes = level.processes.iter().map(|cost| format!("{}_cpu_ms", cost.name));
            let sizes = [
                "bytes_an_event",
                "index_bytes_an_event",
                "runs_mib",
                "read_models_mib",
                "vacuum_ms",
            ];
            let sizes = sizes.iter().map(ToString::to_string);
            Table::new(
                format!("growth: {CLIENTS} clients on a log of so many events; sizes with indexes"),
                columns.chain(processes).chain(sizes),
            )
        });
        let mut cells: Vec<Cell> = vec![count(filled.events), number(level.runs_per_second, 0)];
        cells.push(number(level.final_ms_p50.unwrap_or(f64::NAN), 1));
        cells.push(number(level.final_ms_p99.unwrap_or(f64::NAN), 1));
        cells.push(number(level.cpu_ms_per_run(), 3));
        cells.extend(level.processes.iter().map(|cost| number(cost.cpu_ms_per_run, 3)));
        cells.extend(sizes(&mut connection).await?);
        cells.push(number(vacuum.as_secs_f64() * 1000.0, 0));
        table.row(cells);
        points.push((filled.events as f64, level.cpu_ms_per_run()));
        if wanted >= last {
            break;
        }
        wanted = (wanted * 10).min(last);
    }
    figures.tables.extend(table);
    growth_of(
        &mut figures,
        SCENARIO.name,
        "CPU of a run without the model's, ms",
        "events",
        points,
    );
    for plot in &mut figures.plots {
        plot.logarithmic = true;
    }
    figures.note("the log is filled with copies of one run, read models follow, and vacuum has run before each level; vacuum_ms: after it");
    figures.settings = rig.settings.clone();
    figures.settings.insert("seconds".into(), options.seconds.into());
    rig.settle(&ended, &mut figures).await;
    Ok(figures)
}

/// Waits until the read models have come to the end of the log.
async fn followed(connection: &mut PgConnection) -> Result<()> {
    let begun = Instant::now();
    while behind_of(connection).await? > 0 {
        if begun.elapsed() > FOLLOW_MAX {
            return Err(format!("the read models are not up to date after {FOLLOW_MAX:?}").into());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

async fn sizes(connection: &mut PgConnection) -> Result<Vec<Cell>> {
    let events: i64 = sqlx::query_scalar("select count(*) from events")
        .fetch_one(&mut *connection)
        .await?;
    let mut size = async |table: &str| -> Result<(f64, f64)> {
        let (table, indexes): (i64, i64) = sqlx::query_as(SIZE).bind(table).fetch_one(&mut *connection).await?;
        Ok((table as f64, indexes as f64))
    };
    let (table, indexes) = size("events").await?;
    let runs = size("runs").await?;
    let mut models = 0.0;
    for model in ["run_list", "messages", "session_list", "usage"] {
        let (table, indexes) = size(model).await?;
        models += table + indexes;
    }
    let (events, mib) = (events as f64, 1024.0 * 1024.0);
    Ok(vec![
        number((table + indexes) / events, 0),
        number(indexes / events, 0),
        number((runs.0 + runs.1) / mib, 1),
        number(models / mib, 1),
    ])
}
