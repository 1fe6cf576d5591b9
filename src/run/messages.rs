//! The messages of a run. Every decision makes a new state from the one before, and a run may have thousands of
//! messages: a state shares what it has in common with others, so that its copy costs a pointer for every [`SHARED`] of
//! them.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Message;

/// Messages that are shared as one.
const SHARED: usize = 64;

/// Only grows.
#[derive(Debug, Clone, Default)]
pub struct Messages {
    /// Of [`SHARED`] messages each.
    blocks: Vec<Arc<[Arc<Message>]>>,
    /// Those behind, fewer.
    rest: Vec<Arc<Message>>,
}

impl Messages {
    pub fn len(&self) -> usize {
        self.blocks.len() * SHARED + self.rest.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn push(&mut self, message: Arc<Message>) {
        self.rest.push(message);
        if self.rest.len() == SHARED {
            self.blocks.push(std::mem::take(&mut self.rest).into());
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Message>> {
        self.from(0)
    }

    /// Those from this one on, counted from 0.
    pub fn from(&self, at: usize) -> impl Iterator<Item = &Arc<Message>> {
        let block = (at / SHARED).min(self.blocks.len());
        // Fewer than a block are passed over one by one.
        let (whole, passed) = (&self.blocks[block..], at - block * SHARED);
        let after = whole.iter().flat_map(|block| block.iter()).chain(&self.rest);
        after.skip(passed)
    }

    pub fn last(&self) -> Option<&Arc<Message>> {
        let block = || self.blocks.last()?.last();
        self.rest.last().or_else(block)
    }
}

impl FromIterator<Arc<Message>> for Messages {
    fn from_iter<I: IntoIterator<Item = Arc<Message>>>(messages: I) -> Self {
        let mut all = Self::default();
        messages.into_iter().for_each(|message| all.push(message));
        all
    }
}

impl PartialEq for Messages {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Serialize for Messages {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for Messages {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Vec::<Arc<Message>>::deserialize(deserializer)?.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(count: usize) -> Vec<Arc<Message>> {
        let message = |n: usize| Message::User { content: n.to_string() };
        (0..count).map(message).map(Arc::new).collect()
    }

    #[test]
    fn they_are_the_list_they_were_made_of_wherever_it_is_entered() {
        for count in [0, 1, SHARED - 1, SHARED, SHARED + 1, 3 * SHARED + 5] {
            let list = messages(count);
            let all: Messages = list.iter().cloned().collect();
            assert_eq!(
                (all.len(), all.is_empty(), all.last()),
                (count, count == 0, list.last())
            );
            for at in 0..=count + SHARED + 1 {
                let expected = list.get(at..).unwrap_or_default();
                assert!(all.from(at).eq(expected), "{count} messages, from {at}");
            }
        }
    }

    #[test]
    fn in_json_they_are_a_list_and_read_back() {
        let list = messages(2 * SHARED + 1);
        let all: Messages = list.iter().cloned().collect();
        let json = serde_json::to_string(&all).expect("JSON");
        assert_eq!(json, serde_json::to_string(&list).expect("JSON"));
        assert_eq!(serde_json::from_str::<Messages>(&json).expect("messages"), all);
    }

    #[test]
    fn what_one_state_adds_is_in_no_other() {
        let before: Messages = messages(SHARED - 1).into_iter().collect();
        let mut after = before.clone();
        messages(2).into_iter().for_each(|message| after.push(message));
        assert_eq!((before.len(), after.len()), (SHARED - 1, SHARED + 1));
    }
}
