//! Scores, and the scorers that need nothing but what a run left behind.

pub mod text;
pub mod trajectory;

use serde::Serialize;

use crate::judge::JudgeRecord;

/// One opinion on one answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Score {
    /// `exact`, `contains`, `contains_any`, `trajectory` or `judge`.
    pub name: String,
    /// 0 or 1; for a judge its score, 1 to 5, or 0 where it gave none.
    pub value: f64,
    pub pass: bool,
    pub explanation: String,
    /// The scorer itself failed. It counts as not passed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Which judge, and what it said each time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub judge: Option<JudgeRecord>,
}

impl Score {
    fn of(name: &str, verdict: Result<String, String>) -> Self {
        let pass = verdict.is_ok();
        let (Ok(explanation) | Err(explanation)) = verdict;
        let value = if pass { 1.0 } else { 0.0 };
        Self {
            name: name.into(),
            value,
            pass,
            explanation,
            error: None,
            judge: None,
        }
    }
}
