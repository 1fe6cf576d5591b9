//! The command line against a running system: what it prints, and its exit codes.

use serde_json::{Value, json};

use crate::support::{Stack, in_both_modes};

in_both_modes!(
    run_streams_an_answer_and_says_how_it_ended,
    runs_are_listed_shown_followed_and_cancelled,
    doctor_and_check_find_a_sound_system_sound,
);

async fn run_streams_an_answer_and_says_how_it_ended(stack: &Stack) {
    let ran = stack
        .cli(&["run", r#"[[tool:calculator {"expression":"6*7"}]]"#])
        .await
        .succeeded();
    assert!(
        !ran.stdout.trim().is_empty() && ran.stderr.contains("calculator"),
        "{ran:?}"
    );
    let said = stack.cli(&["run", "[[say:forty two]]"]).await.succeeded();
    assert_eq!(said.stdout.trim(), "forty two");
    let retried = stack
        .cli(&["run", "again [[fault:cut*1]] [[say:one two three four]]"])
        .await
        .succeeded();
    assert!(retried.stdout.trim().ends_with("one two three four"), "{retried:?}");
    stack.cli(&["run", "[[fault:400]]"]).await.exited(1);
    let frames = stack.cli(&["run", "--json", "[[say:as frames]]"]).await.succeeded();
    let last: Value = serde_json::from_str(frames.stdout.lines().last().unwrap_or_default()).expect("a frame");
    assert_eq!(
        (&last["type"], &last["data"]["output"]),
        (&json!("run.completed"), &json!("as frames"))
    );
    let refused = stack.cli(&["run", "--agent", "nobody", "x"]).await;
    assert!(
        refused.code != Some(0) && refused.stderr.contains("nobody"),
        "{refused:?}"
    );
    let nobody = stack.cli(&["run", "--url", "http://127.0.0.1:9", "x"]).await;
    assert!(
        nobody.code != Some(0) && nobody.stderr.contains("127.0.0.1:9"),
        "{nobody:?}"
    );
}

async fn runs_are_listed_shown_followed_and_cancelled(stack: &Stack) {
    let api = stack.api();
    let run = api.task(json!({"input": "[[say:to be seen]]"})).await;
    api.ended(&run).await;
    // The list may be a moment behind.
    while !api.listed_runs().await.contains(&run) {}
    let listed = stack.cli(&["runs", "list", "--limit", "100"]).await.succeeded();
    assert!(listed.stdout.contains(&run), "{listed:?}");
    let listed = stack
        .cli(&["runs", "list", "--json", "--status", "completed", "--limit", "3"])
        .await
        .succeeded();
    assert!(serde_json::from_str::<Value>(&listed.stdout).is_ok(), "{listed:?}");
    let shown = stack.cli(&["runs", "show", &run]).await.succeeded();
    assert!(
        shown.stdout.contains("completed") && shown.stdout.contains("to be seen"),
        "{shown:?}"
    );
    let shown = stack.cli(&["runs", "show", "--json", &run]).await.succeeded();
    assert_eq!(
        serde_json::from_str::<Value>(&shown.stdout).expect("a run")["output"],
        "to be seen"
    );
    let tail = stack.cli(&["runs", "tail", "--json", &run]).await.succeeded();
    assert_eq!(tail.stdout.lines().count(), api.replay(&run).await.0.len(), "{tail:?}");
    stack.cli(&["runs", "tail", &run]).await.succeeded();
    stack
        .cli(&["runs", "show", &format!("run_{}", "0".repeat(32))])
        .await
        .exited(2);
    let long = api.task(json!({"input": "[[tokens:60000]]"})).await;
    api.until(&long, |frame| frame.id.ends_with(".1")).await;
    stack
        .cli(&["runs", "cancel", &long, "--reason", "enough"])
        .await
        .succeeded();
    assert_eq!(api.ended(&long).await["status"], "cancelled");
    let shown = stack.cli(&["runs", "show", &long]).await.succeeded();
    assert!(shown.stdout.contains("reason    enough\n"), "{shown:?}");
    stack.cli(&["runs", "cancel", &long]).await.exited(2);
}

async fn doctor_and_check_find_a_sound_system_sound(stack: &Stack) {
    let database = stack.database();
    let mut args = vec!["doctor"];
    args.extend(database.iter().map(String::as_str));
    let doctor = stack.cli(&args).await.succeeded();
    assert!(doctor.stdout.contains("ok"), "{doctor:?}");
    // Other tests are at work: runs may be open, but nothing may be wrong.
    args[0] = "check";
    stack.cli(&args).await.succeeded();
    let away = stack
        .cli(&["check", "--database", "postgres://nobody@127.0.0.1:9/none"])
        .await;
    assert_eq!(away.code, Some(2), "{away:?}");
    for wrong in [&["nonsense"][..], &["run"], &["runs", "show"], &["check", "--colour"]] {
        stack.cli(wrong).await.exited(2);
    }
}
