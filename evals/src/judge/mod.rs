//! A model as the judge of an answer.
//!
//! The judge is asked an odd number of times at temperature 0; a majority of *all* times decides, so a judge that
//! cannot be reached or does not keep to the form can only take a pass away, never give one. Where errors leave no
//! majority, the score is an error. Every score records the model and the hash of its instructions, rubric included:
//! two scores with different hashes were not given by the same judge.

mod prompt;
mod verdict;

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;

pub use prompt::Case;

use crate::{
    EvalError,
    dataset::JudgeSpec,
    http::{Http, send},
    score::Score,
    secret::Secret,
};

const CALL_TIMEOUT: Duration = Duration::from_secs(120);
const OPENAI_BASE_URL: &str = "https://api.openai.com/v1";

/// Where a judge is asked: an OpenAI-compatible server.
#[derive(Debug, Clone)]
pub struct JudgeProvider {
    pub base_url: String,
    pub api_key: Option<Secret>,
    /// Used where the dataset names no model.
    pub model: Option<String>,
}

impl JudgeProvider {
    /// From the values of `OPENAI_BASE_URL`, `OPENAI_API_KEY` and `STEADFAST_MODEL`; empty counts as not set. A key
    /// alone means OpenAI itself; with neither there is no judge.
    pub fn from_values(base_url: Option<String>, api_key: Option<String>, model: Option<String>) -> Option<Self> {
        let set = |value: Option<String>| value.filter(|value| !value.trim().is_empty());
        let (base_url, api_key) = (set(base_url), set(api_key));
        if base_url.is_none() && api_key.is_none() {
            return None;
        }
        let base_url = base_url.unwrap_or_else(|| OPENAI_BASE_URL.into());
        Some(Self {
            base_url,
            api_key: api_key.map(Secret::new),
            model: set(model),
        })
    }
}

/// Who judged, and what was said each time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JudgeRecord {
    pub model: String,
    /// SHA-256 of the judge's instructions, rubric included, in hex.
    pub prompt_sha256: String,
    pub pass_score: u8,
    pub samples: Vec<Sample>,
}

/// One answer of the judge, or the reason why there is none.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Sample {
    Verdict { reason: String, score: u8 },
    Failed { error: String },
}

pub struct Judge {
    http: Http,
    spec: JudgeSpec,
    instructions: String,
    prompt_sha256: String,
    /// The server does not know `response_format`; it is not sent again.
    plain: AtomicBool,
}

#[derive(Deserialize)]
struct Completion {
    choices: Vec<Choice>,
}

#[derive(Deserialize)]
struct Choice {
    message: Reply,
}

#[derive(Deserialize)]
struct Reply {
    content: Option<String>,
}

impl Judge {
    pub fn new(client: reqwest::Client, provider: &JudgeProvider, spec: JudgeSpec) -> Result<Self, EvalError> {
        let http = Http::new(client, &provider.base_url, provider.api_key.clone()).map_err(EvalError::BadJudgeUrl)?;
        let instructions = prompt::instructions(&spec.rubric);
        let prompt_sha256 = prompt::sha256(&instructions);
        Ok(Self {
            http,
            spec,
            instructions,
            prompt_sha256,
            plain: AtomicBool::new(false),
        })
    }

    pub async fn score(&self, case: &Case<'_>) -> Score {
        let question = prompt::question(case);
        let mut samples = Vec::with_capacity(self.spec.samples);
        for _ in 0..self.spec.samples {
            samples.push(match self.ask(&question).await {
                Ok((reason, score)) => Sample::Verdict { reason, score },
                Err(error) => Sample::Failed { error },
            });
        }
        verdict::settle(JudgeRecord {
            model: self.spec.model.clone(),
            prompt_sha256: self.prompt_sha256.clone(),
            pass_score: self.spec.pass_score,
            samples,
        })
    }

    async fn ask(&self, question: &str) -> Result<(String, u8), String> {
        const WHAT: &str = "the judge";
        let deadline = Instant::now() + CALL_TIMEOUT;
        let mut answer = None;
        if !self.plain.load(Ordering::Relaxed) {
            let formatted = self.http.post("/chat/completions", &self.body(question, true));
            let first = send(formatted, WHAT, deadline).await?;
            if matches!(first.status.as_u16(), 400 | 415 | 422 | 501) {
                self.plain.store(true, Ordering::Relaxed);
            } else {
                answer = Some(first);
            }
        }
        let answer = match answer {
            Some(answer) => answer,
            None => {
                send(
                    self.http.post("/chat/completions", &self.body(question, false)),
                    WHAT,
                    deadline,
                )
                .await?
            }
        };
        let completion: Completion = answer.read(WHAT)?;
        let content = completion
            .choices
            .into_iter()
            .next()
            .and_then(|choice| choice.message.content);
        verdict::parse(&content.ok_or("the judge answered without text")?)
    }

    fn body(&self, question: &str, formatted: bool) -> Value {
        let mut body = json!({
            "model": self.spec.model,
            "temperature": 0,
            "messages": [
                {"role": "system", "content": self.instructions},
                {"role": "user", "content": question},
            ],
        });
        if formatted {
            body["response_format"] = prompt::response_format();
        }
        body
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_is_what_the_environment_names() {
        let provider = |url: &str, key: &str| JudgeProvider::from_values(Some(url.into()), Some(key.into()), None);
        assert!(JudgeProvider::from_values(None, None, Some("m".into())).is_none());
        assert!(provider("", " ").is_none());
        assert_eq!(provider("", "sk").expect("a key").base_url, OPENAI_BASE_URL);
        let local = provider("http://127.0.0.1:1/v1", "").expect("an address");
        assert_eq!(
            (local.base_url.as_str(), local.api_key),
            ("http://127.0.0.1:1/v1", None)
        );
    }
}
