//! Evaluation: a dataset is run against an agent, every answer is scored, and a threshold opens or closes the gate.
//!
//! * [`dataset`] reads the file. Every problem in it is reported at once, with its line and what to do about it.
//! * [`score`] holds the scorers that are pure functions: exact text, contained text, and the tools that were called.
//! * [`judge`] asks a model, with a rubric. It may fail; a judge that fails never passes anything.
//! * [`runner`] does the work: it talks to a running Steadfast over its HTTP API, as any other client would.
//! * [`report`] is what came out: JSON for programs, JUnit for build servers, a few lines for people.
//!
//! Words: an *item* is one task of the dataset, a *trial* is one try of it. With `repeats: 3` an item has three trials,
//! and passes only when all of them pass: an agent that is right two times in three is not right.

mod api;
mod clock;
pub mod dataset;
mod http;
pub mod judge;
pub mod report;
pub mod runner;
pub mod score;
mod secret;
mod text;

#[cfg(test)]
mod fake;

use std::path::PathBuf;

pub use dataset::{Dataset, Problem};
pub use judge::JudgeProvider;
pub use report::Report;
pub use runner::{EvalOptions, Progress, run};
pub use secret::Secret;

/// Why there is no report. An agent that answers wrongly is not an error: that is what the report says.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    #[error("cannot read {}: {reason}", path.display())]
    Unreadable { path: PathBuf, reason: String },
    #[error("{}", problem_lines(path, problems))]
    Invalid { path: PathBuf, problems: Vec<Problem> },
    #[error("--url: {0}; give the address of a running Steadfast, such as http://127.0.0.1:8080")]
    BadUrl(String),
    #[error("no Steadfast answers at {url}: {reason}; start one with `steadfast dev`, or give its address with --url")]
    Unreachable { url: String, reason: String },
    #[error("OPENAI_BASE_URL: {0}; give the address of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1")]
    BadJudgeUrl(String),
    #[error("cannot set up the HTTP client: {0}")]
    HttpClient(String),
}

fn problem_lines(path: &std::path::Path, problems: &[Problem]) -> String {
    let lines: Vec<String> = problems
        .iter()
        .map(|problem| {
            format!(
                "{}:{}:{}: {}",
                path.display(),
                problem.line,
                problem.column,
                problem.message
            )
        })
        .collect();
    lines.join("\n")
}
