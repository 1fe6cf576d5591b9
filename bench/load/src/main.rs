//! A closed loop of clients against any system that answers a POST: each client posts a task, reads the answer to its
//! end, and posts the next.
//!
//! It writes `measuring` and `measured` when its window opens and closes, so that whoever started it can read what the
//! processes cost in between, and then one line of JSON.

mod client;
mod summary;

use std::{sync::Arc, time::Duration};

use clap::Parser;
use tokio::{task::JoinSet, time::Instant};

use client::{Clients, Task};

/// A closed loop of clients against any system that answers a POST
#[derive(Parser)]
struct Args {
    /// Where each task is posted
    #[arg(long)]
    url: String,
    /// The task, JSON
    #[arg(long)]
    body: String,
    /// What an answer must contain, or it is an error; may be repeated
    #[arg(long, required = true)]
    expect: Vec<String>,
    /// What begins each streamed piece of an answer; counted
    #[arg(long)]
    piece: Option<String>,
    #[arg(long)]
    clients: usize,
    /// Seconds in which nothing counts
    #[arg(long, default_value_t = 2.0)]
    warm_up: f64,
    /// Seconds that count; more, if fewer runs than clients have ended in them
    #[arg(long, default_value_t = 6.0)]
    seconds: f64,
    /// Seconds after which an answer is given up
    #[arg(long, default_value_t = 90.0)]
    timeout: f64,
}

/// How often it is looked whether enough runs have ended.
const LOOK: Duration = Duration::from_millis(20);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let http = reqwest::Client::builder()
        .no_proxy()
        .http1_only()
        .tcp_nodelay(true)
        .pool_max_idle_per_host(usize::MAX)
        .timeout(Duration::from_secs_f64(args.timeout))
        .build()?;
    let task = Task {
        http,
        url: args.url,
        body: args.body,
        expect: args.expect,
        piece: args.piece,
    };
    task.run().await.map_err(|why| format!("the first run failed: {why}"))?;

    let clients = Arc::new(Clients::new(task));
    let mut running = JoinSet::new();
    for _ in 0..args.clients {
        running.spawn(clients.clone().run_until_stopped());
    }
    tokio::time::sleep(Duration::from_secs_f64(args.warm_up)).await;

    let began = Instant::now();
    println!("measuring");
    clients.count();
    // A system that needs longer for a run than the window lasts would have none in it.
    let enough_by = began + Duration::from_secs_f64(args.seconds.max(args.timeout));
    tokio::time::sleep(Duration::from_secs_f64(args.seconds)).await;
    while clients.ended() < args.clients && Instant::now() < enough_by {
        tokio::time::sleep(LOOK).await;
    }
    let ended = Instant::now();
    println!("measured");
    clients.stop();

    // Runs under way when the window closed are waited for: without them the slowest would not count.
    let samples = running.join_all().await.into_iter().flatten().collect();
    println!("{}", serde_json::to_string(&summary::of(samples, began, ended))?);
    Ok(())
}
