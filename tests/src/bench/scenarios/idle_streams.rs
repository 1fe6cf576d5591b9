//! Clients that watch runs in which nothing happens: what each costs the process that serves it.

use std::time::Duration;

use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use serde_json::json;
use tokio::task::JoinSet;

use super::{Scenario, growth_of};
use crate::{
    Result,
    bench::{
        Figures, Options,
        costs::Reading,
        figures::{Cell, Table, count, number},
        machine::raise_open_files,
        posts,
        rig::{AGENT, Rig, Setup},
        settled::Ended,
        stream::EventStream,
    },
};

pub const SCENARIO: Scenario = Scenario {
    name: "idle-streams",
    about: "event streams of runs that wait for their client: memory of the serving process for each, and its CPU while all are idle",
    size: Some(("streams", 10_000, 10_000)),
    distributed_only: false,
    measure: |options| measure(options).boxed_local(),
};

/// Streams are opened in so many parts, and memory is looked at after each.
const PARTS: usize = 5;
/// Opened at the same time.
const AT_ONCE: usize = 64;
/// Descriptors that are no stream, on either side.
const OTHER_FILES: u64 = 500;
/// Until what was only needed to open the streams is given back.
const REST: Duration = Duration::from_secs(3);
const IDLE: Duration = Duration::from_secs(15);
/// Of the model, until a run waits for its client.
const CALLS_BEFORE: u64 = 1;
/// For the runs to end once they are told to.
const END_MAX: Duration = Duration::from_secs(120);

async fn measure(options: &Options) -> Result<Figures> {
    let mut figures = Figures::default();
    let wanted = SCENARIO.size(options);
    let files = raise_open_files()?;
    let streams = wanted.min(files.saturating_sub(OTHER_FILES));
    if streams < wanted {
        figures.note(format!(
            "SCALED DOWN to {streams} streams: a process may have {files} open files here (see `ulimit -Hn`)"
        ));
    }
    let mut rig = Rig::start(options, Setup::default()).await?;
    let task = json!({"agent": AGENT, "input": "[[tool:ask_the_client {}]]", "tools": [{"name": "ask_the_client"}]});
    let base = rig.stack.gateways[0].url();
    println!("idle-streams: posting {streams} runs that will wait");
    let runs = posts::tasks(&base, &task, streams).await?;

    let front = rig.front()?;
    let mut table = Table::new(
        format!(
            "idle-streams: memory of {} (its own, without the program), each stream of a run of its own",
            front.name
        ),
        ["streams", "mib", "bytes_a_stream", "bytes_a_stream_of_these"],
    );
    // Once, so that what every process grows by at its first streams is no cost of theirs.
    drop(open(&rig, &runs[..runs.len().min(AT_ONCE)]).await?);
    tokio::time::sleep(REST).await;
    let empty = front.own_bytes();
    table.row([count(0_u64), mib(empty), number(f64::NAN, 0), number(f64::NAN, 0)]);
    let (mut all, mut points, mut before) = (vec![], vec![], empty);
    for part in runs.chunks(runs.len().div_ceil(PARTS)) {
        all.append(&mut open(&rig, part).await?);
        tokio::time::sleep(REST).await;
        let now = front.own_bytes();
        let each = |bytes: u64, streams: usize| bytes as f64 / streams as f64;
        let marginal = each(now.saturating_sub(before), part.len());
        table.row([
            count(all.len()),
            mib(now),
            number(each(now.saturating_sub(empty), all.len()), 0),
            number(marginal, 0),
        ]);
        points.push((all.len() as f64, marginal));
        before = now;
    }
    figures.tables.push(table);
    growth_of(
        &mut figures,
        SCENARIO.name,
        "bytes of one more stream",
        "streams",
        points,
    );
    let watched = rig.watched();
    let begun = Reading::take(&watched);
    // Heartbeats are read, as every client does.
    let mut readers = JoinSet::new();
    for mut stream in all {
        readers.spawn(async move { stream.end().await });
    }
    tokio::time::sleep(IDLE).await;
    let ended = Reading::take(&watched);
    let seconds = ended.seconds_since(&begun);
    for (process, ms) in watched.iter().zip(ended.cpu_ms_since(&begun)) {
        figures.note(format!(
            "while all are idle {} uses {:.1} ms of CPU a second",
            process.name,
            ms / seconds
        ));
    }

    posts::cancel(&base, &runs).await?;
    let told = tokio::time::timeout(END_MAX, told(readers)).await.unwrap_or(0);
    figures.require(
        told == streams,
        format!("of {streams} streams {told} saw their run cancelled and then ended"),
    );
    figures.settings = rig.settings.clone();
    rig.settle(&Ended::cancelled(streams, CALLS_BEFORE), &mut figures).await;
    Ok(figures)
}

/// Opens a stream for each run and reads it until the run waits for its client.
async fn open(rig: &Rig, runs: &[String]) -> Result<Vec<EventStream>> {
    let opened = runs.iter().map(|run| open_one(rig.address(), run));
    stream::iter(opened).buffer_unordered(AT_ONCE).try_collect().await
}

async fn open_one(address: String, run: &str) -> Result<EventStream> {
    let mut stream = EventStream::get(&address, &format!("/v1/runs/{run}/events/stream")).await?;
    if stream.until("tool_call.requested").await? {
        return Ok(stream);
    }
    Err(format!("the stream of {run} ended before its run waited").into())
}

/// How many streams end, and say before that their run was cancelled.
async fn told(mut readers: JoinSet<Result<String>>) -> u64 {
    let mut told = 0;
    while let Some(end) = readers.join_next().await {
        told += u64::from(matches!(end, Ok(Ok(last)) if last == "run.cancelled"));
    }
    told
}

fn mib(bytes: u64) -> Cell {
    number(bytes as f64 / (1024.0 * 1024.0), 1)
}
