//! Someone wants a run to stop: before it began, in the middle, and while it waits.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Stack, in_both_modes};

in_both_modes!(
    a_run_is_cancelled_in_the_middle_of_an_answer,
    a_run_that_waits_and_the_one_queued_behind_it_are_cancelled_at_once,
);

/// The model is let go of within this.
const LET_GO_MAX: Duration = Duration::from_secs(10);
/// A run that was held back goes on at once: it does not wait to be found.
const NEXT_MAX: Duration = Duration::from_secs(4);

async fn cancel(stack: &Stack, run: &str, reason: &str) -> Value {
    stack
        .api()
        .post(&format!("/v1/runs/{run}/cancel"), &json!({ "reason": reason }))
        .await
        .expect(200)
}

async fn a_run_is_cancelled_in_the_middle_of_an_answer(stack: &Stack) {
    let api = stack.api();
    // Minutes of talk, if nobody stopped it.
    let text = "[[tokens:60000]] talk on";
    let run = api.task(json!({ "input": text })).await;
    let watching = tokio::spawn({
        let (api, run) = (api.clone(), run.clone());
        async move { api.replay(&run).await }
    });
    api.until(&run, |frame| frame.id.ends_with(".3")).await;
    let asked = cancel(stack, &run, "enough").await;
    assert_eq!(asked["cancel_requested"], true);
    let ended = api.ended(&run).await;
    assert_eq!(
        (&ended["status"], &ended["output"]),
        (&json!("cancelled"), &Value::Null)
    );
    let seen = watching.await.expect("the watcher");
    seen.assert_sound();
    assert!(seen.names().ends_with(&[
        "model_call.requested",
        "cancel.requested",
        "model_call.orphaned",
        "run.cancelled"
    ]));
    assert_eq!(seen.only("run.cancelled")["reason"], "enough");
    assert!(
        seen.count("step.reset") >= 1,
        "what was said of the answer is taken back"
    );
    let gone = async {
        while stack.model().stats().in_flight > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LET_GO_MAX, gone)
        .await
        .expect("the connection to the model stays open");
    let late = api
        .post(&format!("/v1/runs/{run}/cancel"), &json!({}))
        .await
        .problem(409);
    assert_eq!(late["code"], "run_already_ended");
}

async fn a_run_that_waits_and_the_one_queued_behind_it_are_cancelled_at_once(stack: &Stack) {
    let api = stack.api();
    let waiting = api
        .task(json!({"input": "[[tool:ask {}]]", "tools": [{"name": "ask"}]}))
        .await;
    api.waits_for(&waiting, 1).await;
    let session = api.run(&waiting).await["session_id"].clone();
    let post = async |text: &str| api.task(json!({"input": text, "session_id": session})).await;
    let (queued, last) = (post("never begun").await, post("[[say:at last]]").await);
    assert_eq!(api.run(&queued).await["status"], "queued");

    assert_eq!(cancel(stack, &queued, "not needed").await["status"], "cancelled");
    let seen = api.replay(&queued).await;
    assert_eq!(seen.names(), ["run.requested", "cancel.requested", "run.cancelled"]);
    assert_eq!(stack.model().stats().calls_for("never begun"), 0);

    assert_eq!(cancel(stack, &waiting, "nobody answers").await["status"], "cancelled");
    let outputs = json!({"outputs": [{"tool_call_id": "call_1", "output": "too late"}]});
    let late = api
        .post(&format!("/v1/runs/{waiting}/tool_outputs"), &outputs)
        .await
        .problem(409);
    assert_eq!(late["code"], "run_already_ended");
    let freed = Instant::now();
    let next = api.ended(&last).await;
    assert_eq!(next["output"], "at last", "the session goes on with its next run");
    assert!(
        freed.elapsed() < NEXT_MAX,
        "the session's next run was told {:?} late",
        freed.elapsed()
    );
}
