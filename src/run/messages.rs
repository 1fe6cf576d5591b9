//! A run's own part of the conversation.

use std::{fmt, sync::Arc};

use imbl::{HashSet, Vector};
use serde::{Deserialize, Serialize, Serializer};

use super::Message;

/// Shared between the states of a run: each is made from the one before, and only adds. A copy, a message more and the search
/// for a call cost the same however many there are.
#[derive(Clone, Default, Deserialize)]
#[serde(from = "Vec<Arc<Message>>")]
pub struct Messages {
    all: Vector<Arc<Message>>,
    /// Ids of the calls in them: an index, made of them.
    calls: HashSet<Arc<str>>,
}

impl Messages {
    pub fn len(&self) -> usize {
        self.all.len()
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Arc<Message>> {
        self.all.iter()
    }

    /// All but the first so many.
    pub fn after(&self, first: usize) -> impl Iterator<Item = &Arc<Message>> {
        self.all.focus().narrow(first.min(self.len())..).into_iter()
    }

    pub fn last(&self) -> Option<&Arc<Message>> {
        self.all.last()
    }

    /// Has the model asked for a tool under this id?
    pub fn has_call(&self, id: &str) -> bool {
        self.calls.contains(id)
    }

    pub fn push(&mut self, message: impl Into<Arc<Message>>) {
        let message = message.into();
        if let Message::Assistant { tool_calls, .. } = &*message {
            self.calls
                .extend(tool_calls.iter().map(|call| Arc::<str>::from(call.id.as_str())));
        }
        self.all.push_back(message);
    }
}

impl From<Vec<Arc<Message>>> for Messages {
    fn from(messages: Vec<Arc<Message>>) -> Self {
        messages.into_iter().collect()
    }
}

impl<M: Into<Arc<Message>>> FromIterator<M> for Messages {
    fn from_iter<T: IntoIterator<Item = M>>(messages: T) -> Self {
        let mut all = Self::default();
        messages.into_iter().for_each(|message| all.push(message));
        all
    }
}

impl PartialEq for Messages {
    fn eq(&self, other: &Self) -> bool {
        self.all == other.all
    }
}

impl fmt::Debug for Messages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.all).finish()
    }
}

impl Serialize for Messages {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(&self.all)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::run::ToolCall;

    #[test]
    fn they_are_a_list_and_know_their_calls() {
        let call = |id: &str| Message::Assistant {
            content: String::new(),
            tool_calls: vec![ToolCall {
                id: id.into(),
                name: "clock".into(),
                arguments: "{}".into(),
            }],
        };
        let mut messages: Messages = [Message::user("hi"), call("a")].into_iter().collect();
        let before = messages.clone();
        messages.push(call("b"));
        let has = |messages: &Messages| ["a", "b", "c"].map(|id| messages.has_call(id));
        assert_eq!(
            (has(&before), has(&messages)),
            ([true, false, false], [true, true, false])
        );
        assert_eq!((before.len(), messages.len(), messages.after(1).count()), (2, 3, 2));
        assert_eq!(messages.after(9).count(), 0);
        let written = json!(messages);
        assert_eq!(written.as_array().map(Vec::len), Some(3));
        assert_eq!(serde_json::from_value::<Messages>(written).expect("read"), messages);
    }
}
