//! What one client does.

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use reqwest::header::CONTENT_TYPE;
use tokio::time::Instant;

/// A system in trouble is not made to fail as fast as it can.
const ERROR_PAUSE: Duration = Duration::from_millis(50);
/// How much of an unexpected answer is quoted.
const QUOTED_CHARS: usize = 200;

pub struct Task {
    pub http: reqwest::Client,
    pub url: String,
    pub body: String,
    pub expect: Vec<String>,
    pub piece: Option<String>,
}

impl Task {
    /// One run, from the post to the end of its answer: the number of pieces in which it was streamed.
    pub async fn run(&self) -> Result<usize, String> {
        let request = self.http.post(&self.url).header(CONTENT_TYPE, "application/json");
        let response = request.body(self.body.clone()).send().await.map_err(in_words)?;
        let status = response.status();
        let answer = response.text().await.map_err(in_words)?;
        if !status.is_success() || !self.expect.iter().all(|part| answer.contains(part.as_str())) {
            let start: String = answer.chars().take(QUOTED_CHARS).collect();
            return Err(format!("{status}: {start}"));
        }
        Ok(self
            .piece
            .as_ref()
            .map_or(0, |piece| answer.matches(piece.as_str()).count()))
    }
}

fn in_words(error: reqwest::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        words = format!("{words}: {inner}");
        cause = inner.source();
    }
    words
}

pub struct Sample {
    pub began: Instant,
    pub ended: Instant,
    /// The number of pieces, or what went wrong.
    pub outcome: Result<usize, String>,
}

pub struct Clients {
    task: Task,
    counting: AtomicBool,
    stopped: AtomicBool,
    ended: AtomicUsize,
}

impl Clients {
    pub fn new(task: Task) -> Self {
        Self {
            task,
            counting: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            ended: AtomicUsize::new(0),
        }
    }

    pub fn count(&self) {
        self.counting.store(true, Relaxed);
    }

    pub fn stop(&self) {
        self.stopped.store(true, Relaxed);
    }

    /// Runs that ended since they are counted.
    pub fn ended(&self) -> usize {
        self.ended.load(Relaxed)
    }

    pub async fn run_until_stopped(self: Arc<Self>) -> Vec<Sample> {
        let mut samples = Vec::new();
        while !self.stopped.load(Relaxed) {
            let began = Instant::now();
            let outcome = self.task.run().await;
            let failed = outcome.is_err();
            samples.push(Sample {
                began,
                ended: Instant::now(),
                outcome,
            });
            if self.counting.load(Relaxed) {
                self.ended.fetch_add(1, Relaxed);
            }
            if failed {
                tokio::time::sleep(ERROR_PAUSE).await;
            }
        }
        samples
    }
}
