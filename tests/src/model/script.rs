//! What the last user text orders. A test writes its wishes into the task it gives to the agent, so they pass through
//! the whole system and come out at the model, whichever worker asks and however often.

use serde_json::Value;

/// How a call goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// An HTTP error before anything else.
    Status(u16),
    /// Never answers.
    Hang,
    /// Stops in the middle and keeps the connection.
    HangMid,
    /// Breaks the connection in the middle.
    Cut,
    /// A chunk in the middle that is not JSON.
    Malformed,
    /// A chunk in the middle that is not UTF-8.
    BadUtf8,
    /// 200, then an error object where the next chunk should be.
    ErrorIn200,
    /// A well-formed answer that says nothing.
    Empty,
}

impl Fault {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "429" | "503" | "500" | "400" => Self::Status(name.parse().ok()?),
            "hang" => Self::Hang,
            "hang_mid" => Self::HangMid,
            "cut" => Self::Cut,
            "malformed" => Self::Malformed,
            "bad_utf8" => Self::BadUtf8,
            "error_in_200" => Self::ErrorIn200,
            "empty" => Self::Empty,
            _ => return None,
        })
    }

    /// Its name in the statistics.
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Self::Status(400) => "error_400",
            Self::Status(429) => "error_429",
            Self::Status(500) => "error_500",
            Self::Status(_) => "error_503",
            Self::Hang => "hang",
            Self::HangMid => "hang_mid",
            Self::Cut => "cut",
            Self::Malformed => "malformed",
            Self::BadUtf8 => "bad_utf8",
            Self::ErrorIn200 => "error_in_200",
            Self::Empty => "empty",
        }
    }
}

/// `[[fault:NAME:SECONDS*TIMES@STEP]]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FaultOrder {
    pub fault: Fault,
    pub retry_after_s: Option<u64>,
    /// How many calls fail; None: all.
    pub times: Option<u64>,
    /// Only calls of this step of the loop fail, counted from 1; None: of any.
    pub step: Option<usize>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ToolOrder {
    pub name: String,
    pub args: Option<Value>,
}

/// A text's directives.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Script {
    /// The tool calls of each step, `[[then]]` between them.
    pub tools: Vec<Vec<ToolOrder>>,
    pub say: Option<String>,
    pub echo: bool,
    /// So many steps call the first tool.
    pub again: Option<usize>,
    pub tokens: Option<usize>,
    /// So many words of the answer are the time at which each is sent.
    pub times: Option<usize>,
    pub faults: Vec<FaultOrder>,
}

impl Script {
    /// Reads the directives of a text. One that cannot be read is an error: a test with a slip of the pen must not pass.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut script = Self {
            tools: vec![vec![]],
            ..Self::default()
        };
        let mut rest = text;
        while let Some((_, after)) = rest.split_once("[[") {
            rest = script.directive(after)?;
        }
        script.tools.retain(|step| !step.is_empty());
        Ok(script)
    }

    /// Reads one directive, whose brackets were opened; the answer is the text after it.
    fn directive<'a>(&mut self, text: &'a str) -> Result<&'a str, String> {
        if let Some(text) = text.strip_prefix("tool:") {
            let (order, rest) = tool(text)?;
            if let Some(step) = self.tools.last_mut() {
                step.push(order);
            }
            return Ok(rest);
        }
        let Some((inside, rest)) = text.split_once("]]") else {
            return Ok("");
        };
        match inside.split_once(':').unwrap_or((inside, "")) {
            ("say", words) => self.say = Some(words.to_owned()),
            ("tokens", n) => self.tokens = Some(number("tokens", n)?),
            ("times", n) => self.times = Some(number("times", n)?),
            ("fault", order) => self
                .faults
                .push(fault(order).ok_or_else(|| format!("unknown fault {order}"))?),
            ("echo", "") => self.echo = true,
            ("loop", "") => self.again = Some(usize::MAX),
            ("loop", n) => self.again = Some(number("loop", n)?),
            ("then", "") => self.tools.push(vec![]),
            // Double brackets occur in ordinary text too: [[wiki links]], nested arrays.
            _ => {}
        }
        Ok(rest)
    }
}

fn number(name: &str, text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| format!("[[{name}:{text}]] is not a number"))
}

/// `NAME {"json":"args"}]] rest`; the arguments may hold brackets themselves.
fn tool(text: &str) -> Result<(ToolOrder, &str), String> {
    let end = text
        .find(|c: char| c.is_whitespace() || c == ']' || c == '{')
        .unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let mut rest = rest.trim_start();
    let mut args = None;
    if rest.starts_with('{') {
        let mut values = serde_json::Deserializer::from_str(rest).into_iter();
        let parsed = values.next().and_then(Result::ok);
        args = Some(parsed.ok_or_else(|| format!("the arguments of [[tool:{name} …]] are not JSON"))?);
        rest = rest[values.byte_offset()..].trim_start();
    }
    let rest = rest
        .strip_prefix("]]")
        .ok_or_else(|| format!("[[tool:{name} …]] is not closed"))?;
    Ok((
        ToolOrder {
            name: name.to_owned(),
            args,
        },
        rest,
    ))
}

fn fault(order: &str) -> Option<FaultOrder> {
    let (order, step) = split_number(order, '@')?;
    let (order, times) = split_number(order, '*')?;
    let (name, retry_after_s) = split_number(order, ':')?;
    Some(FaultOrder {
        fault: Fault::parse(name)?,
        retry_after_s,
        times,
        step: step.map(|n| n as usize),
    })
}

/// `name`, or `name` and the number after the mark. None where no number follows it.
fn split_number(text: &str, mark: char) -> Option<(&str, Option<u64>)> {
    match text.rsplit_once(mark) {
        None => Some((text, None)),
        Some((name, number)) => Some((name, Some(number.parse().ok()?))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn directives_are_read_in_order() {
        let text = r#"do [[tool:a {"x":[[1]]}]] and [[tool:b]] [[then]][[tool:c{}]] [[say:good bye]] [[tokens:5]]"#;
        let script = Script::parse(text).unwrap();
        let tool = |name: &str, args| ToolOrder {
            name: name.into(),
            args,
        };
        let first = vec![tool("a", Some(json!({"x": [[1]]}))), tool("b", None)];
        assert_eq!(script.tools, vec![first, vec![tool("c", Some(json!({})))]]);
        assert_eq!((script.say.as_deref(), script.tokens), (Some("good bye"), Some(5)));
    }

    #[test]
    fn a_fault_has_a_time_a_count_and_a_step() {
        let script = Script::parse("[[fault:429:3*2@1]][[fault:cut]]").unwrap();
        let cut = FaultOrder {
            fault: Fault::Cut,
            retry_after_s: None,
            times: None,
            step: None,
        };
        let busy = FaultOrder {
            fault: Fault::Status(429),
            retry_after_s: Some(3),
            times: Some(2),
            step: Some(1),
        };
        assert_eq!(script.faults, vec![busy, cut]);
    }

    #[test]
    fn a_slip_of_the_pen_is_refused_and_ordinary_brackets_are_not() {
        for bad in [
            "[[fault:500x]]",
            "[[tokens:many]]",
            "[[loop:often]]",
            "[[tool:a {\"x\"}]]",
            "[[tool:a",
            "[[fault:cut*]]",
        ] {
            assert!(Script::parse(bad).is_err(), "{bad}");
        }
        let plain = Script::parse("see [[Home]] and [[1,2],[3]] and [[").unwrap();
        assert!(plain.tools.is_empty() && plain.faults.is_empty() && plain.say.is_none());
    }
}
