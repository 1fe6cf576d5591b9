//! The dataset: which tasks, what is expected of the answers, and how many must be right.
//!
//! ```yaml
//! name: assistant
//! agent: assistant
//! items:
//!   - id: multiplication
//!     input: What is 6 * 7?
//!     expected: { contains: "42" }
//!     trajectory: { mode: strict, tools: [{ name: calculator }] }
//! ```
//!
//! `examples/assistant.yaml` shows every key.

mod fields;
mod read;
#[cfg(test)]
mod tests;
mod yaml;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Serialize;
use sha2::{Digest, Sha256};
use steadfast::run::{Message, agent::hex};
use tokio::io::AsyncReadExt;

use crate::{EvalError, JudgeProvider, score::trajectory::Trajectory};

pub const DATASET_BYTES_MAX: u64 = 4 * 1024 * 1024;
pub const RUBRIC_BYTES_MAX: u64 = 64 * 1024;
pub const ITEMS_MAX: usize = 10_000;
/// In one trajectory.
pub const TOOLS_MAX: usize = 256;
pub const REPEATS_MAX: u32 = 100;
pub const CONCURRENCY_MAX: usize = 64;
pub const TIMEOUT_SECONDS_MAX: u64 = 3600;
pub const JUDGE_SAMPLES_MAX: usize = 9;

const CONCURRENCY_DEFAULT: usize = 4;
const TIMEOUT_SECONDS_DEFAULT: u64 = 120;
const JUDGE_SAMPLES_DEFAULT: usize = 3;
/// On the judge's scale of 1 to 5.
const PASS_SCORE_DEFAULT: u8 = 4;

/// Something wrong in the file: where, what, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub line: usize,
    pub column: usize,
    pub message: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    pub name: String,
    pub agent: String,
    /// Conversations at the same time.
    pub concurrency: usize,
    /// Trials of each item.
    pub repeats: u32,
    /// The share of items that must pass, 0 to 1.
    pub threshold: f64,
    /// From posting a task to its end.
    pub timeout: Duration,
    pub judge: Option<JudgeSpec>,
    pub items: Vec<Item>,
    /// SHA-256 of the file's bytes, in hex.
    pub sha256: String,
}

/// How the judge judges.
#[derive(Debug, Clone, PartialEq)]
pub struct JudgeSpec {
    pub rubric: String,
    pub model: String,
    /// Times the judge is asked about one answer; odd, so that there is a majority.
    pub samples: usize,
    pub pass_score: u8,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    pub id: String,
    pub input: Input,
    /// Items that name the same session are one conversation, in the order of the file.
    pub session: Option<String>,
    pub expected: Option<Expected>,
    pub trajectory: Option<Trajectory>,
    pub judge: bool,
}

/// A task, as the API takes it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Input {
    Text(String),
    Messages(Vec<Message>),
}

/// What the answer's text must be.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Expected {
    /// The answer is one of these, whole.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exact: Vec<String>,
    /// The answer contains every one of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub contains: Vec<String>,
    /// The answer contains at least one of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub contains_any: Vec<String>,
    /// White space around the text does not count.
    pub trim: bool,
    pub ignore_case: bool,
}

impl Dataset {
    /// Reads and checks a file. `provider` is where a judge would be asked; without one no item may ask for a judge.
    pub async fn load(path: &Path, provider: Option<&JudgeProvider>) -> Result<Self, EvalError> {
        let bytes = read_bounded(path, DATASET_BYTES_MAX).await?;
        let sha256 = hex(&Sha256::digest(&bytes));
        let invalid = |problems| EvalError::Invalid {
            path: path.into(),
            problems,
        };
        let text = std::str::from_utf8(&bytes).map_err(|error| {
            let line = bytes[..error.valid_up_to()]
                .iter()
                .filter(|byte| **byte == b'\n')
                .count()
                + 1;
            let message = "this line is not UTF-8; save the file as UTF-8".into();
            invalid(vec![Problem {
                line,
                column: 1,
                message,
            }])
        })?;
        let (mut draft, mut problems) = read::read(text);
        if let Some(judge) = &mut draft.judge {
            let wanted = draft.dataset.items.iter().any(|item| item.judge);
            if let Err(more) = settle_judge(judge, path, provider, wanted).await {
                problems.extend(more);
            }
        }
        if !problems.is_empty() {
            problems.sort_by_key(|problem| (problem.line, problem.column));
            return Err(invalid(problems));
        }
        let judge = draft.judge.map(|judge| judge.spec);
        Ok(Self {
            judge,
            sha256,
            ..draft.dataset
        })
    }

    pub fn trials(&self) -> usize {
        self.items.len() * self.repeats as usize
    }
}

/// Fills in what is not in the file itself: the rubric's text and, where the file names none, the model.
async fn settle_judge(
    judge: &mut read::JudgeDraft,
    dataset: &Path,
    provider: Option<&JudgeProvider>,
    wanted: bool,
) -> Result<(), Vec<Problem>> {
    let mut problems = Vec::new();
    if let Some(rubric) = &judge.rubric_path {
        let path: PathBuf = dataset.parent().unwrap_or(Path::new("")).join(rubric);
        let rubric = read_bounded(&path, RUBRIC_BYTES_MAX)
            .await
            .map_err(|error| match error {
                EvalError::Unreadable { path, reason } => {
                    format!("judge.rubric: cannot read {}: {reason}", path.display())
                }
                other => format!("judge.rubric: {other}"),
            });
        match rubric.map(String::from_utf8) {
            Ok(Ok(text)) if !text.trim().is_empty() => judge.spec.rubric = text,
            Ok(Ok(_)) => {
                let message = format!(
                    "judge.rubric: {} is empty; write what the judge is to look for",
                    path.display()
                );
                problems.push(judge.rubric_at.problem(message));
            }
            Ok(Err(_)) => {
                let message = format!("judge.rubric: {} is not UTF-8; save it as UTF-8", path.display());
                problems.push(judge.rubric_at.problem(message));
            }
            Err(message) => {
                let message = format!("{message}; the path is relative to the dataset");
                problems.push(judge.rubric_at.problem(message));
            }
        }
    }
    if wanted {
        if provider.is_none() {
            let message = "judge: no model to ask; set OPENAI_BASE_URL (and OPENAI_API_KEY, where the server wants one), \
                           or take judge: true off the items";
            problems.push(judge.at.problem(message));
        }
        if judge.spec.model.is_empty() {
            match provider.and_then(|provider| provider.model.clone()) {
                Some(model) => judge.spec.model = model,
                None => {
                    let message = "judge.model: missing; name the model that judges, or set STEADFAST_MODEL";
                    problems.push(judge.at.problem(message));
                }
            }
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

async fn read_bounded(path: &Path, bytes_max: u64) -> Result<Vec<u8>, EvalError> {
    let unreadable = |reason: String| EvalError::Unreadable {
        path: path.into(),
        reason,
    };
    let file = tokio::fs::File::open(path)
        .await
        .map_err(|error| unreadable(error.to_string()))?;
    let mut bytes = Vec::new();
    file.take(bytes_max + 1)
        .read_to_end(&mut bytes)
        .await
        .map_err(|error| unreadable(error.to_string()))?;
    if bytes.len() as u64 > bytes_max {
        return Err(unreadable(format!("it is larger than {bytes_max} bytes; split it")));
    }
    Ok(bytes)
}
