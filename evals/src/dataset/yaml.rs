//! YAML as a tree in which every node knows its line.
//!
//! A dataset needs little of the language, and what it does not need is refused: anchors and aliases (a few lines of
//! them expand to gigabytes), tags, keys that are not plain text, and a key given twice (the last would win unseen).

use saphyr_parser::{Event, Marker, Parser, ScalarStyle};
use serde_json::Value;

use super::Problem;

/// Lists and mappings inside each other.
pub const DEPTH_MAX: usize = 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    pub line: usize,
    pub column: usize,
}

impl At {
    pub const START: Self = Self { line: 1, column: 1 };

    pub fn problem(self, message: impl Into<String>) -> Problem {
        Problem {
            line: self.line,
            column: self.column,
            message: message.into(),
        }
    }
}

impl From<Marker> for At {
    fn from(marker: Marker) -> Self {
        Self {
            line: marker.line(),
            column: marker.col() + 1,
        }
    }
}

#[derive(Debug, PartialEq)]
pub struct Node {
    pub at: At,
    pub content: Content,
}

#[derive(Debug, PartialEq)]
pub enum Content {
    /// `plain`: written without quotes, so that `true`, `null` and `42` may mean what they look like.
    Scalar {
        text: String,
        plain: bool,
    },
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Debug, PartialEq)]
pub struct Entry {
    pub key: String,
    pub key_at: At,
    pub value: Node,
}

/// A list or mapping whose end has not come yet.
struct Open {
    at: At,
    parts: Parts,
}

enum Parts {
    List(Vec<Node>),
    Map {
        entries: Vec<Entry>,
        key: Option<(String, At)>,
    },
}

/// The first document of the text. An empty text is a problem, and so is a second document.
pub fn parse(text: &str) -> Result<Node, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut open: Vec<Open> = Vec::new();
    let mut root = None;
    let mut documents = 0;
    for event in Parser::new_from_str(text) {
        let (event, span) = match event {
            Ok(event) => event,
            Err(error) => {
                problems.push(At::from(*error.marker()).problem(format!("this is not YAML: {}", error.info())));
                return Err(problems);
            }
        };
        let at = At::from(span.start);
        let node = match event {
            Event::DocumentStart(_) => {
                documents += 1;
                if documents > 1 {
                    problems.push(at.problem("a second document starts here; a dataset is one document"));
                    return Err(problems);
                }
                continue;
            }
            Event::Scalar(text, style, anchor, tag) => {
                refuse(at, anchor, tag.is_some(), &mut problems);
                let plain = matches!(style, ScalarStyle::Plain);
                Node {
                    at,
                    content: Content::Scalar {
                        text: text.into_owned(),
                        plain,
                    },
                }
            }
            Event::Alias(_) => {
                problems.push(at.problem("aliases (*name) are not understood here; write the value out"));
                null(at)
            }
            Event::SequenceStart(anchor, tag) | Event::MappingStart(anchor, tag) if open.len() >= DEPTH_MAX => {
                refuse(at, anchor, tag.is_some(), &mut problems);
                problems.push(at.problem(format!("lists and mappings lie more than {DEPTH_MAX} deep here")));
                return Err(problems);
            }
            Event::SequenceStart(anchor, tag) => {
                refuse(at, anchor, tag.is_some(), &mut problems);
                open.push(Open {
                    at,
                    parts: Parts::List(Vec::new()),
                });
                continue;
            }
            Event::MappingStart(anchor, tag) => {
                refuse(at, anchor, tag.is_some(), &mut problems);
                open.push(Open {
                    at,
                    parts: Parts::Map {
                        entries: Vec::new(),
                        key: None,
                    },
                });
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some(Open {
                    at,
                    parts: Parts::List(nodes),
                }) => Node {
                    at,
                    content: Content::List(nodes),
                },
                Some(Open {
                    at,
                    parts: Parts::Map { entries, .. },
                }) => Node {
                    at,
                    content: Content::Map(entries),
                },
                None => continue,
            },
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => continue,
        };
        match open.last_mut() {
            Some(parent) => parent.parts.add(node, &mut problems),
            None => root = Some(node),
        }
    }
    match root {
        Some(root) if problems.is_empty() => Ok(root),
        Some(_) => Err(problems),
        None => {
            problems.push(At::START.problem("the file is empty; a dataset needs at least name, agent and items"));
            Err(problems)
        }
    }
}

fn refuse(at: At, anchor: usize, tagged: bool, problems: &mut Vec<Problem>) {
    if anchor != 0 {
        problems.push(at.problem("anchors (&name) are not understood here; write the value out where it is needed"));
    }
    if tagged {
        problems.push(at.problem("tags (!name) are not understood here; leave it out"));
    }
}

