//! From the start of a process to the moment it takes work.

use std::time::{Duration, Instant};

use futures::FutureExt;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::Scenario;
use crate::{
    Result,
    bench::{
        Figures, Options,
        figures::{Table, count, number, text},
        rig::{AGENT, CALLS, Rig, Setup, TASK},
        settled::Ended,
        stats::{median, percentile},
        stream::EventStream,
    },
    system::{Mode, Role},
};

pub const SCENARIO: Scenario = Scenario {
    name: "cold-start",
    about: "from the start of `steadfast dev` and of each role to a /readyz that says yes; a run after the last of each",
    size: Some(("starts of each", 20, 100)),
    distributed_only: false,
    measure: |options| measure(options).boxed_local(),
};

const READY_MAX: Duration = Duration::from_secs(30);
const END_MAX: Duration = Duration::from_secs(30);
const RUN_MAX: Duration = Duration::from_secs(30);
/// Between two looks: what this adds to a figure.
const POLL: Duration = Duration::from_millis(1);

async fn measure(options: &Options) -> Result<Figures> {
    let starts = SCENARIO.size(options);
    let mut figures = Figures::default();
    let mut table = Table::new(
        "cold start: ms from the start of the process to ready, its database made before",
        ["process", "starts", "ms_p50", "ms_p99", "ms_first"],
    );
    for mode in [Mode::Embedded, Mode::Distributed] {
        let options = Options {
            mode,
            ..options.clone()
        };
        let mut rig = Rig::start(&options, Setup::default()).await?;
        let (address, mut ended) = (rig.address(), Ended::default());
        for role in rig.stack.roles() {
            let mut took = vec![];
            for _ in 0..starts {
                took.push(start(role).await?);
            }
            table.row([
                text(role.name.trim_end_matches('1')),
                count(starts),
                number(median(&took), 1),
                number(percentile(&took, 99.0), 1),
                number(took.first().copied().unwrap_or(f64::NAN), 1),
            ]);
            // Who says that it is ready, takes work.
            let end = run(&address).await?;
            figures.require(
                end == "run.completed",
                format!("after the last start of {} a run ended with {end:?}", role.name),
            );
            ended += Ended::completed(1, CALLS);
        }
        rig.settle(&ended, &mut figures).await;
    }
    figures.tables.push(table);
    figures.note("the program is in the page cache from the second start on");
    Ok(figures)
}

/// Ends the process in good order and starts it again. Answers the milliseconds until it was ready.
async fn start(role: &mut Role) -> Result<f64> {
    role.sigterm();
    if role.wait_exit(END_MAX).await.is_none() {
        return Err(format!("{} did not end within {END_MAX:?}", role.name).into());
    }
    let address = role.url().trim_start_matches("http://").to_owned();
    let began = Instant::now();
    role.launch();
    while !is_ready(&address).await {
        if began.elapsed() > READY_MAX {
            return Err(format!("{} was not ready within {READY_MAX:?}", role.name).into());
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(began.elapsed().as_secs_f64() * 1e3)
}

/// One run, to its end. Answers its last event.
async fn run(address: &str) -> Result<String> {
    let task = json!({"agent": AGENT, "input": TASK, "stream": true});
    let run = async { EventStream::post(address, &task).await?.end().await };
    tokio::time::timeout(RUN_MAX, run)
        .await
        .map_err(|_| format!("a run did not end within {RUN_MAX:?}"))?
}

/// A connection each time: nobody listens there at first.
async fn is_ready(address: &str) -> bool {
    let ask = async {
        let mut socket = TcpStream::connect(address).await?;
        let request = format!("GET /readyz HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    ask.await.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200 "))
}
