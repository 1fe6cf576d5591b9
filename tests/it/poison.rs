//! A run that takes every process with it that touches it: it ends by itself, and those beside it do not suffer.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Api, Layout};

/// Workers the run may take with it.
const CLAIMS_MAX: usize = 2;
const HEALTHY: usize = 10;
const PATIENCE: Duration = Duration::from_secs(60);

/// How often the log says this of the run.
async fn count(api: &Api, run: &str, name: &str) -> usize {
    let events = api.get(&format!("/v1/runs/{run}/events?limit=100")).await.expect(200);
    let events = events["data"].as_array().expect("a list").clone();
    events.iter().filter(|event| event["type"] == name).count()
}

async fn until(what: &str, mut reached: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !reached().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, wait).await;
    waited.unwrap_or_else(|_| panic!("in {PATIENCE:?} there was no {what}"));
}

/// SIGKILL stands for an abort, a full stack or a full memory: the process says nothing any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_whose_every_worker_dies_ends_as_poison_and_its_calls_are_charged() {
    let mut stack = Layout::embedded().start().await;
    let api = stack.api();
    let text = "[[fault:hang]] takes everybody with it";
    let poison = api
        .task(json!({"input": text, "limits": {"claims_max": CLAIMS_MAX}}))
        .await;
    let mut healthy = vec![];
    for claim in 1..=CLAIMS_MAX {
        until("call under way", async || {
            stack.model().stats().calls_for(text) == claim as u64
        })
        .await;
        for n in 0..HEALTHY {
            let text = format!("[[say:fine]] {claim} {n}");
            healthy.push(api.task(json!({"input": text})).await);
        }
        stack.gateways[0].restart().await;
    }
    let ended = api.ended(&poison).await;
    let error = &ended["error"];
    assert_eq!((&ended["status"], &error["code"]), (&json!("failed"), &json!("poison")));
    let said = error["message"].as_str().expect("a sentence");
    assert!(
        said.starts_with("2 workers in a row") && said.contains("was lost during the model call of step 1"),
        "{said}"
    );
    assert_eq!(stack.model().stats().calls_for(text), CLAIMS_MAX as u64);
    assert_eq!(count(&api, &poison, "model_call.requested").await, CLAIMS_MAX);
    assert_eq!(count(&api, &poison, "model_call.orphaned").await, CLAIMS_MAX);
    assert!(ended["usage"]["output_tokens"].as_u64() > Some(0), "{ended}");
    for run in &healthy {
        assert_eq!(api.ended(run).await["status"], Value::from("completed"), "{run}");
    }
    stack.check_settled().await;
}
