use async_trait::async_trait;
use chrono::{TimeZone, Utc};
use serde_json::{Value, json};
use steadfast::run::{RunId, ToolCall, ToolSpec};

use super::{Echo, HttpGetOptions, OUTPUT_BYTES_MAX, Tool, ToolContext, Toolbox};

/// What one call may take.
const SECONDS_MAX: u64 = 60;

fn context() -> ToolContext {
    ToolContext {
        run_id: RunId::default(),
        tool_call_id: "call_1".into(),
        idempotency_key: "k".into(),
        now: Utc
            .with_ymd_and_hms(2026, 11, 22, 23, 30, 0)
            .single()
            .expect("a moment"),
    }
}

async fn call(toolbox: &Toolbox, name: &str, arguments: impl ToString) -> Result<String, String> {
    let call = ToolCall {
        id: "call_1".into(),
        name: name.into(),
        arguments: arguments.to_string(),
    };
    toolbox.call(&call, &context(), SECONDS_MAX).await
}

/// A tool that does what its name says.
struct Misbehaving(&'static str);

#[async_trait]
impl Tool for Misbehaving {
    fn spec(&self) -> ToolSpec {
        ToolSpec {
            name: self.0.into(),
            description: String::new(),
            parameters: json!({"type": "object"}),
        }
    }

    fn retry_safe(&self) -> bool {
        false
    }

    async fn call(&self, _arguments: &Value, _context: &ToolContext) -> Result<String, String> {
        match self.0 {
            "hangs" => std::future::pending().await,
            "floods" => Ok("é".repeat(OUTPUT_BYTES_MAX)),
            "floods_errors" => Err("x".repeat(OUTPUT_BYTES_MAX + 1)),
            other => panic!("{other} panics"),
        }
    }
}

#[tokio::test]
async fn a_panic_in_a_tool_is_an_error_for_the_model_and_no_more() {
    let toolbox = Toolbox::default().with(Misbehaving("breaks")).with(Echo);
    let said = call(&toolbox, "breaks", "{}").await.expect_err("it panicked");
    assert!(said.contains("the tool breaks broke down"), "{said}");
    assert_eq!(
        call(&toolbox, "lookup", json!({"q": "still here"})).await.as_deref(),
        Ok("still here")
    );
}

#[tokio::test(start_paused = true)]
async fn a_tool_that_hangs_is_given_up() {
    let toolbox = Toolbox::default().with(Misbehaving("hangs"));
    assert_eq!(
        call(&toolbox, "hangs", "{}").await,
        Err("the tool hangs did not end within 60 s (limits.tool_seconds_max)".into())
    );
}

#[tokio::test]
async fn an_output_without_end_is_cut_inside_no_character_and_the_model_is_told() {
    let toolbox = Toolbox::default()
        .with(Misbehaving("floods"))
        .with(Misbehaving("floods_errors"));
    let output = call(&toolbox, "floods", "{}").await.expect("an output");
    assert!(
        output.len() < OUTPUT_BYTES_MAX + 100 && output.contains("[cut: 524288 bytes in all"),
        "{}",
        output.len()
    );
    assert!(
        call(&toolbox, "floods_errors", "{}")
            .await
            .expect_err("an error")
            .contains("[cut: ")
    );
}

#[tokio::test]
async fn arguments_that_are_no_object_are_refused_before_the_tool_sees_them() {
    let toolbox = Toolbox::default().with(Echo);
    for (arguments, expected) in [
        ("{\"q\": ", "not valid JSON"),
        ("[1]", "must be a JSON object"),
        ("\"text\"", "must be a JSON object"),
        ("", "\"q\" is missing"),
        ("{\"q\": 7}", "\"q\" must be a string"),
    ] {
        let said = call(&toolbox, "lookup", arguments).await.expect_err(arguments);
        assert!(said.contains(expected), "{arguments}: {said}");
    }
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    assert!(
        call(&toolbox, "lookup", deep)
            .await
            .expect_err("too deep")
            .contains("not valid JSON")
    );
}

#[tokio::test]
async fn a_tool_that_is_not_there_is_met_with_those_that_are() {
    let toolbox = Toolbox::builtin(HttpGetOptions::default());
    let said = call(&toolbox, "calc", "{}").await.expect_err("there is no such tool");
    assert!(said.contains("it has: calculator, clock, http_get"), "{said}");
    let known: Vec<(String, bool)> = toolbox.known().into_iter().collect();
    assert_eq!(known.len(), 3);
    assert!(known.iter().all(|(_, retry_safe)| *retry_safe));
    let names: Vec<String> = toolbox
        .specs(["clock", "nope", "calculator"])
        .into_iter()
        .map(|spec| spec.name)
        .collect();
    assert_eq!(names, ["clock", "calculator"]);
}

#[tokio::test]
async fn the_clock_tells_the_contexts_time_here_and_there() {
    let toolbox = Toolbox::builtin(HttpGetOptions::default());
    assert_eq!(
        call(&toolbox, "clock", "{}").await.as_deref(),
        Ok("2026-11-22T23:30:00Z UTC, Sunday")
    );
    let there = call(&toolbox, "clock", json!({"utc_offset_minutes": 330})).await;
    let expected = "2026-11-22T23:30:00Z UTC, Sunday; local time 2026-11-23T05:00:00+05:30, Monday";
    assert_eq!(there.as_deref(), Ok(expected));
    for bad in [json!("two"), json!(1_000_000), json!(1.5), json!(-901), json!(1e300)] {
        let said = call(&toolbox, "clock", json!({"utc_offset_minutes": bad}))
            .await
            .expect_err("no such offset");
        assert!(
            said.contains("utc_offset_minutes must be a whole number from -900 to 900"),
            "{said}"
        );
    }
}

#[tokio::test]
async fn the_calculator_is_reached_by_its_argument() {
    let toolbox = Toolbox::builtin(HttpGetOptions::default());
    assert_eq!(
        call(&toolbox, "calculator", json!({"expression": "6*7"}))
            .await
            .as_deref(),
        Ok("42")
    );
    assert!(
        call(&toolbox, "calculator", "{}")
            .await
            .expect_err("nothing to compute")
            .contains("\"expression\"")
    );
}
