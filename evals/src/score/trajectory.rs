//! Which tools were called, with what, and in which order: compared as agentevals does, in four modes.
//!
//! | mode | the calls made are |
//! |---|---|
//! | `strict` | the expected ones, in the expected order, and no others |
//! | `unordered` | the expected ones in any order, and no others |
//! | `subset` | some of the expected ones, and no others |
//! | `superset` | the expected ones in any order, and perhaps others |
//!
//! The same words say how arguments are compared, again from the side of what was done.

use serde::Serialize;
use serde_json::Value;

use super::Score;
use crate::text::one_line;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Strict,
    Unordered,
    Subset,
    Superset,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Trajectory {
    pub mode: Mode,
    pub tools: Vec<ExpectedCall>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ExpectedCall {
    pub name: String,
    pub arguments: Arguments,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Arguments {
    Ignore,
    /// The arguments given are these.
    Exact(Value),
    /// The arguments given are some of these.
    Subset(Value),
    /// The arguments given are these, and perhaps others.
    Superset(Value),
}

/// A tool call as the model asked for it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CalledTool {
    pub name: String,
    /// Text where the model did not write JSON.
    pub arguments: Value,
}

pub fn score(expected: &Trajectory, called: &[CalledTool]) -> Score {
    let matches = |expected: usize, call: usize, tools: &[ExpectedCall]| tools[expected].is(&called[call]);
    let tools = &expected.tools;
    let verdict = match expected.mode {
        Mode::Strict => {
            let differs = (0..tools.len().max(called.len()))
                .find(|at| !(*at < tools.len() && *at < called.len() && matches(*at, *at, tools)));
            differs.map(|at| format!("call {} differs", at + 1))
        }
        Mode::Unordered | Mode::Subset | Mode::Superset => {
            let pairs = pair_up(tools.len(), called.len(), |want, call| matches(want, call, tools));
            let missing = pairs
                .iter()
                .position(Option::is_none)
                .filter(|_| expected.mode != Mode::Subset);
            let extra = (0..called.len())
                .find(|call| !pairs.contains(&Some(*call)))
                .filter(|_| expected.mode != Mode::Superset);
            match (missing, extra) {
                (Some(at), _) => Some(format!("{} was not called as expected", one_line(&tools[at].name))),
                (None, Some(at)) => Some(format!("{} was called and is not expected", one_line(&called[at].name))),
                (None, None) => None,
            }
        }
    };
    let calls: Vec<String> = called.iter().map(CalledTool::to_string).collect();
    let calls = if calls.is_empty() {
        "no tool was called".into()
    } else {
        format!("called: {}", calls.join(", "))
    };
    Score::of(
        "trajectory",
        match verdict {
            None => Ok(calls),
            Some(difference) => Err(format!("{difference}; {calls}; expected {}", expected.describe())),
        },
    )
}

/// Pairs each expected call with a call of its own, as many as possible: for each expected call the index of its
/// partner. Augmenting paths, because taking the first that fits may use up the only partner of another.
fn pair_up(wanted: usize, called: usize, fits: impl Fn(usize, usize) -> bool) -> Vec<Option<usize>> {
    fn place(
        want: usize,
        owner: &mut [Option<usize>],
        tried: &mut [bool],
        fits: &impl Fn(usize, usize) -> bool,
    ) -> bool {
        for call in 0..owner.len() {
            if tried[call] || !fits(want, call) {
                continue;
            }
            tried[call] = true;
            if owner[call].is_none_or(|other| place(other, owner, tried, fits)) {
                owner[call] = Some(want);
                return true;
            }
        }
        false
    }
    let mut owner = vec![None; called];
    for want in 0..wanted {
        place(want, &mut owner, &mut vec![false; called], &fits);
    }
    (0..wanted)
        .map(|want| owner.iter().position(|by| *by == Some(want)))
        .collect()
}

impl ExpectedCall {
    fn is(&self, call: &CalledTool) -> bool {
        let given = &call.arguments;
        self.name == call.name
            && match &self.arguments {
                Arguments::Ignore => true,
                Arguments::Exact(value) => equal(given, value),
                Arguments::Subset(value) => given.is_object() && within(given, value),
                Arguments::Superset(value) => within(value, given),
            }
    }
}

/// Is the same said? Objects regardless of order, numbers regardless of how they are written.
fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| equal(a, b)))
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        _ => a == b,
    }
}

/// Is everything the part says also said by the whole? Objects inside objects likewise; anything else must be equal.
fn within(part: &Value, whole: &Value) -> bool {
    match (part, whole) {
        (Value::Object(part), Value::Object(whole)) => part
            .iter()
            .all(|(key, part)| whole.get(key).is_some_and(|whole| within(part, whole))),
        _ => equal(part, whole),
    }
}

impl Trajectory {
    fn describe(&self) -> String {
        let mode = match self.mode {
            Mode::Strict => "exactly, in this order",
            Mode::Unordered => "exactly, in any order",
            Mode::Subset => "at most",
            Mode::Superset => "at least",
        };
        let calls: Vec<String> = (self.tools.iter())
            .map(|tool| match &tool.arguments {
                Arguments::Ignore => one_line(&tool.name),
                Arguments::Exact(value) => one_line(&format!("{}({value})", tool.name)),
                Arguments::Subset(value) => one_line(&format!("{}(some of {value})", tool.name)),
                Arguments::Superset(value) => one_line(&format!("{}(at least {value})", tool.name)),
            })
            .collect();
        format!(
            "{mode}: {}",
            if calls.is_empty() {
                "no tool".into()
            } else {
                calls.join(", ")
            }
        )
    }
}

impl CalledTool {
    pub fn new(name: String, arguments: &str) -> Self {
        let arguments = serde_json::from_str(arguments).unwrap_or_else(|_| Value::String(arguments.into()));
        Self { name, arguments }
    }
}

impl std::fmt::Display for CalledTool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&one_line(&format!("{}({})", self.name, self.arguments)))
    }
}

#[cfg(test)]
mod tests;
