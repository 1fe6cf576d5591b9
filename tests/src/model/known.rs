//! What was read of long conversations: the next request of one brings all of it again. Providers keep prompts as well.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;

use super::request::{Request, SoFar};

/// Shorter requests are read again as fast.
const BYTES_MIN: usize = 16 * 1024;
/// The one that was asked for least recently is forgotten.
const CONVERSATIONS_MAX: usize = 64;

#[derive(Default)]
pub(crate) struct Known(VecDeque<Conversation>);

struct Conversation {
    body: Bytes,
    /// Where its messages begin and end in the body; nothing but the end of the body follows.
    first: usize,
    end: usize,
    so_far: Arc<SoFar>,
}

/// A request without the messages that were read before.
pub(crate) struct Rest {
    pub body: Vec<u8>,
    pub so_far: Arc<SoFar>,
}

impl Known {
    pub fn rest(&self, body: &[u8]) -> Option<Rest> {
        if body.len() < BYTES_MIN {
            return None;
        }
        let known = self.0.iter().find(|known| body.starts_with(&known.body[..known.end]))?;
        let more = &body[known.end..];
        // More of them, or none; else the last one was longer than it looked.
        let more = more.strip_prefix(b",").or(more.starts_with(b"]").then_some(more))?;
        Some(Rest {
            body: [&body[..known.first], more].concat(),
            so_far: known.so_far.clone(),
        })
    }

    /// `read` was made of `body`, or of the rest of it, and is a whole history.
    pub fn keep(&mut self, body: &Bytes, read: &Request) {
        if body.len() < BYTES_MIN || !read.ends_with_messages {
            return;
        }
        let so_far = Arc::new(read.so_far());
        self.0.retain(|known| !body.starts_with(&known.body[..known.end]));
        self.0.truncate(CONVERSATIONS_MAX - 1);
        self.0.push_front(Conversation {
            body: body.clone(),
            first: read.messages_at,
            end: body.len() - "]}".len(),
            so_far,
        });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn body(messages: &[Value]) -> Bytes {
        let messages = json!(messages);
        format!(r#"{{"model":"m","tools":[{{"messages":[]}}],"messages":{messages}}}"#).into()
    }

    /// What is looked at, and how many messages were read for it.
    fn read(known: &mut Known, body: &Bytes) -> ((usize, usize, String, String, Option<String>), usize) {
        let rest = known.rest(body);
        let text = rest.as_ref().map_or(&body[..], |rest| &rest.body);
        let before = rest.as_ref().map(|rest| &*rest.so_far);
        let request = Request::read(text, before).expect("JSON");
        let seen = (
            request.message_count(),
            request.steps_taken(),
            request.user_text().expect("text"),
            request.last_role().to_owned(),
            request.refusal(),
        );
        if seen.4.is_none() {
            known.keep(body, &request);
        }
        (seen, request.messages.len())
    }

    #[test]
    fn only_what_is_new_is_read_and_it_says_the_same() {
        let call = |id: usize| {
            json!({"role": "assistant", "content": null,
                "tool_calls": [{"id": id.to_string(), "function": {"name": "f", "arguments": "{}"}}]})
        };
        let result = |id: usize| json!({"role": "tool", "tool_call_id": id.to_string(), "content": "ok"});
        let long = "x".repeat(BYTES_MIN);
        let mut messages = vec![
            json!({"role": "system", "content": long}),
            json!({"role": "user", "content": "go"}),
        ];
        let mut known = Known::default();
        let mut expect_read = messages.len();
        for step in 0..5 {
            if step == 3 {
                messages.extend([
                    json!({"role": "assistant", "content": "so"}),
                    json!({"role": "user", "content": "on"}),
                ]);
                expect_read += 2;
            }
            let all = body(&messages);
            let (seen, read_now) = read(&mut known, &all);
            assert_eq!(
                (&seen, read_now),
                (&read(&mut Known::default(), &all).0, expect_read),
                "step {step}"
            );
            assert_eq!(seen.4, None);
            // Asked again, it knows all of it.
            assert_eq!(read(&mut known, &all), (seen, 0));
            // Another end of the same conversation is another conversation.
            messages.push(call(step));
            assert!(
                read(&mut known, &body(&messages)).0.4.is_some(),
                "a call without its result"
            );
            messages.push(result(step));
            expect_read = 2;
        }
        assert_eq!(known.0.len(), 1);
        messages.push(result(99));
        assert!(
            read(&mut known, &body(&messages)).0.4.is_some(),
            "a result nobody asked for"
        );
        // A message that only begins alike is not the known one.
        let longer = body(&messages[..2]).to_vec();
        let longer = String::from_utf8(longer).expect("text").replace("\"go\"", "\"go on\"");
        assert_eq!(read(&mut known, &longer.into()).1, 2);
    }
}
