//! A model that fails in every way it knows: each ends well, and what was taken back is said to be.

use std::time::Duration;

use serde_json::{Value, json};
use steadfast_tests::fresh_prefix;

use crate::support::{Api, Stack, Transcript, in_both_modes, read};

in_both_modes!(
    a_fault_that_passes_is_retried_to_the_exact_answer,
    faults_that_stay_end_the_run_with_a_reason,
    a_model_that_hangs_is_ended_by_the_deadline,
);

async fn watch(api: &Api, body: Value) -> Transcript {
    let seen = read(api.stream(body).await).await;
    seen.assert_sound();
    seen
}

/// The class and whether a retry was promised, of each failed call.
fn failures(seen: &Transcript) -> Vec<(String, bool)> {
    let failed = seen
        .events()
        .filter(|frame| frame.name == "model_call.failed")
        .map(|frame| frame.data());
    failed
        .map(|data| {
            (
                data["class"].as_str().unwrap_or_default().to_owned(),
                data["retry_at"].is_string(),
            )
        })
        .collect()
}

async fn a_fault_that_passes_is_retried_to_the_exact_answer(stack: &Stack) {
    let api = stack.api();
    let faults = [
        ("503*1", "unavailable", false),
        ("500*1", "unavailable", false),
        ("cut*1", "connection", true),
        ("malformed*1", "malformed", true),
        ("bad_utf8*1", "malformed", true),
        ("error_in_200*1", "unavailable", true),
        ("empty*1", "malformed", false),
    ];
    let said = "one two three four five six seven eight";
    let one = async |(fault, class, after_output): (&str, &str, bool)| {
        let text = format!("{} [[fault:{fault}]] [[say:{said}]]", fresh_prefix());
        let seen = watch(&api, json!({ "input": text })).await;
        assert_eq!(seen.only("run.completed")["output"], said, "{fault}");
        assert_eq!(failures(&seen), [(class.to_owned(), true)], "{fault}");
        assert_eq!(seen.count("step.reset") > 0, after_output, "{fault}: {:?}", seen.0);
        assert_eq!(stack.model().stats().calls_for(&text), 2, "{fault}");
        let run = seen.0[0].value()["run_id"].as_str().expect("an id").to_owned();
        seen.assert_same(&api.replay(&run).await);
    };
    futures::future::join_all(faults.map(one)).await;
}

async fn faults_that_stay_end_the_run_with_a_reason(stack: &Stack) {
    let api = stack.api();
    let faults = [
        ("400", "model_rejected", 1),
        ("503", "model_unavailable", 2),
        ("cut", "model_connection", 2),
        ("empty", "model_malformed", 2),
    ];
    let one = async |(fault, code, calls): (&str, &str, u64)| {
        let text = format!("{} [[fault:{fault}]] [[say:never said in full]]", fresh_prefix());
        let seen = watch(&api, json!({"input": text, "limits": {"model_attempts_max": 2}})).await;
        let error = seen.only("run.failed")["error"].clone();
        assert_eq!(error["code"], code, "{error}");
        assert!(
            error["message"].as_str().is_some_and(|message| message.len() > 20),
            "{error}"
        );
        assert_eq!(stack.model().stats().calls_for(&text), calls, "{fault}");
        let run = seen.0[0].value()["run_id"].as_str().expect("an id").to_owned();
        let run = api.run(&run).await;
        assert_eq!(
            (&run["status"], &run["error"], &run["output"]),
            (&json!("failed"), &error, &Value::Null)
        );
    };
    futures::future::join_all(faults.map(one)).await;
}

async fn a_model_that_hangs_is_ended_by_the_deadline(stack: &Stack) {
    let api = stack.api();
    let one = async |fault: &str| {
        let text = format!("{} [[fault:{fault}]] [[say:never said in full]]", fresh_prefix());
        let begun = tokio::time::Instant::now();
        let seen = watch(&api, json!({"input": text, "limits": {"run_seconds_max": 2}})).await;
        assert!(
            begun.elapsed() < Duration::from_secs(15),
            "{fault} ended after {:?}",
            begun.elapsed()
        );
        assert_eq!(seen.only("run.failed")["error"]["code"], "deadline", "{fault}");
        assert_eq!(
            seen.count("model_call.orphaned"),
            1,
            "{fault}: the call that was given up is accounted for"
        );
    };
    tokio::join!(one("hang"), one("hang_mid"));
}
