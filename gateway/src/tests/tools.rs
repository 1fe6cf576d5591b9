//! Cancels and tool outputs: facts a client adds to a run.

use serde_json::json;
use steadfast::{queue::CommandQueue, run::RunId};

use super::house::{Answer, House, ask_tools, reply};

const TASK: &str = r#"{"input":"a","tools":[{"name":"lookup"}]}"#;

async fn post(house: &House, run_id: RunId, body: serde_json::Value) -> Answer {
    house
        .call("POST", &format!("/v1/runs/{run_id}/tool_outputs"), &body.to_string())
        .await
}

async fn waiting(house: &House) -> RunId {
    let run_id = house.accept(TASK).await;
    house.claim(run_id).await;
    house.act(run_id, ask_tools(&["c1", "c2"])).await;
    // Its first command is done with.
    house.queue.pull(8).await.expect("the queue");
    run_id
}

#[tokio::test]
async fn a_run_goes_on_once_all_its_tool_outputs_are_there() {
    let house = House::open().await;
    let run_id = waiting(&house).await;
    let run = house.call("GET", &format!("/v1/runs/{run_id}"), "").await;
    assert_eq!(run.json["status"], "waiting");
    assert_eq!(run.json["waiting_on"]["type"], "tool_outputs");
    assert_eq!(run.json["waiting_on"]["tool_calls"][1]["id"], "c2");

    let part = post(
        &house,
        run_id,
        json!({"outputs": [{"tool_call_id": "c1", "output": {"a": [1]}}]}),
    )
    .await;
    assert_eq!(
        (part.status.as_u16(), &part.json["status"]),
        (200, &json!("waiting")),
        "{part:?}"
    );
    let same = post(
        &house,
        run_id,
        json!({"outputs": [{"tool_call_id": "c1", "output": "{\"a\":[1]}"}]}),
    )
    .await;
    assert_eq!(
        (same.status.as_u16(), &same.json["version"]),
        (200, &part.json["version"]),
        "a repeat adds nothing"
    );
    let differs = post(
        &house,
        run_id,
        json!({"outputs": [{"tool_call_id": "c1", "output": null}]}),
    )
    .await;
    differs.is_problem(409, "output_differs");
    assert_eq!(differs.header("x-should-retry"), "false");

    let all = post(
        &house,
        run_id,
        json!({"outputs": [{"tool_call_id": "c2", "error": "not found"}]}),
    )
    .await;
    assert_eq!(all.json["status"], "queued", "{all:?}");
    let commands = house.queue.pull(8).await.expect("the queue");
    assert_eq!(
        commands
            .iter()
            .map(|delivery| delivery.command.run_id)
            .collect::<Vec<_>>(),
        [run_id]
    );
    let head = house
        .store
        .reader
        .head(run_id)
        .await
        .expect("the store")
        .expect("the run");
    assert!(head.due_at.is_some(), "the redriver would find it");
}

#[tokio::test]
async fn outputs_that_do_not_fit_are_refused_by_pointer() {
    let house = House::open().await;
    let run_id = waiting(&house).await;
    for (body, status, code, pointer) in [
        (
            json!({"outputs": [{"tool_call_id": "c1", "output": "x"}, {"tool_call_id": "zz", "output": "x"}]}),
            404,
            "unknown_tool_call",
            "/outputs/1/tool_call_id",
        ),
        (
            json!({"outputs": [{"tool_call_id": "c1", "output": "x"}, {"tool_call_id": "c1", "output": "x"}]}),
            422,
            "invalid_request",
            "/outputs/1/tool_call_id",
        ),
        (json!({"outputs": []}), 422, "invalid_request", "/outputs"),
        (
            json!({"outputs": [{"tool_call_id": "c1"}]}),
            422,
            "invalid_request",
            "/outputs/0/output",
        ),
        (
            json!({"outputs": [{"tool_call_id": "c1", "output": 1, "error": "e"}]}),
            422,
            "invalid_request",
            "/outputs/0/error",
        ),
        (
            json!({"outputs": [{"output": 1}]}),
            400,
            "invalid_request",
            "/outputs/0",
        ),
        (
            json!({"outputs": [{"tool_call_id": "c1", "outptu": 1}]}),
            400,
            "invalid_request",
            "/outputs/0/outptu",
        ),
    ] {
        let answer = post(&house, run_id, body).await;
        answer.is_problem(status, code);
        assert_eq!(answer.json["errors"][0]["pointer"], pointer, "{answer:?}");
    }
    let head = house
        .store
        .reader
        .head(run_id)
        .await
        .expect("the store")
        .expect("the run");
    assert_eq!(head.status.as_str(), "waiting", "nothing was added");
}

#[tokio::test]
async fn a_cancelled_run_ends_at_once_when_nobody_holds_it() {
    let house = House::open().await;
    let run_id = house.accept(TASK).await;
    let path = format!("/v1/runs/{run_id}/cancel");
    let cancel = || house.call_with("POST", &path, &[("Idempotency-Key", "c")], r#"{"reason":"wrong task"}"#);
    let first = cancel().await;
    assert_eq!(
        (first.status.as_u16(), &first.json["status"]),
        (200, &json!("cancelled")),
        "{first:?}"
    );
    let again = cancel().await;
    assert_eq!(
        (again.header("idempotency-replayed"), &again.json),
        ("true", &first.json)
    );
    house.call("POST", &path, "").await.is_problem(409, "run_already_ended");
    let late = post(
        &house,
        run_id,
        json!({"outputs": [{"tool_call_id": "c1", "output": "x"}]}),
    )
    .await;
    late.is_problem(409, "run_already_ended");
    assert_eq!(late.json["run_id"], run_id.to_string());
}

#[tokio::test]
async fn a_run_at_work_is_told_to_stop_and_its_worker_confirms() {
    let house = House::open().await;
    let run_id = house.accept(r#"{"input":"a"}"#).await;
    house.claim(run_id).await;
    let path = format!("/v1/runs/{run_id}/cancel");
    let asked = house.call("POST", &path, "").await;
    assert_eq!(
        (&asked.json["status"], &asked.json["cancel_requested"]),
        (&json!("running"), &json!(true)),
        "{asked:?}"
    );
    assert_eq!(
        house.call("POST", &path, "{}").await.json["version"],
        asked.json["version"],
        "asking twice adds nothing"
    );
    let head = house
        .store
        .reader
        .head(run_id)
        .await
        .expect("the store")
        .expect("the run");
    assert_eq!(head.lease_owner.as_deref(), Some("test"), "the worker keeps its lease");
    house.act(run_id, reply(&["too late"])).await;
    assert_eq!(
        house.call("GET", &format!("/v1/runs/{run_id}"), "").await.json["status"],
        "cancelled"
    );
}
