//! JUnit XML, as build servers read it: one test case for each trial.

use std::fmt::Write;

use super::{Report, Trial};

impl Report {
    /// The report for build servers. A trial whose scorer or run failed is an error, one that was wrong is a failure.
    pub fn to_junit(&self) -> String {
        let (trials, errors) = (self.totals.trials, self.totals.trials_in_error);
        // A trial in error has not passed.
        let failures = trials.saturating_sub(self.totals.trials_passed + errors);
        let seconds = seconds((self.ended_at - self.started_at).num_milliseconds().unsigned_abs());
        let name = escape(&self.name);
        let counts = format!(r#"tests="{trials}" failures="{failures}" errors="{errors}" time="{seconds}""#);
        let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
        // Writing to a String does not fail.
        let _ = writeln!(xml, r#"<testsuites name="{name}" {counts}>"#);
        let started = self.started_at.format("%Y-%m-%dT%H:%M:%S");
        let _ = writeln!(xml, r#"  <testsuite name="{name}" timestamp="{started}" {counts}>"#);
        for item in &self.items {
            for trial in &item.trials {
                let case = if item.trials.len() > 1 {
                    format!("{} #{}", item.id, trial.repeat)
                } else {
                    item.id.clone()
                };
                self.write_case(&mut xml, &case, trial);
            }
        }
        xml.push_str("  </testsuite>\n</testsuites>\n");
        xml
    }

    fn write_case(&self, xml: &mut String, case: &str, trial: &Trial) {
        let (class, case, seconds) = (escape(&self.name), escape(case), seconds(trial.latency_ms));
        let _ = writeln!(
            xml,
            r#"    <testcase classname="{class}" name="{case}" time="{seconds}">"#
        );
        if let Some(error) = &trial.error {
            let _ = writeln!(xml, r#"      <error type="run" message="{}"/>"#, escape(error));
        }
        for score in trial.scores.iter().filter(|score| !score.pass) {
            let (element, message) = match &score.error {
                Some(error) => ("error", error),
                None => ("failure", &score.explanation),
            };
            let (kind, message) = (escape(&score.name), escape(message));
            let _ = writeln!(xml, r#"      <{element} type="{kind}" message="{message}"/>"#);
        }
        let output = trial.output.as_deref().unwrap_or_default();
        let said = escape(&format!("run: {}\noutput: {output}", trial.run_id));
        let _ = writeln!(xml, "      <system-out>{said}</system-out>\n    </testcase>");
    }
}

fn seconds(ms: u64) -> String {
    format!("{}.{:03}", ms / 1000, ms % 1000)
}

/// Text fit for an attribute or an element. What XML 1.0 cannot hold at all becomes U+FFFD.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' => escaped.push_str("&#10;"),
            '\t' => escaped.push_str("&#9;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}
