//! A task from the post to the answer.

use serde_json::{Value, json};

use crate::support::{Stack, assert_chained, in_both_modes, read};

in_both_modes!(
    a_task_runs_a_tool_and_streams_to_its_answer,
    several_tools_run_in_one_turn,
    a_conversation_may_be_given_as_messages,
    a_long_poll_answers_at_the_end_or_when_its_time_is_over,
    runs_and_their_usage_are_listed,
    a_large_answer_comes_whole,
);

const ONE_TOOL: [&str; 9] = [
    "run.requested",
    "run.started",
    "model_call.requested",
    "model.replied",
    "tool_call.requested",
    "tool_call.succeeded",
    "model_call.requested",
    "model.replied",
    "run.completed",
];

async fn a_task_runs_a_tool_and_streams_to_its_answer(stack: &Stack) {
    let api = stack.api();
    let text = r#"How much is it? [[tool:calculator {"expression":"6 * 7"}]]"#;
    let stream = api.stream(json!({"input": text, "metadata": {"from": "a test"}})).await;
    let headers = stream.headers().clone();
    let location = headers["location"].to_str().expect("a location").to_owned();
    assert!(headers.contains_key("x-request-id"));
    let seen = read(stream).await;

    seen.assert_sound();
    assert_eq!(seen.names(), ONE_TOOL);
    assert_eq!(seen.only("tool_call.succeeded")["output"], "42");
    assert!(seen.count("agent.message.delta") > 1, "the answer came in one piece");

    let run = api.get(&location).await.expect(200);
    let id = run["id"].as_str().expect("an id");
    assert_eq!(location, format!("/v1/runs/{id}"));
    assert_eq!(
        (&run["object"], &run["status"], &run["metadata"]["from"]),
        (&json!("run"), &json!("completed"), &json!("a test"))
    );
    let answer = seen
        .events()
        .filter(|frame| frame.name == "model.replied")
        .last()
        .expect("an answer")
        .data();
    assert_eq!(run["output"], answer["text"]);
    assert!(run["output"].as_str().is_some_and(|text| text.ends_with("done.")));
    assert!(run["usage"]["input_tokens"].as_u64() > Some(0) && run["usage"]["output_tokens"].as_u64() > Some(24));
    assert!(run["error"].is_null() && run["waiting_on"].is_null() && run["ended_at"].is_string());

    let events = api.events(id).await;
    let streamed: Vec<&str> = seen.events().map(|frame| frame.json.as_str()).collect();
    assert_eq!(events, streamed, "the list and the stream tell the same story");
    assert_chained("default", &events);
    seen.assert_same(&api.replay(id).await);
}

async fn several_tools_run_in_one_turn(stack: &Stack) {
    let text = r#"[[tool:calculator {"expression":"1+1"}]] [[tool:clock {}]] [[tool:calculator {"expression":"2+2"}]]
        [[then]] [[tool:calculator {"expression":"1/0"}]] [[tool:no_such_tool {}]]"#;
    let seen = read(stack.api().stream(json!({ "input": text })).await).await;
    seen.assert_sound();
    assert_eq!(seen.count("model.replied"), 3);
    assert_eq!(
        (seen.count("tool_call.requested"), seen.count("tool_call.succeeded")),
        (5, 3)
    );
    let failures: Vec<Value> = (seen.events().filter(|frame| frame.name == "tool_call.failed"))
        .map(|frame| frame.data())
        .collect();
    let failed: Vec<_> = failures
        .iter()
        .map(|failure| failure["name"].as_str().unwrap_or_default())
        .collect();
    assert!(
        failed.contains(&"calculator") && failed.contains(&"no_such_tool") && failed.len() == 2,
        "{failures:?}"
    );
    assert_eq!(
        seen.names().last(),
        Some(&"run.completed"),
        "a tool that fails is told to the model, not to the run"
    );
    // All three were asked for before the first of them ended.
    let first_end = seen
        .names()
        .iter()
        .position(|name| *name == "tool_call.succeeded")
        .expect("an end");
    let asked = seen.names()[..first_end]
        .iter()
        .filter(|name| **name == "tool_call.requested")
        .count();
    assert_eq!(asked, 3);
}

