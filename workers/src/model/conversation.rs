//! What a model is shown: again in each step of a run, and each time a little more.

use std::sync::{Arc, Mutex, PoisonError};

use steadfast::run::Message;

/// Messages in the order the model sees them, the system's first.
#[derive(Debug, Default)]
pub struct Conversation {
    messages: Vec<Arc<Message>>,
    written: Mutex<Written>,
}

/// The first messages as they are sent, so that a step writes only what is new. The same for every model: all that are
/// behind a wire speak the same API.
#[derive(Debug, Default, Clone)]
struct Written {
    messages: usize,
    json: Vec<u8>,
}

impl Conversation {
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Message> {
        self.messages.iter().map(|message| &**message)
    }

    /// Appends the messages to `out`, with commas between them; `write` says how one is sent.
    pub(super) fn write_json<E>(
        &self,
        out: &mut Vec<u8>,
        write: impl Fn(&Message) -> Result<Vec<u8>, E>,
    ) -> Result<(), E> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        for message in &self.messages[written.messages..] {
            let json = write(message)?;
            if written.messages > 0 {
                written.json.push(b',');
            }
            written.json.extend_from_slice(&json);
            written.messages += 1;
        }
        out.extend_from_slice(&written.json);
        Ok(())
    }
}

impl Extend<Arc<Message>> for Conversation {
    fn extend<T: IntoIterator<Item = Arc<Message>>>(&mut self, messages: T) {
        self.messages.extend(messages);
    }
}

impl FromIterator<Message> for Conversation {
    fn from_iter<T: IntoIterator<Item = Message>>(messages: T) -> Self {
        Self {
            messages: messages.into_iter().map(Arc::new).collect(),
            written: Mutex::default(),
        }
    }
}

impl Clone for Conversation {
    fn clone(&self) -> Self {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Self {
            messages: self.messages.clone(),
            written: Mutex::new(written),
        }
    }
}

impl PartialEq for Conversation {
    fn eq(&self, other: &Self) -> bool {
        self.messages == other.messages
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn each_message_is_written_once_and_sent_every_time() {
        let wrote = Cell::new(0);
        let sent = |conversation: &Conversation| {
            let mut out = b"[".to_vec();
            let write = |message: &Message| {
                wrote.set(wrote.get() + 1);
                Ok::<_, ()>(message.content().as_bytes().to_vec())
            };
            conversation.write_json(&mut out, write).expect("written");
            String::from_utf8(out).expect("text")
        };
        let mut conversation: Conversation = [Message::user("a"), Message::user("b")].into_iter().collect();
        assert_eq!((sent(&conversation).as_str(), wrote.get()), ("[a,b", 2));
        conversation.extend([Arc::new(Message::user("c"))]);
        let copy = conversation.clone();
        assert_eq!((sent(&conversation).as_str(), wrote.get()), ("[a,b,c", 3));
        assert_eq!((sent(&conversation).as_str(), wrote.get()), ("[a,b,c", 3));
        assert_eq!(copy, conversation);
        assert_eq!((sent(&copy).as_str(), wrote.get()), ("[a,b,c", 4));
        assert_eq!(sent(&Conversation::default()), "[");
    }

    #[test]
    fn a_message_that_cannot_be_written_is_tried_again() {
        let conversation: Conversation = [Message::user("a"), Message::user("b")].into_iter().collect();
        let write = |refused: &'static str| {
            let mut out = Vec::new();
            let done = conversation.write_json(&mut out, |message| match message.content() {
                text if text == refused => Err(()),
                text => Ok(text.as_bytes().to_vec()),
            });
            done.map(|()| out)
        };
        assert_eq!(write("b"), Err(()));
        assert_eq!(write("").as_deref(), Ok(&b"a,b"[..]));
    }
}
