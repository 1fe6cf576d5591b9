//! A run's frames on a terminal: what the agent says on stdout, what it does as dim lines on stderr.

use std::io::IsTerminal;

use serde_json::Value;

use crate::{
    client::follow::{Frame, Update},
    commands::people::{self, question},
    error::Failure,
    output::{self, clean, excerpt, note},
};

/// Characters of a tool's arguments or output that are shown.
const EXCERPT_CHARS_MAX: usize = 200;

/// How a run that was watched ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Completed,
    Failed,
    Cancelled,
}

/// One run on the terminal.
#[derive(Default)]
pub struct Screen {
    json: bool,
    /// A person sees text as it comes, and what is taken back. A pipe gets the text of a step when it is final.
    live: bool,
    /// What a pipe has not been given yet.
    held: String,
    /// Text was written and its line has not been ended.
    line_open: bool,
    pub run_id: Option<String>,
    pub cursor: Option<String>,
    pub verdict: Option<Verdict>,
}

/// What to write where for one frame: pure, so that it can be tested.
#[derive(Debug, Default, PartialEq)]
struct Shown {
    text: Option<String>,
    ends_line: bool,
    takes_back: bool,
    note: Option<String>,
    verdict: Option<Verdict>,
}

impl Screen {
    pub fn new(json: bool) -> Self {
        Self {
            json,
            live: std::io::stdout().is_terminal(),
            ..Self::default()
        }
    }

    pub fn show(&mut self, update: Update<'_>) -> Result<(), Failure> {
        match update {
            Update::Dropped(reason) => {
                self.end_line()?;
                note(&format!("connection lost ({}); going on where it was", clean(reason)));
                Ok(())
            }
            Update::Frame(frame) => self.frame(frame),
        }
    }

    fn frame(&mut self, frame: &Frame) -> Result<(), Failure> {
        let data: Value = serde_json::from_str(&frame.data).unwrap_or_default();
        self.cursor = Some(frame.cursor.clone());
        if let Some(id) = data["run_id"].as_str() {
            self.run_id = Some(clean(id));
        }
        let shown = shown(&frame.kind, &data);
        self.verdict = shown.verdict.or(self.verdict);
        if self.json {
            // One line: whatever the server sent is JSON, which escapes line breaks.
            return output::line(&clean(&frame.data));
        }
        if shown.takes_back {
            self.held.clear();
        }
        if let Some(text) = shown.text {
            self.held += &text;
        }
        if (self.live || shown.ends_line) && !self.held.is_empty() {
            output::write(&std::mem::take(&mut self.held))?;
            self.line_open = true;
        }
        if shown.ends_line || shown.note.is_some() {
            self.end_line()?;
        }
        if let Some(said) = shown.note {
            note(&said);
        }
        Ok(())
    }

    /// Ends the line the agent was writing, so that what follows begins its own.
    pub fn end_line(&mut self) -> Result<(), Failure> {
        if std::mem::take(&mut self.line_open) {
            output::write("\n")
        } else {
            Ok(())
        }
    }
}

