//! The closed loop: each client posts a task, reads the stream to its end, and posts the next.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use reqwest::{Client, header};
use serde_json::Value;
use tokio::task::JoinSet;

use super::procs::Process;
use crate::{
    client::{http_client, is_loopback},
    config::ClientSettings,
    error::{Context, Failure},
    secret::Secret,
};

/// A run that takes longer counts as an error.
const RUN_MAX: Duration = Duration::from_secs(60);
const ERROR_PAUSE: Duration = Duration::from_millis(50);
/// How often memory is looked at; the largest counts.
const MEMORY_LOOK: Duration = Duration::from_secs(1);
/// Bytes of one stream that are kept: its end decides whether the run completed.
const TAIL_BYTES_MAX: usize = 64 * 1024;
const COMPLETED: &[u8] = b"\nevent: run.completed\n";

/// What every client posts, and where.
pub struct Target {
    http: Client,
    url: String,
    key: Option<Secret>,
    body: String,
}

/// One client's run.
struct Sample {
    ended: Instant,
    first_ms: f64,
    final_ms: f64,
    completed: bool,
    counted: bool,
}

/// What one number of clients gave.
pub struct Level {
    pub clients: u32,
    pub window: Duration,
    pub seen: Seen,
    /// Name, CPU time in the window, and the most memory seen in it.
    pub costs: Vec<(String, Duration, u64)>,
}

/// What the clients saw come of their runs.
#[derive(Debug, PartialEq)]
pub struct Seen {
    /// Of those posted in the window. They are waited for when it closes: without them the slowest would not count.
    pub first_ms: Vec<f64>,
    pub final_ms: Vec<f64>,
    pub completed_in_window: usize,
    /// All of them, posted in the window or while warming up: the log must hold as many.
    pub completed: usize,
    /// Likewise: a system that fails while it warms up is not measured on what is left.
    pub errors: usize,
}

impl Target {
    pub fn new(server: &ClientSettings, task: Value) -> Result<Self, Failure> {
        let url = reqwest::Url::parse(&server.url).context("--url or STEADFAST_URL")?;
        let loopback = url.host_str().is_some_and(is_loopback);
        let http = http_client(loopback, |builder| {
            builder.http1_only().pool_max_idle_per_host(usize::MAX)
        })?;
        let url = format!("{}/v1/runs", server.url);
        Ok(Self {
            http,
            url,
            key: server.api_key.clone(),
            body: task.to_string(),
        })
    }

    /// One run, from the post to the end of its stream. `None`: it did not get that far.
    async fn run(&self) -> Option<(Instant, Instant, bool)> {
        let request = self
            .http
            .post(&self.url)
            .header(header::CONTENT_TYPE, "application/json")
            .body(self.body.clone());
        let request = match &self.key {
            Some(key) => request.bearer_auth(key.expose()),
            None => request,
        };
        let mut response = request
            .send()
            .await
            .ok()
            .filter(|response| response.status().is_success())?;
        let (mut first, mut last, mut tail) = (None, None, Vec::new());
        while let Some(chunk) = response.chunk().await.ok()? {
            last = Some(Instant::now());
            first = first.or(last);
            if tail.len() > TAIL_BYTES_MAX {
                tail.drain(..tail.len() - TAIL_BYTES_MAX / 2);
            }
            tail.extend_from_slice(&chunk);
        }
        Some((
            first?,
            last?,
            tail.windows(COMPLETED.len()).rev().any(|window| window == COMPLETED),
        ))
    }
}

pub async fn run(
    target: &Arc<Target>,
    clients: u32,
    warm_up: Duration,
    window: Duration,
    processes: &[Process],
) -> Result<Level, Failure> {
    let (measuring, stop) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let mut tasks = JoinSet::new();
    for _ in 0..clients {
        tasks.spawn(client(target.clone(), measuring.clone(), stop.clone()));
    }
    tokio::time::sleep(warm_up).await;
    let cpu_before = processes.iter().map(Process::cpu).collect::<Result<Vec<_>, _>>()?;
    measuring.store(true, Ordering::Relaxed);
    let began = Instant::now();
    let mut resident = vec![0; processes.len()];
    while began.elapsed() < window {
        tokio::time::sleep(MEMORY_LOOK.min(window.saturating_sub(began.elapsed()))).await;
        for (most, process) in resident.iter_mut().zip(processes) {
            *most = process.resident()?.max(*most);
        }
    }
    let ended = Instant::now();
    let cpu_after = processes.iter().map(Process::cpu).collect::<Result<Vec<_>, _>>()?;
    stop.store(true, Ordering::Relaxed);

    let samples: Vec<Sample> = tasks.join_all().await.into_iter().flatten().collect();
    let cpu = cpu_after
        .into_iter()
        .zip(cpu_before)
        .map(|(after, before)| after.saturating_sub(before));
    let names = processes.iter().map(|process| process.name.clone());
    Ok(Level {
        clients,
        window: ended - began,
        seen: seen(&samples, &(began..ended)),
        costs: names
            .zip(cpu)
            .zip(resident)
            .map(|((name, cpu), resident)| (name, cpu, resident))
            .collect(),
    })
}

fn seen(samples: &[Sample], window: &Range<Instant>) -> Seen {
    let good = || samples.iter().filter(|sample| sample.completed);
    let timed = || good().filter(|sample| sample.counted);
    Seen {
        first_ms: timed().map(|sample| sample.first_ms).collect(),
        final_ms: timed().map(|sample| sample.final_ms).collect(),
        completed_in_window: good().filter(|sample| window.contains(&sample.ended)).count(),
        completed: good().count(),
        errors: samples.len() - good().count(),
    }
}

async fn client(target: Arc<Target>, measuring: Arc<AtomicBool>, stop: Arc<AtomicBool>) -> Vec<Sample> {
    let mut samples = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        let counted = measuring.load(Ordering::Relaxed);
        let run = tokio::time::timeout(RUN_MAX, target.run()).await.ok().flatten();
        let ms = |end: Instant| (end - began).as_secs_f64() * 1e3;
        let (first, ended, completed) = run.unwrap_or_else(|| (began, Instant::now(), false));
        samples.push(Sample {
            ended,
            first_ms: ms(first),
            final_ms: ms(ended),
            completed,
            counted,
        });
        if !completed {
            tokio::time::sleep(ERROR_PAUSE).await;
        }
    }
    samples
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_runs_that_end_in_the_window_latencies_of_those_posted_in_it_and_errors_of_all() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let window = at(2)..at(6);
        let sample = |began, ended, completed| Sample {
            ended: at(ended),
            first_ms: 1.0,
            final_ms: (ended - began) as f64 * 1e3,
            completed,
            counted: began >= 2,
        };
        let samples = [
            sample(0, 1, true),
            sample(0, 1, false), // failed while warming up
            sample(1, 3, false), // posted then, failed in the window
            sample(1, 4, true),
            sample(3, 5, true),
            sample(5, 9, true),
            sample(5, 9, false),
        ];
        let expected = Seen {
            first_ms: vec![1.0, 1.0],
            final_ms: vec![2000.0, 4000.0],
            completed_in_window: 2,
            completed: 4,
            errors: 3,
        };
        assert_eq!(seen(&samples, &window), expected);
    }
}
