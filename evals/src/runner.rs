//! Runs every trial of a dataset, a few conversations at a time.
//!
//! Items that name a session are one conversation and run one after the other in the order of the file; every repeat
//! is a conversation of its own. Everything else runs side by side, up to `concurrency`.

use std::{collections::HashMap, path::PathBuf, time::Duration};

use chrono::{DateTime, Utc};
use futures::StreamExt;
use serde_json::json;
use steadfast::run::Status;
use tokio::time::Instant;

use crate::{
    EvalError,
    api::{Api, RunView},
    clock,
    dataset::{Dataset, Input, Item},
    http,
    judge::{Case, Judge, JudgeProvider},
    report::{Report, Trial},
    score::{self, Score},
    secret::Secret,
};

/// For reading the events of a run that has ended.
const EVENTS_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, Clone)]
pub struct EvalOptions {
    /// The dataset.
    pub file: PathBuf,
    /// A running Steadfast, such as `http://127.0.0.1:8080`.
    pub url: String,
    /// Sent as a bearer token: an API key or a JWT.
    pub api_key: Option<Secret>,
    pub judge: Option<JudgeProvider>,
}

/// What happens while it happens.
#[derive(Debug, Clone, PartialEq)]
pub enum Progress {
    Started {
        name: String,
        agent: String,
        items: usize,
        trials: usize,
    },
    TrialEnded {
        done: usize,
        trials: usize,
        item: String,
        repeat: u32,
        passed: bool,
        error: Option<String>,
        latency_ms: u64,
    },
}

/// Runs a dataset against a running Steadfast. An agent that answers wrongly is no error: see [`Report::passed`].
pub async fn run(options: EvalOptions, mut progress: impl FnMut(Progress)) -> Result<Report, EvalError> {
    let dataset = Dataset::load(&options.file, options.judge.as_ref()).await?;
    let client = http::client()?;
    let api = Api::new(client.clone(), &options.url, options.api_key)?;
    let judge = match (&dataset.judge, &options.judge) {
        (Some(spec), Some(provider)) => Some(Judge::new(client, provider, spec.clone())?),
        _ => None,
    };
    api.reach().await.map_err(|reason| EvalError::Unreachable {
        url: shown(&options.url),
        reason,
    })?;

    let started_at = clock::now();
    let bench = Bench {
        api: &api,
        judge: judge.as_ref(),
        dataset: &dataset,
        started_at,
    };
    let trials = dataset.trials();
    progress(Progress::Started {
        name: dataset.name.clone(),
        agent: dataset.agent.clone(),
        items: dataset.items.len(),
        trials,
    });
    let mut ended: Vec<(usize, Trial)> = Vec::with_capacity(trials);
    let mut conversations = futures::stream::iter(conversations(&dataset))
        .map(|conversation| bench.converse(conversation))
        .buffer_unordered(dataset.concurrency);
    while let Some(conversation) = conversations.next().await {
        for (item, trial) in conversation {
            progress(Progress::TrialEnded {
                done: ended.len() + 1,
                trials,
                item: dataset.items[item].id.clone(),
                repeat: trial.repeat,
                passed: trial.passed,
                error: trial.error.clone(),
                latency_ms: trial.latency_ms,
            });
            ended.push((item, trial));
        }
    }
    drop(conversations);
    Ok(Report::new(&dataset, started_at, clock::now(), ended))
}

/// The address without what may be a password in it.
fn shown(url: &str) -> String {
    match url
        .split_once("://")
        .and_then(|(scheme, rest)| Some((scheme, rest.rsplit_once('@')?)))
    {
        Some((scheme, (_, host))) => format!("{scheme}://{host}"),
        None => url.into(),
    }
}

/// Items (by their place in the dataset) that run one after the other.
#[derive(Debug, PartialEq)]
struct Conversation {
    repeat: u32,
    items: Vec<usize>,
}

fn conversations(dataset: &Dataset) -> Vec<Conversation> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut group_of = HashMap::new();
    for (at, item) in dataset.items.iter().enumerate() {
        let next = groups.len();
        let group = item
            .session
            .as_deref()
            .map_or(next, |session| *group_of.entry(session).or_insert(next));
        if group == next {
            groups.push(Vec::new());
        }
        groups[group].push(at);
    }
    let repeat = |repeat| {
        groups.iter().map(move |items| Conversation {
            repeat,
            items: items.clone(),
        })
    };
    (1..=dataset.repeats).flat_map(repeat).collect()
}

