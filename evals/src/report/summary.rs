//! A few lines for people: what passed, and of what did not, why.

use std::fmt::Write;

use super::{ItemResult, Report, Trial};
use crate::text::one_line;

impl Report {
    /// The report for people. Plain text, safe to print: nothing an agent said can steer the terminal.
    pub fn to_summary(&self) -> String {
        let width = self
            .items
            .iter()
            .map(|item| one_line(&item.id).chars().count())
            .max()
            .unwrap_or(0);
        let mut text = String::new();
        for item in &self.items {
            // Writing to a String does not fail.
            let verdict = if item.passed { "ok  " } else { "FAIL" };
            let _ = writeln!(text, "{verdict}  {:<width$}  {}", one_line(&item.id), line(item));
            for trial in item.trials.iter().filter(|trial| !trial.passed) {
                write_reasons(&mut text, trial, item.trials.len() > 1);
            }
        }
        let t = &self.totals;
        let verdict = if self.passed { "PASSED" } else { "FAILED" };
        let _ = writeln!(
            text,
            "\n{verdict}: {} of {} items passed, {:.0} % were needed ({}, agent {})",
            t.items_passed,
            t.items,
            self.threshold * 100.0,
            one_line(&self.name),
            one_line(&self.agent),
        );
        let _ = writeln!(
            text,
            "{} trials, {} in error; p50 {} ms, p95 {} ms; {} + {} tokens, {:.4} USD",
            t.trials,
            t.trials_in_error,
            t.latency_ms_p50,
            t.latency_ms_p95,
            t.usage.input_tokens,
            t.usage.output_tokens,
            t.usage.cost_microusd as f64 / 1e6,
        );
        text
    }
}

fn line(item: &ItemResult) -> String {
    let slowest = item.trials.iter().map(|trial| trial.latency_ms).max().unwrap_or(0);
    let passed = item.trials.iter().filter(|trial| trial.passed).count();
    match &item.trials[..] {
        [trial] => {
            let names: Vec<&str> = trial.scores.iter().map(|score| score.name.as_str()).collect();
            format!("{slowest} ms  {}", names.join(", "))
        }
        trials => format!("{passed} of {} trials, slowest {slowest} ms", trials.len()),
    }
}

fn write_reasons(text: &mut String, trial: &Trial, repeated: bool) {
    let which = if repeated {
        format!("#{} ", trial.repeat)
    } else {
        String::new()
    };
    if let Some(error) = &trial.error {
        let _ = writeln!(text, "      {which}error: {}", one_line(error));
    }
    for score in trial.scores.iter().filter(|score| !score.pass) {
        let error = score
            .error
            .as_ref()
            .map(|error| format!(" [{error}]"))
            .unwrap_or_default();
        let _ = writeln!(
            text,
            "      {which}{}: {}",
            score.name,
            clean(&format!("{}{error}", score.explanation))
        );
    }
    if !trial.run_id.is_empty() {
        let _ = writeln!(text, "      {which}run: {}", trial.run_id);
    }
}

/// Explanations are bounded already and may be longer than an excerpt; only what steers a terminal is taken out.
fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if crate::text::is_unprintable(c) { ' ' } else { c })
        .collect()
}
