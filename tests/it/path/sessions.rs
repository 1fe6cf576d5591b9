//! A session: one memory, and one run at a time.

use serde_json::{Value, json};

use crate::support::{Api, Stack, Transcript, in_both_modes};

in_both_modes!(
    a_run_is_shown_the_earlier_turns_of_its_session,
    posts_to_one_session_run_one_after_another
);

/// What the model said it was shown.
fn shown(run: &Value) -> Vec<(String, String)> {
    let messages: Vec<Value> =
        serde_json::from_str(run["output"].as_str().unwrap_or_default()).expect("the model's echo");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    messages
        .iter()
        .map(|message| (text(&message["role"]), text(&message["content"])))
        .collect()
}

async fn a_run_is_shown_the_earlier_turns_of_its_session(stack: &Stack) {
    let api = stack.api();
    let session = api
        .post("/v1/sessions", &json!({"metadata": {"of": "a test"}}))
        .await
        .expect(201);
    let session = session["id"].as_str().expect("an id").to_owned();
    let ask = async |text: &str| {
        let run = api.task(json!({"input": text, "session_id": session})).await;
        api.ended(&run).await
    };
    ask("I am Ada. [[say:Hello Ada.]]").await;
    let failed = ask("This goes wrong. [[fault:400]]").await;
    assert_eq!(failed["status"], "failed");
    ask(r#"[[tool:calculator {"expression":"40+2"}]] [[tokens:1]]"#).await;
    let echo = ask("Who am I? [[echo]]").await;

    let turns = shown(&echo);
    let told: Vec<_> = turns
        .iter()
        .map(|(role, content)| (role.as_str(), content.as_str()))
        .collect();
    assert_eq!(told[0].0, "system");
    assert_eq!(
        told[1..3],
        [("user", "I am Ada. [[say:Hello Ada.]]"), ("assistant", "Hello Ada.")]
    );
    assert_eq!(told.last(), Some(&("user", "Who am I? [[echo]]")));

    let view = api.get(&format!("/v1/sessions/{session}")).await.expect(200);
    assert_eq!((&view["runs"], &view["metadata"]["of"]), (&json!(4), &json!("a test")));
    let messages = loop {
        let page = api
            .get(&format!("/v1/sessions/{session}/messages?limit=100"))
            .await
            .expect(200);
        if page.to_string().contains("Who am I? [[echo]]") {
            break page;
        }
    };
    assert!(messages.to_string().contains("Hello Ada."), "{messages}");
    let sessions = api.get("/v1/sessions?limit=100").await.expect(200);
    assert!(sessions.to_string().contains(&session));
}

async fn posts_to_one_session_run_one_after_another(stack: &Stack) {
    let apis = stack.apis();
    let first = apis[0].task(json!({"input": "[[say:zero]]"})).await;
    let session = apis[0].ended(&first).await["session_id"].clone();
    let post = async |n: usize| {
        // Gateways take turns.
        let api = &apis[n % apis.len()];
        let run = api
            .task(json!({"input": format!("turn {n} [[echo]]"), "session_id": session}))
            .await;
        (api.ended(&run).await, api.replay(&run).await)
    };
    let (one, two, three) = tokio::join!(post(1), post(2), post(3));
    let mut turns: Vec<(Value, Transcript)> = [one, two, three].into();
    turns.iter().for_each(|(_, seen)| seen.assert_sound());
    let time = |seen: &Transcript, name: &str| {
        seen.events()
            .find(|frame| frame.name == name)
            .expect("the event")
            .value()["time"]
            .as_str()
            .expect("a time")
            .to_owned()
    };
    turns.sort_by_key(|(_, seen)| time(seen, "run.started"));
    for (at, pair) in turns.windows(2).enumerate() {
        let (ended, began) = (time(&pair[0].1, "run.completed"), time(&pair[1].1, "run.started"));
        assert!(
            ended <= began,
            "turn {} began at {began}, turn {at} ended at {ended}",
            at + 1
        );
    }
    // Each was shown all that ended before it, and nothing of what came after.
    for (before, (run, _)) in turns.iter().enumerate() {
        let users = shown(run).iter().filter(|(role, _)| role == "user").count();
        assert_eq!(users, before + 2, "{run}");
    }
    let missing = Api::post(
        &apis[0],
        "/v1/runs",
        &json!({"input": "x", "session_id": format!("ses_{}", "0".repeat(32))}),
    )
    .await;
    let missing = missing.problem(404);
    assert_eq!(
        (&missing["code"], &missing["errors"][0]["pointer"]),
        (&json!("session_not_found"), &json!("/session_id"))
    );
}
