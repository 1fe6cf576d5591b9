//! The agent: a versioned definition of who answers, with what, and within which limits.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

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
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentTool {
    pub name: String,
    /// Running it twice does no harm. A call to any other tool is never repeated after a crash cut it off.
    pub retry_safe: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    pub input_usd_per_million: f64,
    pub output_usd_per_million: f64,
}

/// Every run has an end: these are the walls. Each has a name in the error that reports it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Model calls that answered.
    pub steps_max: u32,
    /// From request to end, waiting included.
    pub run_seconds_max: u64,
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
            output_tokens_max: 4096,
            model_attempts_max: 8,
            claims_max: 10,
            history_turns_max: 50,
            history_chars_max: 100_000,
        }
    }
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
    if digits.len() != 2 * bytes.len() || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}
