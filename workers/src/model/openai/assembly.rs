//! From chunks to a reply. Pure: no clock, no network.

use std::borrow::Cow;

use steadfast::run::{ModelReply, ToolCall, Usage};

use super::super::{ErrorClass, ModelError, ModelRequest};
use super::{
    chunk::{Chunk, Fragment, Tokens},
    fault,
};

/// More calls in one turn than any model means.
const TOOL_CALLS_MAX: usize = 128;
/// About a million tokens: text, and arguments of calls, together.
const REPLY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The usual rule of thumb, where a server does not count.
const CHARS_PER_TOKEN: u64 = 4;

/// An answer as far as it has come.
#[derive(Default)]
pub struct Assembly {
    text: String,
    calls: Vec<Call>,
    bytes: usize,
    usage: Option<Usage>,
    model: Option<String>,
    provider_id: Option<String>,
    finish_reason: Option<String>,
    finished: bool,
    mould: Mould,
}

#[derive(Default)]
struct Call {
    index: Option<u64>,
    call: ToolCallParts,
}

#[derive(Default)]
struct ToolCallParts {
    id: String,
    name: String,
    arguments: String,
}

/// A chunk that added text and nothing else, without its text. Nearly all chunks of an answer are the same but for that, and what
/// is the same need not be read again.
#[derive(Default)]
struct Mould {
    before: String,
    after: String,
}

impl Mould {
    /// The text of a chunk that is the same otherwise.
    fn text<'a>(&self, data: &'a str) -> Option<&'a str> {
        // Empty: there is none yet.
        let before = Some(&*self.before).filter(|before| !before.is_empty())?;
        let text = data.strip_prefix(before)?.strip_suffix(&*self.after)?;
        // What a string of JSON holds as it is (RFC 8259, section 7).
        let is_plain = |byte: u8| byte >= b' ' && byte != b'"' && byte != b'\\';
        text.bytes().all(is_plain).then_some(text)
    }

    /// `text` is what `data` holds of it, as it stands there.
    fn take(&mut self, data: &str, text: &str) {
        let start = text.as_ptr().addr().wrapping_sub(data.as_ptr().addr());
        let around = data.get(..start).zip(data.get(start.saturating_add(text.len())..));
        let (before, after) = around.unwrap_or_default();
        before.clone_into(&mut self.before);
        after.clone_into(&mut self.after);
    }
}

/// What one chunk added.
#[derive(Default, PartialEq, Debug)]
pub struct Taken<'a> {
    pub text: Cow<'a, str>,
    /// The model is at work: text, a piece of a call, or a thought.
    pub is_output: bool,
}

