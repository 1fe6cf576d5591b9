//! Walls: poison, and the time of a step and of a tool.

use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use futures::future::join_all;
use serde_json::Value;
use steadfast::run::{agent::AgentTool, state};
use steadfast_workers::tools::{Tool, ToolContext};

use super::*;

/// Panics where nothing but the execution itself can catch it: when the model is told of it.
struct Grenade {
    described: AtomicBool,
}

#[async_trait]
impl Tool for Grenade {
    fn spec(&self) -> ToolSpec {
        // Being put into the box is the first time.
        assert!(!self.described.swap(true, Ordering::SeqCst), "the pin is out");
        spec("grenade")
    }

    fn retry_safe(&self) -> bool {
        true
    }

    async fn call(&self, _: &Value, _: &ToolContext) -> Result<String, String> {
        Ok("never described, never called".into())
    }
}

/// Never ends.
struct Endless;

#[async_trait]
impl Tool for Endless {
    fn spec(&self) -> ToolSpec {
        spec("endless")
    }

    fn retry_safe(&self) -> bool {
        true
    }

    async fn call(&self, _: &Value, _: &ToolContext) -> Result<String, String> {
        std::future::pending().await
    }
}

pub fn spec(name: &str) -> ToolSpec {
    ToolSpec {
        name: name.into(),
        description: String::new(),
        parameters: serde_json::json!({"type": "object"}),
    }
}

pub fn only(name: &str, retry_safe: bool) -> Vec<AgentTool> {
    vec![AgentTool {
        name: name.into(),
        retry_safe,
    }]
}

fn failure(loaded: &Loaded) -> (&str, &str) {
    match &loaded.run.outcome {
        Some(state::Outcome::Failed { error }) => (&error.code, &error.message),
        other => panic!("{other:?}"),
    }
}

/// As many panics as would use up every slot of the worker, if one were kept for each.
#[tokio::test]
async fn runs_that_panic_every_time_are_poison_and_take_nobody_with_them() {
    const EACH: usize = 20;
    let house = House::new().await;
    let grenade = Grenade {
        described: AtomicBool::new(false),
    };
    let tools = Toolbox::builtin(Default::default()).with(grenade);
    let (stop, worker) = house.worker_with("w1", Duration::ZERO, tools);
    let (mut poison, mut healthy) = (Vec::new(), Vec::new());
    for _ in 0..EACH {
        let armed = house.post_with("hello", None, |request| request.server_tools = only("grenade", true));
        poison.push(armed.await);
        healthy.push(house.post("What is 6 * 7?", None, vec![]).await);
    }
    for ended in join_all(healthy.iter().map(|run_id| house.ended(*run_id))).await {
        assert_eq!(ended.head.status, Status::Completed, "{:?}", ended.run);
    }
    for ended in join_all(poison.iter().map(|run_id| house.ended(*run_id))).await {
        let (code, message) = failure(&ended);
        assert_eq!(code, "poison");
        assert!(
            message.starts_with("5 workers in a row") && message.contains("panicked"),
            "{message}"
        );
        let names = house.names(ended.head.run_id).await;
        let count = |name: &str| names.iter().filter(|seen| *seen == name).count();
        assert_eq!(
            (count("run.interrupted"), count("model_call.orphaned")),
            (5, 5),
            "{names:?}"
        );
    }
    let after = house.post("What is 6 * 7?", None, vec![]).await;
    assert_eq!(house.ended(after).await.head.status, Status::Completed);
    stop.cancel();
    worker.await.expect("the worker outlived every panic");
}

#[tokio::test]
async fn a_tool_that_takes_too_long_has_failed_and_the_model_is_told() {
    let house = House::new().await;
    let (_stop, _worker) = house.worker_with("w1", Duration::ZERO, Toolbox::default().with(Endless));
    let run_id = house.post_with("go", None, |request| {
        request.server_tools = only("endless", true);
        request.limits.tool_seconds_max = 1;
    });
    let ended = house.ended(run_id.await).await;
    assert_eq!(ended.head.status, Status::Completed);
    let told = ended.run.messages.iter().any(|message| {
        message
            .content()
            .contains("the tool endless did not end within 1 s (limits.tool_seconds_max)")
    });
    assert!(told, "{:?}", ended.run.messages);
}

#[tokio::test]
async fn a_step_that_takes_too_long_fails_the_run_by_the_name_of_its_limit() {
    let house = House::new().await;
    let tools = Toolbox::default().with(Endless);
    let (_stop, _worker) = house.worker_with("w1", Duration::from_secs(5), tools);
    let call = house.post_with("a model call", None, |request| {
        request.server_tools.clear();
        request.limits.step_seconds_max = 1;
    });
    let ended = house.ended(call.await).await;
    let names = house.names(ended.head.run_id).await;
    assert_eq!(
        failure(&ended),
        (
            "step_deadline",
            "step 1 did not end within 1 s (limits.step_seconds_max)"
        )
    );
    assert_eq!(names[names.len() - 2..], ["model_call.orphaned", "run.failed"]);
}
