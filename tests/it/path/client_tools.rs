//! Tools that the client runs: the run waits, and whoever asked posts what came out.

use serde_json::{Value, json};

use crate::support::{Api, Stack, in_both_modes};

in_both_modes!(
    a_run_waits_for_the_client_and_goes_on,
    outputs_may_come_one_by_one_twice_and_as_errors,
    outputs_that_nobody_asked_for_are_refused,
);

fn ask(text: &str) -> Value {
    let plain = json!({"name": "look_outside", "description": "What is the weather?",
        "parameters": {"type": "object", "properties": {"where": {"type": "string"}}, "required": ["where"]}});
    let wrapped = json!({"type": "function", "function": {"name": "ask_a_person", "parameters": {"type": "object"}}});
    json!({"input": text, "tools": [plain, wrapped]})
}

async fn post(api: &Api, run: &str, outputs: Value) -> crate::support::Answer {
    api.post(&format!("/v1/runs/{run}/tool_outputs"), &json!({ "outputs": outputs }))
        .await
}

async fn a_run_waits_for_the_client_and_goes_on(stack: &Stack) {
    let api = stack.api();
    let run = api
        .task(ask(
            r#"[[tool:look_outside {"where":"Rome"}]] [[tool:clock {}]] [[then]] [[tokens:5]]"#,
        ))
        .await;
    let calls = api.waits_for(&run, 1).await;
    let waiting = api.run(&run).await;
    let call = &waiting["waiting_on"]["tool_calls"][0];
    assert_eq!(
        (&call["name"], &call["arguments"]),
        (&json!("look_outside"), &json!(r#"{"where":"Rome"}"#))
    );
    assert!(waiting["output"].is_null());

    let taken = post(
        &api,
        &run,
        json!([{"tool_call_id": calls[0], "output": {"sky": "blue", "degrees": 21}}]),
    )
    .await
    .expect(200);
    assert!(taken["waiting_on"].is_null(), "{taken}");
    assert_eq!(api.ended(&run).await["status"], "completed");
    let seen = api.replay(&run).await;
    seen.assert_sound();
    let outputs: Vec<Value> = (seen.events().filter(|frame| frame.name == "tool_call.succeeded"))
        .map(|frame| frame.data())
        .collect();
    let ours = outputs
        .iter()
        .find(|output| output["name"] == "look_outside")
        .expect("our output");
    assert_eq!(
        serde_json::from_str::<Value>(ours["output"].as_str().expect("text")).ok(),
        Some(json!({"sky": "blue", "degrees": 21}))
    );
    assert_eq!(seen.count("run.resumed"), 1, "no worker held the run while it waited");
}

async fn outputs_may_come_one_by_one_twice_and_as_errors(stack: &Stack) {
    let api = stack.api();
    let run = api
        .task(ask(
            "[[tool:look_outside {}]] [[tool:ask_a_person {}]] [[then]] [[echo]]",
        ))
        .await;
    let calls = api.waits_for(&run, 2).await;
    let first = json!([{"tool_call_id": calls[0], "output": "rain"}]);
    for _ in 0..2 {
        let waiting = post(&api, &run, first.clone()).await.expect(200);
        assert_eq!(waiting["status"], "waiting");
        assert_eq!(
            waiting["waiting_on"]["tool_calls"].as_array().map(Vec::len),
            Some(1),
            "{waiting}"
        );
    }
    let other = post(&api, &run, json!([{"tool_call_id": calls[0], "output": "sun"}]))
        .await
        .problem(409);
    assert_eq!(
        (&other["code"], &other["errors"][0]["pointer"]),
        (&json!("output_differs"), &json!("/outputs/0/tool_call_id"))
    );
    let both =
        json!([{"tool_call_id": calls[0], "output": "rain"}, {"tool_call_id": calls[1], "error": "nobody was there"}]);
    post(&api, &run, both.clone()).await.expect(200);
    let ended = api.ended(&run).await;
    assert_eq!(ended["status"], "completed");
    let output = ended["output"].as_str().unwrap_or_default();
    assert!(
        output.contains("rain") && output.contains("nobody was there") && !output.contains("sun"),
        "{output}"
    );
    post(&api, &run, both).await.expect(200);
    let late = post(&api, &run, json!([{"tool_call_id": "another", "output": ""}]))
        .await
        .problem(409);
    assert_eq!(late["code"], "run_already_ended");
    assert_eq!(
        api.replay(&run).await.count("tool_call.succeeded"),
        1,
        "an output posted three times counts once"
    );
}

async fn outputs_that_nobody_asked_for_are_refused(stack: &Stack) {
    let api = stack.api();
    let run = api.task(ask("[[tool:look_outside {}]] [[then]] [[say:fine]]")).await;
    let calls = api.waits_for(&run, 1).await;
    let version = api.run(&run).await["version"].clone();
    let good = json!({"tool_call_id": calls[0], "output": "x"});
    for (outputs, status, code, pointer) in [
        (
            json!([{"tool_call_id": "call_of_another", "output": "x"}]),
            404,
            "unknown_tool_call",
            "/outputs/0/tool_call_id",
        ),
        (
            json!([good, {"tool_call_id": "wrong", "output": "x"}]),
            404,
            "unknown_tool_call",
            "/outputs/1/tool_call_id",
        ),
        (json!([good, good]), 422, "invalid_request", "/outputs/1/tool_call_id"),
        (json!([]), 422, "invalid_request", "/outputs"),
        (
            json!([{"tool_call_id": calls[0]}]),
            422,
            "invalid_request",
            "/outputs/0/output",
        ),
        (
            json!([{"tool_call_id": calls[0], "output": 1, "error": "x"}]),
            422,
            "invalid_request",
            "/outputs/0/error",
        ),
        (
            json!([{"tool_call_id": calls[0], "output": "a\u{0}b"}]),
            422,
            "invalid_request",
            "/outputs/0/output",
        ),
        (
            json!([{"tool_call_id": 7, "output": "x"}]),
            400,
            "invalid_request",
            "/outputs/0/tool_call_id",
        ),
        (json!({"tool_call_id": calls[0]}), 400, "invalid_request", "/outputs"),
    ] {
        let problem = post(&api, &run, outputs.clone()).await.problem(status);
        assert_eq!(
            (&problem["code"], &problem["errors"][0]["pointer"]),
            (&json!(code), &json!(pointer)),
            "{outputs}: {problem}"
        );
    }
    assert_eq!(
        api.run(&run).await["version"],
        version,
        "a refused output leaves no trace"
    );
    post(&api, &run, json!([good])).await.expect(200);
    assert_eq!(api.ended(&run).await["output"], "fine");
}