impl Assembly {
    pub fn take<'a>(&mut self, data: &'a str) -> Result<Taken<'a>, ModelError> {
        let Some(text) = self.mould.text(data) else {
            return self.read(data);
        };
        self.grow(text.len())?;
        self.text.push_str(text);
        Ok(Taken {
            text: text.into(),
            is_output: !text.is_empty(),
        })
    }

    fn read<'a>(&mut self, data: &'a str) -> Result<Taken<'a>, ModelError> {
        // serde would read a list as a struct, too.
        let chunk = Some(data).filter(|data| data.trim_start().starts_with('{'));
        let chunk: Option<Chunk<'a>> = chunk.and_then(|data| serde_json::from_str(data).ok());
        let Some(chunk) = chunk else {
            return Err(ModelError::new(
                ErrorClass::Malformed,
                "a chunk of the model's answer is not the JSON it should be",
            ));
        };
        if !chunk.error.is_null() {
            return Err(fault::of_error_object(&chunk.error));
        }
        self.model = self.model.take().or_else(|| chunk.model.filled());
        self.provider_id = self.provider_id.take().or_else(|| chunk.id.filled());
        self.usage = chunk.usage.as_ref().and_then(counted).or(self.usage);
        let mut taken = Taken::default();
        // We ask for one choice; a server that sends more has answered once all the same.
        let Some(choice) = chunk.choices.unwrap_or_default().into_iter().next() else {
            return Ok(taken);
        };
        let reason = choice.finish_reason.filled();
        if let Some(delta) = choice.delta.or(choice.message) {
            taken.text = delta.text();
            let fragments = delta.tool_calls.as_deref().unwrap_or_default();
            taken.is_output = !taken.text.is_empty() || !fragments.is_empty() || delta.is_thinking();
            for fragment in fragments {
                self.take_fragment(fragment)?;
            }
            self.grow(taken.text.len())?;
            self.text.push_str(&taken.text);
            let only_text = fragments.is_empty() && !delta.is_thinking() && reason.is_none() && chunk.usage.is_none();
            match taken.text {
                Cow::Borrowed(text) if only_text && !text.is_empty() => self.mould.take(data, text),
                _ => {}
            }
        }
        if let Some(reason) = reason {
            self.finished = true;
            self.finish_reason = Some(reason);
        }
        Ok(taken)
    }

    /// The server says that this was all.
    pub fn end(&mut self) {
        self.finished = true;
    }

    pub fn is_finished(&self) -> bool {
        self.finished
    }

    pub fn has_text(&self) -> bool {
        !self.text.is_empty()
    }

    /// The reply without its times.
    pub fn reply(self, request: &ModelRequest) -> Result<ModelReply, ModelError> {
        let reason = self.finish_reason.as_deref().unwrap_or("none given");
        let malformed = |message: String| Err(ModelError::new(ErrorClass::Malformed, message));
        if self.text.is_empty() && self.calls.is_empty() {
            return match reason {
                "content_filter" => Err(ModelError::new(
                    ErrorClass::Rejected,
                    "the provider's content filter withheld the answer",
                )),
                _ => malformed(format!(
                    "the model answered with neither text nor a tool call (finish reason: {reason})"
                )),
            };
        }
        if self.calls.iter().any(|call| call.call.name.is_empty()) {
            return malformed("the model asked for a tool without naming it".into());
        }
        let usage = self.usage.unwrap_or_else(|| self.estimate(request));
        let tool_calls = self.calls.into_iter().map(|call| finished_call(call.call)).collect();
        Ok(ModelReply {
            text: self.text,
            tool_calls,
            usage,
            model: self.model.unwrap_or_else(|| request.model.clone()),
            provider_id: self.provider_id,
            finish_reason: self.finish_reason,
            ..Default::default()
        })
    }

    fn take_fragment(&mut self, fragment: &Fragment) -> Result<(), ModelError> {
        let (id, name, arguments) = (fragment.id(), fragment.name(), fragment.arguments());
        self.grow(id.len() + name.len() + arguments.len())?;
        // With an index it belongs to the call of that index, without one to the last. Some servers number all calls
        // 0: another id is another call, whatever the index.
        let same = |call: &Call| match fragment.index() {
            Some(index) => call.index == Some(index),
            None => id.is_empty() || call.call.id == id,
        };
        let known = (self.calls.iter().rposition(same))
            .filter(|at| id.is_empty() || self.calls[*at].call.id.is_empty() || self.calls[*at].call.id == id);
        let at = match known {
            Some(at) => at,
            None if self.calls.len() == TOOL_CALLS_MAX => {
                let message = format!("the model asked for more than {TOOL_CALLS_MAX} tools at once");
                return Err(ModelError::new(ErrorClass::Malformed, message));
            }
            None => {
                self.calls.push(Call {
                    index: fragment.index(),
                    ..Default::default()
                });
                self.calls.len() - 1
            }
        };
        let call = &mut self.calls[at].call;
        if call.id.is_empty() {
            call.id = id;
        }
        // Some servers repeat the name with every piece of the arguments.
        if call.name != name {
            call.name.push_str(&name);
        }
        call.arguments.push_str(&arguments);
        Ok(())
    }

    fn grow(&mut self, bytes: usize) -> Result<(), ModelError> {
        self.bytes += bytes;
        if self.bytes <= REPLY_BYTES_MAX {
            return Ok(());
        }
        let message = format!("the model's answer has more than {REPLY_BYTES_MAX} bytes");
        Err(ModelError::new(ErrorClass::Malformed, message))
    }

    fn estimate(&self, request: &ModelRequest) -> Usage {
        let shown: usize = request
            .messages
            .iter()
            .map(|message| message.content().chars().count())
            .sum();
        let tools: usize = request
            .tools
            .iter()
            .map(|tool| tool.description.len() + tool.parameters.to_string().len())
            .sum();
        let calls: usize = self
            .calls
            .iter()
            .map(|call| call.call.name.len() + call.call.arguments.chars().count())
            .sum();
        tracing::debug!(model = %request.model, "the provider sent no usage; tokens are estimated from characters");
        Usage {
            input_tokens: (shown + tools) as u64 / CHARS_PER_TOKEN,
            output_tokens: ((self.text.chars().count() + calls) as u64).div_ceil(CHARS_PER_TOKEN),
            cost_microusd: 0,
        }
    }
}

/// Counts that make no sense are as good as none.
fn counted(tokens: &Tokens) -> Option<Usage> {
    let (input_tokens, output_tokens) = (tokens.prompt_tokens.as_u64()?, tokens.completion_tokens.as_u64()?);
    // Neither column of the log nor any provider goes further.
    let sane = input_tokens.max(output_tokens) <= u64::from(u32::MAX) && input_tokens + output_tokens > 0;
    sane.then_some(Usage {
        input_tokens,
        output_tokens,
        cost_microusd: 0,
    })
}

fn finished_call(call: ToolCallParts) -> ToolCall {
    let arguments = if call.arguments.trim().is_empty() {
        "{}".into()
    } else {
        call.arguments
    };
    ToolCall {
        id: call.id,
        name: call.name,
        arguments,
    }
}
