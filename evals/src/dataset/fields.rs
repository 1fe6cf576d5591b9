//! Reading a tree field by field, gathering every problem on the way instead of stopping at the first.

use std::{fmt::Display, ops::RangeInclusive, str::FromStr};

use super::{
    Problem,
    yaml::{At, Content, Entry, Node},
};

/// A wrong key is taken for a known one when they are this alike (1 = the same).
const LIKENESS_MIN: f64 = 0.75;

/// Gathers the problems. Every `None` it answers has left one behind, unless the field was simply absent.
#[derive(Default)]
pub struct Reader {
    pub problems: Vec<Problem>,
}

/// A mapping whose keys have been checked.
#[derive(Clone, Copy)]
pub struct Fields<'a> {
    at: At,
    entries: &'a [Entry],
}

impl<'a> Fields<'a> {
    pub fn get(&self, key: &str) -> Option<&'a Node> {
        self.entries
            .iter()
            .find(|entry| entry.key == key)
            .map(|entry| &entry.value)
    }

    /// Where to point when something is said about this key.
    pub fn at(&self, key: &str) -> At {
        self.entries
            .iter()
            .find(|entry| entry.key == key)
            .map_or(self.at, |entry| entry.key_at)
    }
}

impl Reader {
    pub fn problem(&mut self, at: At, message: impl Into<String>) {
        self.problems.push(at.problem(message));
    }

    /// The mapping behind a node. `field` names it in messages; empty for the whole file.
    pub fn fields<'a>(&mut self, node: &'a Node, field: &str, known: &[&str]) -> Option<Fields<'a>> {
        let Content::Map(entries) = &node.content else {
            let name = if field.is_empty() { "the file" } else { field };
            self.problem(
                node.at,
                format!("{name} must be a mapping with some of: {}", known.join(", ")),
            );
            return None;
        };
        for entry in entries.iter().filter(|entry| !known.contains(&entry.key.as_str())) {
            let remedy = match nearest(&entry.key, known) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("the keys here are: {}", known.join(", ")),
            };
            self.problem(
                entry.key_at,
                format!("{}: unknown key; {remedy}", join(field, &entry.key)),
            );
        }
        Some(Fields { at: node.at, entries })
    }

    pub fn required<'a>(&mut self, fields: Fields<'a>, field: &str, key: &str, remedy: &str) -> Option<&'a Node> {
        let node = fields.get(key);
        if node.is_none() {
            self.problem(fields.at, format!("{}: missing; {remedy}", join(field, key)));
        }
        node
    }

    /// Text that is not blank.
    pub fn text(&mut self, node: &Node, field: &str) -> Option<String> {
        match &node.content {
            Content::Scalar { text, .. } if !node.is_null() && !text.trim().is_empty() => Some(text.clone()),
            Content::Scalar { .. } => {
                self.problem(node.at, format!("{field}: must not be empty; write some text"));
                None
            }
            _ => {
                self.problem(node.at, format!("{field}: must be text, not {}", node.kind()));
                None
            }
        }
    }

    /// One text or a list of them, at least one.
    pub fn texts(&mut self, node: &Node, field: &str) -> Vec<String> {
        let Content::List(nodes) = &node.content else {
            return self.text(node, field).into_iter().collect();
        };
        if nodes.is_empty() {
            self.problem(node.at, format!("{field}: the list is empty; give at least one text"));
        }
        (nodes.iter().enumerate())
            .filter_map(|(at, node)| self.text(node, &format!("{field}[{at}]")))
            .collect()
    }

    pub fn list<'a>(&mut self, node: &'a Node, field: &str) -> Option<&'a [Node]> {
        match &node.content {
            Content::List(nodes) => Some(nodes),
            _ => {
                self.problem(
                    node.at,
                    format!("{field}: must be a list, not {}; start each entry with -", node.kind()),
                );
                None
            }
        }
    }

    pub fn boolean(&mut self, node: &Node, field: &str) -> Option<bool> {
        match &node.content {
            Content::Scalar { text, plain: true } if text == "true" => Some(true),
            Content::Scalar { text, plain: true } if text == "false" => Some(false),
            _ => {
                self.problem(node.at, format!("{field}: must be true or false, without quotes"));
                None
            }
        }
    }

    /// A number within a range.
    pub fn number<T>(&mut self, node: &Node, field: &str, range: RangeInclusive<T>) -> Option<T>
    where
        T: FromStr + PartialOrd + Display,
    {
        let number = match &node.content {
            Content::Scalar { text, plain: true } => text.parse::<T>().ok().filter(|number| range.contains(number)),
            _ => None,
        };
        if number.is_none() {
            let message = format!("{field}: must be a number from {} to {}", range.start(), range.end());
            self.problem(node.at, message);
        }
        number
    }

    pub fn choice<T: Copy>(&mut self, node: &Node, field: &str, choices: &[(&str, T)]) -> Option<T> {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        if let Content::Scalar { text, .. } = &node.content {
            if let Some((_, choice)) = choices.iter().find(|(name, _)| name == text) {
                return Some(*choice);
            }
            if let Some(near) = nearest(text, &names) {
                self.problem(
                    node.at,
                    format!("{field}: {text:?} is not one of the choices; did you mean {near}?"),
                );
                return None;
            }
        }
        self.problem(node.at, format!("{field}: must be one of: {}", names.join(", ")));
        None
    }
}

pub fn join(field: &str, key: &str) -> String {
    if field.is_empty() {
        key.into()
    } else {
        format!("{field}.{key}")
    }
}

fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    (known.iter().copied())
        .map(|name| (strsim::jaro_winkler(word, name), name))
        .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}
