//! The agent: a versioned definition of who answers, with what, and within which limits.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Budget;

/// The provider of models that are named without one.
pub const DEFAULT_PROVIDER: &str = "default";

/// A definition as it is pinned by a run: kept once in the store under the hash of its bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agent {
    pub name: String,
    /// `provider/model`, or the model's name at the default provider; `default` means the one the installation is
    /// configured with.
    pub model: String,
    /// Models that are asked in this order where that one cannot answer. Tools and limits stay.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fallbacks: Vec<String>,
    pub instructions: String,
    /// Names of tools run by the worker.
    pub tools: Vec<AgentTool>,
    pub limits: Limits,
    /// What a million tokens cost, in US dollars, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<Price>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    #[serde(default)]
    pub policies: Policies,
    #[serde(default, skip_serializing_if = "Budget::is_default")]
    pub budget: Budget,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentTool {
    pub name: String,
    /// Running it twice does no harm. A call to any other tool is never repeated unasked after a crash cut it off.
    pub retry_safe: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    pub input_usd_per_million: f64,
    pub output_usd_per_million: f64,
}

impl Price {
    /// What tokens cost, in millionths of a dollar: dollars per million tokens are just that per token.
    pub fn microusd(&self, input_tokens: u64, output_tokens: u64) -> u64 {
        let cost =
            input_tokens as f64 * self.input_usd_per_million + output_tokens as f64 * self.output_usd_per_million;
        cost.round().max(0.0) as u64
    }
}

/// What happens to what a crash cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policies {
    /// A model call whose outcome is unknown. It is charged in any case.
    pub orphaned_call: OrphanedCall,
    /// A tool that must not run twice and had started.
    pub cut_off_tool: CutOffTool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OrphanedCall {
    /// It is made again.
    #[default]
    Retry,
    /// The run fails.
    Fail,
    /// The run waits for a person.
    Ask,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CutOffTool {
    /// The model is told, and goes on.
    Report,
    /// The run waits for a person.
    #[default]
    Ask,
}

/// What a run pins of its agent beside the limits.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Terms {
    #[serde(default)]
    pub policies: Policies,
    #[serde(default, skip_serializing_if = "Budget::is_default")]
    pub budget: Budget,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<Price>,
    /// Instructions and the client's tools, in bytes: what a model is shown besides the messages.
    #[serde(default)]
    pub prompt_bytes: u64,
}

/// Every run has an end: these are the walls. Each has a name in the error that reports it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Model calls that answered.
    pub steps_max: u32,
    /// From request to end, waiting included.
    pub run_seconds_max: u64,
    /// One step: a model call with its retries, and the tools a worker runs for it. A step that waited for a
    /// person, for the client or for a provider that is away is not measured.
    pub step_seconds_max: u64,
    /// One call of a tool run by the worker.
    pub tool_seconds_max: u64,
    /// Output tokens asked of one model call at the most; also what a call reserves.
    pub output_tokens_max: u32,
    /// Tries of one model call: the first, its retries, and the ones a crash cut off. Tries that failed because the
    /// provider is away or asked for patience do not count.
    pub model_attempts_max: u32,
    /// Claims of a run without progress in between, before it is called poison.
    pub claims_max: u32,
    /// Earlier turns of the session shown to the model.
    pub history_turns_max: u32,
    /// Earlier turns are cut, oldest first, to about this many characters.
    pub history_chars_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            steps_max: 25,
            run_seconds_max: 24 * 3600,
            step_seconds_max: 24 * 3600,
            tool_seconds_max: 60,
            output_tokens_max: 4096,
            model_attempts_max: 8,
            claims_max: 5,
            history_turns_max: 50,
            history_chars_max: 100_000,
        }
    }
}

impl Limits {
    /// `run_seconds_max`, within what a calendar holds.
    pub fn run_time(&self) -> chrono::TimeDelta {
        time(self.run_seconds_max)
    }

    /// `step_seconds_max`, likewise.
    pub fn step_time(&self) -> chrono::TimeDelta {
        time(self.step_seconds_max)
    }
}

fn time(seconds: u64) -> chrono::TimeDelta {
    const TEN_YEARS: i64 = 10 * 365 * 86_400;
    chrono::TimeDelta::seconds(i64::try_from(seconds).unwrap_or(i64::MAX).min(TEN_YEARS))
}

/// Which agent, and which version of it, a run pins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentRef {
    pub name: String,
    /// SHA-256 of the definition's canonical bytes, in hex: the key under which the store keeps it.
    pub version: String,
}

impl Agent {
    /// The bytes that are stored and hashed.
    pub fn canonical(&self) -> String {
        serde_json::to_string(self).expect("an agent has only string keys and finite numbers")
    }

    pub fn reference(&self) -> AgentRef {
        AgentRef {
            name: self.name.clone(),
            version: hex(&Sha256::digest(self.canonical())),
        }
    }
}

/// The bytes of a SHA-256 written in hex.
pub fn unhex(digits: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    ::hex::decode_to_slice(digits, &mut bytes).ok()?;
    Some(bytes)
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    ::hex::encode(bytes)
}