async fn a_conversation_may_be_given_as_messages(stack: &Stack) {
    let api = stack.api();
    let input = json!([
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "look it up"},
        {"role": "assistant", "tool_calls": [{"id": "c1", "name": "search", "arguments": "{}"}]},
        {"role": "tool", "tool_call_id": "c1", "content": "it is 42"},
        {"role": "user", "content": "so? [[echo]]"},
    ]);
    let run = api.task(json!({ "input": input })).await;
    let output = api.ended(&run).await["output"].as_str().expect("an output").to_owned();
    let shown: Vec<Value> = serde_json::from_str(&output).expect("the model's echo");
    let told: Vec<_> = shown
        .iter()
        .map(|message| message["content"].as_str().unwrap_or_default())
        .collect();
    assert!(
        told.ends_with(&["look it up", "", "it is 42", "so? [[echo]]"]),
        "{told:?}"
    );
    assert!(told.contains(&"be brief"));
}

async fn a_long_poll_answers_at_the_end_or_when_its_time_is_over(stack: &Stack) {
    let api = stack.api();
    let run = api.task(json!({"input": "[[tokens:400]] take your time"})).await;
    let now = api.get(&format!("/v1/runs/{run}/wait?timeout_s=0")).await.expect(200);
    assert!(
        ["queued", "running"].contains(&now["status"].as_str().unwrap_or_default()),
        "{now}"
    );
    let (one, two) = tokio::join!(api.ended(&run), api.ended(&run));
    assert_eq!((&one["status"], &one), (&json!("completed"), &two));
    let again = api.get(&format!("/v1/runs/{run}/wait?timeout_s=60")).await.expect(200);
    assert_eq!(again, one, "a run that has ended is answered at once");
}

async fn runs_and_their_usage_are_listed(stack: &Stack) {
    let api = stack.api();
    let run = api.task(json!({"input": "[[say:listed]]"})).await;
    let ended = api.ended(&run).await;
    let session = ended["session_id"].as_str().expect("a session");
    // The list follows the log: it may be a moment late.
    let listed = loop {
        let page = api
            .get(&format!(
                "/v1/runs?session_id={session}&status=completed&agent=assistant"
            ))
            .await
            .expect(200);
        if page["data"].as_array().is_some_and(|data| !data.is_empty()) {
            break page;
        }
    };
    assert_eq!(listed["data"].as_array().map(Vec::len), Some(1));
    let row = &listed["data"][0];
    assert_eq!(
        (&row["id"], &row["output"], &row["usage"]),
        (&ended["id"], &ended["output"], &ended["usage"])
    );
    assert_eq!(
        (listed["has_more"].as_bool(), listed["first_id"].as_str()),
        (Some(false), Some(run.as_str()))
    );
    let usage = api.get("/v1/usage?days=2").await.expect(200);
    assert!(usage.to_string().contains("assistant"), "{usage}");
    let agents = api.get("/v1/agents").await.expect(200);
    assert!(agents.to_string().contains("calculator"), "{agents}");
}

async fn a_large_answer_comes_whole(stack: &Stack) {
    // Above the size at which payloads leave the row.
    let words = format!("{} ", "größer".repeat(100)).repeat(120);
    let text = format!("[[say:{words}]]");
    let api = stack.api();
    let run = api.task(json!({ "input": text })).await;
    let (live, ended) = tokio::join!(api.replay(&run), api.ended(&run));
    live.assert_sound();
    assert_eq!(ended["output"].as_str().map(str::len), Some(words.len()));
    live.assert_same(&api.replay(&run).await);
}