fn null(at: At) -> Node {
    Node {
        at,
        content: Content::Scalar {
            text: String::new(),
            plain: true,
        },
    }
}

impl Parts {
    fn add(&mut self, node: Node, problems: &mut Vec<Problem>) {
        match self {
            Self::List(nodes) => nodes.push(node),
            Self::Map { entries, key } => match key.take() {
                Some((key, key_at)) => {
                    if let Some(first) = entries.iter().find(|entry| entry.key == key) {
                        let message = format!("{key} is given twice, first on line {}; keep one", first.key_at.line);
                        problems.push(key_at.problem(message));
                    }
                    entries.push(Entry {
                        key,
                        key_at,
                        value: node,
                    });
                }
                None => {
                    *key = Some(match node.content {
                        Content::Scalar { text, .. } => (text, node.at),
                        _ => {
                            problems.push(node.at.problem("a key must be plain text"));
                            (String::new(), node.at)
                        }
                    });
                }
            },
        }
    }
}

impl Node {
    /// What the node is, for messages.
    pub fn kind(&self) -> &'static str {
        match &self.content {
            Content::Scalar { .. } if self.is_null() => "nothing",
            Content::Scalar { .. } => "a single value",
            Content::List(_) => "a list",
            Content::Map(_) => "a mapping",
        }
    }

    pub fn is_null(&self) -> bool {
        matches!(&self.content, Content::Scalar { text, plain: true } if matches!(text.as_str(), "" | "~" | "null"))
    }

    /// The node as JSON, by the core schema of YAML 1.2.
    pub fn json(&self) -> Value {
        match &self.content {
            Content::Scalar { .. } if self.is_null() => Value::Null,
            Content::Scalar { text, plain: true } => plain_json(text),
            Content::Scalar { text, plain: false } => Value::String(text.clone()),
            Content::List(nodes) => nodes.iter().map(Node::json).collect(),
            Content::Map(entries) => Value::Object(
                entries
                    .iter()
                    .map(|entry| (entry.key.clone(), entry.value.json()))
                    .collect(),
            ),
        }
    }
}

fn plain_json(text: &str) -> Value {
    match text {
        "true" => return Value::Bool(true),
        "false" => return Value::Bool(false),
        _ => {}
    }
    if let Ok(integer) = text.parse::<i64>() {
        return integer.into();
    }
    let looks_numeric = text.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b));
    match text.parse::<f64>() {
        Ok(number) if looks_numeric && number.is_finite() => number.into(),
        _ => Value::String(text.into()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn problem(text: &str) -> Problem {
        parse(text).expect_err(text).remove(0)
    }

    #[test]
    fn a_tree_keeps_lines_and_reads_plain_values_as_json() {
        let node = parse("a: 1\nb:\n  - true\n  - \"2\"\n  - x y\n  - ~\n  - 1.5\n  - inf\n").expect("YAML");
        assert_eq!(node.json(), json!({"a": 1, "b": [true, "2", "x y", null, 1.5, "inf"]}));
        let Content::Map(entries) = &node.content else {
            panic!("a mapping")
        };
        assert_eq!((entries[1].key_at.line, entries[1].key_at.column), (2, 1));
        let Content::List(nodes) = &entries[1].value.content else {
            panic!("a list")
        };
        assert_eq!((nodes[2].at.line, nodes[2].at.column), (5, 5));
    }

    #[test]
    fn what_a_dataset_does_not_need_is_refused_with_its_line() {
        for (text, line, word) in [
            ("", 1, "empty"),
            ("# only a comment\n", 1, "empty"),
            ("a: [1\n", 2, "not YAML"),
            ("a: &x 1\nb: 2", 1, "anchors"),
            ("b: !!str 1", 1, "tags"),
            ("a: 1\na: 2", 2, "given twice, first on line 1"),
            ("a: 1\n---\nb: 2", 2, "second document"),
            ("[a]: 1", 1, "plain text"),
        ] {
            let problem = problem(text);
            assert!(problem.message.contains(word), "{text:?}: {problem:?}");
            assert_eq!(problem.line, line, "{text:?}: {problem:?}");
        }
        let aliases = parse("a: &x 1\nb: *x").expect_err("aliases");
        assert_eq!(aliases.len(), 2, "{aliases:?}");
    }

    #[test]
    fn a_deep_or_endless_nesting_is_refused() {
        assert!(problem(&"[".repeat(DEPTH_MAX + 1)).message.contains("deep"));
        assert!(problem(&"- ".repeat(10_000)).message.contains("deep"));
        // The scanner has a limit of its own, and reads ahead.
        assert!(parse(&"[".repeat(100_000)).is_err());
    }
}
