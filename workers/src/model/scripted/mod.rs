//! The built-in model, for use without a key.
//!
//! It says what it is, and really calls the tools it is offered, so that the first run shows the whole path. The same
//! conversation always gets the same answer.

mod plan;

#[cfg(test)]
mod tests;

use std::time::Duration;

use async_trait::async_trait;
use steadfast::run::{ModelReply, Usage};
use tokio::time::Instant;

use super::{Model, ModelError, ModelRequest};
use plan::Plan;

/// Slow enough for the eye to see that the answer streams.
const WORD_PAUSE: Duration = Duration::from_millis(15);
const CHARS_PER_TOKEN: u64 = 4;

#[derive(Debug, Clone)]
pub struct Scripted {
    word_pause: Duration,
}

impl Default for Scripted {
    fn default() -> Self {
        Self { word_pause: WORD_PAUSE }
    }
}

impl Scripted {
    /// What an agent file says to get it.
    pub const NAME: &str = "scripted";

    pub fn new(word_pause: Duration) -> Self {
        Self { word_pause }
    }
}

#[async_trait]
impl Model for Scripted {
    async fn call(
        &self,
        request: &ModelRequest,
        on_text: &mut (dyn for<'t> FnMut(&'t str) + Send),
    ) -> Result<ModelReply, ModelError> {
        let started = Instant::now();
        let conversation = request.conversation();
        let Plan { text, tool_calls } = plan::plan(&conversation, &request.tools);
        let mut first_token_ms = None;
        for word in text.split_inclusive(' ') {
            if first_token_ms.is_some() && !self.word_pause.is_zero() {
                tokio::time::sleep(self.word_pause).await;
            }
            on_text(word);
            first_token_ms.get_or_insert_with(|| elapsed_ms(started));
        }
        let shown = conversation.iter().map(|message| message.content());
        let asked = tool_calls
            .iter()
            .flat_map(|call| [call.name.as_str(), call.arguments.as_str()]);
        Ok(ModelReply {
            usage: Usage {
                input_tokens: tokens(shown),
                output_tokens: tokens(asked.chain([text.as_str()])),
                cost_microusd: 0,
            },
            model: Self::NAME.into(),
            provider_id: None,
            finish_reason: Some(if tool_calls.is_empty() { "stop" } else { "tool_calls" }.into()),
            latency_ms: elapsed_ms(started),
            first_token_ms,
            deltas: Vec::new(),
            text,
            tool_calls,
        })
    }

    fn name(&self) -> &str {
        Self::NAME
    }
}

fn elapsed_ms(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

fn tokens<'t>(texts: impl Iterator<Item = &'t str>) -> u64 {
    (texts.map(|text| text.chars().count() as u64).sum::<u64>()).div_ceil(CHARS_PER_TOKEN)
}