struct Bench<'a> {
    api: &'a Api,
    judge: Option<&'a Judge>,
    dataset: &'a Dataset,
    started_at: DateTime<Utc>,
}

impl Bench<'_> {
    async fn converse(&self, conversation: Conversation) -> Vec<(usize, Trial)> {
        let mut trials = Vec::with_capacity(conversation.items.len());
        let mut session_id: Option<String> = None;
        let mut earlier: Vec<(Input, String)> = Vec::new();
        for at in conversation.items {
            let item = &self.dataset.items[at];
            let mut trial = Trial::new(conversation.repeat);
            let broken_off = !trials.is_empty() && earlier.len() < trials.len();
            if broken_off {
                trial.error = Some("not run: an earlier item of its session did not complete".into());
            } else {
                self.attempt(at, item, session_id.as_deref(), &earlier, &mut trial)
                    .await;
            }
            session_id = trial.session_id.clone().or(session_id);
            trial.passed = trial.error.is_none() && trial.scores.iter().all(|score| score.pass);
            if let (Some(output), None) = (&trial.output, &trial.error) {
                earlier.push((item.input.clone(), output.clone()));
            }
            trials.push((at, trial));
        }
        trials
    }

    async fn attempt(
        &self,
        at: usize,
        item: &Item,
        session_id: Option<&str>,
        earlier: &[(Input, String)],
        trial: &mut Trial,
    ) {
        let began = Instant::now();
        let ended = self
            .drive(at, item, session_id, began + self.dataset.timeout, trial)
            .await;
        trial.latency_ms = began.elapsed().as_millis().try_into().unwrap_or(u64::MAX);
        match ended {
            Ok(output) => trial.output = Some(output),
            Err(reason) => {
                trial.error = Some(reason);
                return;
            }
        }
        match self
            .api
            .tool_calls(&trial.run_id, Instant::now() + EVENTS_TIMEOUT)
            .await
        {
            Ok(calls) => trial.tool_calls = calls,
            Err(reason) => {
                trial.error = Some(reason);
                return;
            }
        }
        trial.scores = self.score(item, earlier, trial).await;
    }

    /// From the post to the end of the run: its output, or why there is none.
    async fn drive(
        &self,
        at: usize,
        item: &Item,
        session_id: Option<&str>,
        deadline: Instant,
        trial: &mut Trial,
    ) -> Result<String, String> {
        let metadata = json!({"eval": self.dataset.name, "item": item.id, "repeat": trial.repeat});
        // Unique to this trial of this evaluation, and the same for every try of posting it.
        let key = format!(
            "eval-{}-{}-{}-{at}-{}",
            &self.dataset.sha256[..16],
            self.started_at.timestamp_micros(),
            std::process::id(),
            trial.repeat
        );
        let created = self
            .api
            .create(&self.dataset.agent, &item.input, session_id, metadata, &key, deadline)
            .await?;
        trial.run_id = created.id;
        trial.session_id = Some(created.session_id);
        match self.api.wait(&trial.run_id, deadline).await? {
            Some(run) => {
                trial.status = Some(run.status);
                trial.usage = run.usage.unwrap_or_default();
                outcome(run)
            }
            None => {
                self.api.cancel(&trial.run_id).await;
                Err(format!(
                    "the run did not end within {} s (timeout_seconds)",
                    self.dataset.timeout.as_secs()
                ))
            }
        }
    }

    async fn score(&self, item: &Item, earlier: &[(Input, String)], trial: &Trial) -> Vec<Score> {
        let output = trial.output.as_deref().unwrap_or_default();
        let mut scores = Vec::new();
        if let Some(expected) = &item.expected {
            scores.extend(score::text::scores(expected, output));
        }
        if let Some(trajectory) = &item.trajectory {
            scores.push(score::trajectory::score(trajectory, &trial.tool_calls));
        }
        if let (true, Some(judge)) = (item.judge, self.judge) {
            let expected = item.expected.as_ref();
            let case = Case {
                earlier,
                input: &item.input,
                output,
                expected,
                tools_called: &trial.tool_calls,
            };
            scores.push(judge.score(&case).await);
        }
        scores
    }
}

fn outcome(run: RunView) -> Result<String, String> {
    match (run.status, run.output, run.error) {
        (Status::Completed, Some(output), _) => Ok(output),
        (Status::Completed, None, _) => Err("the run completed without an output".into()),
        (status, _, Some(error)) => Err(format!("the run {status}: {}: {}", error.code, error.message)),
        (status, _, None) => Err(format!("the run {status}")),
    }
}

#[cfg(test)]
mod tests;
