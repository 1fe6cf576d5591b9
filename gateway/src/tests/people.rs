//! What people decide: approvals and budgets.

use serde_json::{Value, json};
use steadfast::run::{Command, ModelReply, RunId, ToolCall};

use super::house::{Answer, House, advance};
use crate::clock;

async fn get(house: &House, run_id: RunId, rest: &str) -> Answer {
    house.call("GET", &format!("/v1/runs/{run_id}{rest}"), "").await
}

async fn post(house: &House, run_id: RunId, rest: &str, body: Value) -> Answer {
    house
        .call("POST", &format!("/v1/runs/{run_id}{rest}"), &body.to_string())
        .await
}

/// A run whose `pay` was cut off by a crash: approval 8 asks about it.
async fn asking(house: &House) -> RunId {
    let run_id = house.accept(r#"{"input":"a","agent":"payer"}"#).await;
    house.claim(run_id).await;
    let pay = |_| Command::RecordReply {
        now: clock::now(),
        step: 1,
        attempt: 1,
        reply: ModelReply {
            tool_calls: vec![ToolCall {
                id: "c1".into(),
                name: "pay".into(),
                arguments: "{\"eur\":5}".into(),
            }],
            ..ModelReply::default()
        },
    };
    house.act(run_id, pay).await;
    house.act(run_id, advance).await;
    run_id
}

#[tokio::test]
async fn a_run_that_asks_says_what_and_goes_on_when_a_person_has_answered() {
    let house = House::open().await;
    let run_id = asking(&house).await;
    let run = get(&house, run_id, "").await;
    assert_eq!(run.json["status"], "waiting");
    let asked = &run.json["waiting_on"]["approvals"][0];
    assert_eq!(
        (
            &run.json["waiting_on"]["type"],
            &asked["id"],
            &asked["about"],
            &asked["tool_call"]["name"]
        ),
        (
            &json!("approval"),
            &json!("apr_8"),
            &json!("cut_off_tool"),
            &json!("pay")
        )
    );
    let hash = asked["arguments_sha256"].clone();
    let list = get(&house, run_id, "/approvals").await;
    assert_eq!(
        (&list.json["data"][0]["status"], &list.json["data"][0]["by"]),
        (&json!("pending"), &Value::Null)
    );

    let resolve = "/approvals/apr_8/resolve";
    post(
        &house,
        run_id,
        resolve,
        json!({"decision": "allow", "arguments_sha256": "00"}),
    )
    .await
    .is_problem(409, "arguments_differ");
    let decision = json!({"decision": "edit", "output": {"receipt": 7}, "arguments_sha256": hash});
    let decided = post(&house, run_id, resolve, decision.clone()).await;
    assert_eq!(
        (decided.status.as_u16(), &decided.json["status"]),
        (200, &json!("queued")),
        "{decided:?}"
    );
    let again = post(&house, run_id, resolve, decision).await;
    assert_eq!(
        (again.status.as_u16(), &again.json["version"]),
        (200, &decided.json["version"])
    );
    post(&house, run_id, resolve, json!({"decision": "deny"}))
        .await
        .is_problem(409, "decision_differs");
    let list = get(&house, run_id, "/approvals").await.json;
    let one = &list["data"][0];
    assert_eq!(
        (&one["status"], &one["decision"], &one["by"], &one["output"]),
        (
            &json!("granted"),
            &json!("edit"),
            &json!("local"),
            &json!("{\"receipt\":7}")
        )
    );
}

#[tokio::test]
async fn a_decision_that_does_not_read_is_told_where() {
    let house = House::open().await;
    let run_id = asking(&house).await;
    let resolve = "/approvals/apr_8/resolve";
    for (body, pointer) in [
        (json!({"decision": "edit"}), "/output"),
        (json!({"decision": "allow", "output": null}), "/output"),
        (json!({"decision": "allow", "reason": "x"}), "/reason"),
        (json!({"decision": "deny", "reason": "x".repeat(1001)}), "/reason"),
        (json!({"decision": "perhaps"}), "/decision"),
        (json!({}), ""),
    ] {
        let answer = post(&house, run_id, resolve, body.clone()).await;
        assert!(answer.status.is_client_error(), "{answer:?}");
        assert_eq!(answer.json["errors"][0]["pointer"], pointer, "{body}: {answer:?}");
    }
    for id in ["apr_99", "apr_", "x"] {
        let answer = post(
            &house,
            run_id,
            &format!("/approvals/{id}/resolve"),
            json!({"decision": "allow"}),
        )
        .await;
        answer.is_problem(404, "approval_not_found");
    }
    post(&house, run_id, "/cancel", json!({})).await;
    post(&house, run_id, resolve, json!({"decision": "allow"}))
        .await
        .is_problem(409, "run_already_ended");
}

#[tokio::test]
async fn a_budget_is_lowered_with_the_task_waited_for_and_raised() {
    let house = House::open().await;
    let run_id = house
        .accept(r#"{"input":"a","budget":{"tokens":10,"on_breach":"ask"}}"#)
        .await;
    house.act(run_id, advance).await;
    let run = get(&house, run_id, "").await;
    let on = &run.json["waiting_on"];
    assert_eq!(
        (&run.json["status"], &on["type"], &on["limit"], &on["budget"]),
        (&json!("waiting"), &json!("budget"), &json!("tokens"), &json!(10))
    );
    assert_eq!(run.json["budget"], json!({"tokens": 10, "on_breach": "ask"}));
    for (body, pointer) in [
        (json!({"tokens": 9}), "/tokens"),
        (json!({"steps": 9}), "/steps"),
        (json!({"usd": -1.0}), "/usd"),
        (json!({"tokens": 2_000_000_000_000_u64}), "/tokens"),
        (json!({"token": 9}), "/token"),
        (json!({}), ""),
    ] {
        let answer = post(&house, run_id, "/budget", body.clone()).await;
        assert!(answer.status.is_client_error(), "{answer:?}");
        assert_eq!(answer.json["errors"][0]["pointer"], pointer, "{body}: {answer:?}");
    }
    let little = post(&house, run_id, "/budget", json!({"tokens": 11})).await;
    assert_eq!(
        (little.status.as_u16(), &little.json["status"]),
        (200, &json!("waiting"))
    );
    let enough = post(&house, run_id, "/budget", json!({"tokens": 100_000})).await;
    assert_eq!(
        (enough.status.as_u16(), &enough.json["status"]),
        (200, &json!("queued"))
    );
    let again = post(&house, run_id, "/budget", json!({"tokens": 100_000})).await;
    assert_eq!(
        again.json["version"], enough.json["version"],
        "a total, not an addition"
    );
}