fn shown(kind: &str, frame: &Value) -> Shown {
    let data = &frame["data"];
    let text = |value: &Value| excerpt(value.as_str().unwrap_or_default(), EXCERPT_CHARS_MAX);
    let note = |said: String| Shown {
        note: Some(said),
        ..Shown::default()
    };
    match kind {
        "agent.message.delta" => Shown {
            text: frame["delta"].as_str().map(clean),
            ..Shown::default()
        },
        "model.replied" => Shown {
            ends_line: true,
            ..Shown::default()
        },
        "step.reset" => Shown {
            takes_back: true,
            ..note("the step was cut off and starts over".into())
        },
        "run.requested" => {
            let (run, session) = (text(&frame["run_id"]), text(&data["session_id"]));
            note(format!("{run} of agent {} in {session}", text(&data["agent"]["name"])))
        }
        "run.interrupted" => note(format!("the worker let go of the run: {}", text(&data["reason"]))),
        "approval.requested" => {
            let run = text(&frame["run_id"]);
            let asked = question(data);
            note(format!(
                "? {asked}\n  steadfast runs approve {run}, or: steadfast runs deny {run}"
            ))
        }
        "approval.granted" => note(format!("{} said yes", text(&data["by"]))),
        "approval.denied" => note(format!("{} said no", text(&data["by"]))),
        "budget.exceeded" => {
            let (limit, run) = (text(&data["limit"]), text(&frame["run_id"]));
            let (spent, budget, needed) = (&data["spent"], &data["budget"], &data["needed"]);
            note(format!(
                "? the budget of {limit} is short: {spent} spent of {budget}, {needed} needed\n  \
                 steadfast runs budget {run} --{limit} …"
            ))
        }
        "budget.raised" => note(format!(
            "{} raised the budget to {}",
            text(&data["by"]),
            people::shown(data)
        )),
        "run.resumed" => note("another worker goes on with the run".into()),
        "tool_call.requested" => {
            let call = format!("{}({})", text(&data["name"]), text(&data["arguments"]));
            if data["executor"] == "client" {
                note(format!(
                    "→ {call} is for the client: POST /v1/runs/{}/tool_outputs",
                    text(&frame["run_id"])
                ))
            } else {
                note(format!("→ {call}"))
            }
        }
        "tool_call.succeeded" => note(format!("← {}", text(&data["output"]))),
        "tool_call.failed" => note(format!("← failed: {}", text(&data["error"]))),
        "model_call.failed" => {
            let said = format!(
                "the model call failed ({}): {}",
                text(&data["class"]),
                text(&data["message"])
            );
            match data["retry_at"].as_str() {
                Some(at) => note(format!("{said}; again at {}", clean(at))),
                None => note(said),
            }
        }
        "model_call.parked" => note(format!(
            "no model can be asked now ({}); again at {}",
            text(&data["reason"]),
            text(&data["until"])
        )),
        "model_call.orphaned" => note("a model call was cut off; it is charged as reserved".into()),
        "cancel.requested" => note("someone asked the run to stop".into()),
        "run.completed" => Shown {
            ends_line: true,
            verdict: Some(Verdict::Completed),
            ..Shown::default()
        },
        "run.failed" => {
            let error = &data["error"];
            let said = format!("failed ({}): {}", text(&error["code"]), text(&error["message"]));
            Shown {
                note: Some(said),
                verdict: Some(Verdict::Failed),
                ..Shown::default()
            }
        }
        "run.cancelled" => {
            let said = match data["reason"].as_str() {
                Some(reason) => format!("cancelled: {}", excerpt(reason, EXCERPT_CHARS_MAX)),
                None => "cancelled".into(),
            };
            Shown {
                note: Some(said),
                verdict: Some(Verdict::Cancelled),
                ..Shown::default()
            }
        }
        _ => Shown::default(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_agent_says_is_text_and_what_it_does_is_a_note() {
        assert_eq!(
            shown("agent.message.delta", &json!({"delta": "Hi\u{7}"}))
                .text
                .as_deref(),
            Some("Hi\u{fffd}")
        );
        let call = json!({"run_id": "run_1", "data": {"name": "clock", "arguments": "{}", "executor": "server"}});
        assert_eq!(shown("tool_call.requested", &call).note.as_deref(), Some("→ clock({})"));
        let client = json!({"run_id": "run_1", "data": {"name": "ask", "arguments": "{}", "executor": "client"}});
        assert!(
            shown("tool_call.requested", &client)
                .note
                .is_some_and(|said| said.contains("/v1/runs/run_1/tool_outputs"))
        );
    }

    #[test]
    fn the_terminal_event_gives_the_verdict() {
        assert_eq!(shown("run.completed", &json!({})).verdict, Some(Verdict::Completed));
        let failed = shown(
            "run.failed",
            &json!({"data": {"error": {"code": "model_rejected", "message": "no key"}}}),
        );
        assert_eq!(failed.verdict, Some(Verdict::Failed));
        assert_eq!(failed.note.as_deref(), Some("failed (model_rejected): no key"));
        assert_eq!(shown("something.new", &json!({})), Shown::default());
    }
}
