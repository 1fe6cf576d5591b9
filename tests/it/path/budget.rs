//! A budget that is too small, raised by a person on the command line.

use serde_json::json;

use crate::support::{Stack, in_both_modes};

in_both_modes!(
    a_run_short_of_budget_waits_and_goes_on_when_the_command_line_raises_it,
    a_budget_that_fails_the_run_says_which_limit_it_was,
);

async fn a_run_short_of_budget_waits_and_goes_on_when_the_command_line_raises_it(stack: &Stack) {
    let api = stack.api();
    let run = api
        .task(json!({"input": "[[say:worth it]]", "budget": {"tokens": 20}}))
        .await;
    let waiting = loop {
        let run = api.get(&format!("/v1/runs/{run}")).await.expect(200);
        match run["status"].as_str() {
            Some("queued" | "running") => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
            _ => break run,
        }
    };
    assert_eq!(
        (&waiting["status"], &waiting["waiting_on"]["limit"]),
        (&json!("waiting"), &json!("tokens")),
        "{waiting}"
    );
    let shown = stack.cli(&["runs", "show", &run]).await.succeeded().stdout;
    assert!(shown.contains("for a larger budget of tokens"), "{shown}");
    let lower = stack.cli(&["runs", "budget", &run, "--tokens", "5"]).await.exited(2);
    assert!(lower.stderr.contains("can only be raised"), "{}", lower.stderr);
    let raised = stack
        .cli(&["runs", "budget", &run, "--tokens", "100000"])
        .await
        .succeeded();
    assert!(raised.stdout.contains("100000 tokens"), "{}", raised.stdout);
    let ended = api.ended(&run).await;
    assert_eq!(
        (&ended["status"], &ended["output"]),
        (&json!("completed"), &json!("worth it"))
    );
    let seen = api.replay(&run).await;
    seen.assert_sound();
    assert_eq!((seen.count("budget.exceeded"), seen.count("budget.raised")), (1, 1));
}

async fn a_budget_that_fails_the_run_says_which_limit_it_was(stack: &Stack) {
    let api = stack.api();
    let body = json!({"input": "[[say:x]]", "budget": {"tokens": 20, "on_breach": "fail"}});
    let ended = api.ended(&api.task(body).await).await;
    assert_eq!(
        (&ended["status"], &ended["error"]["code"]),
        (&json!("failed"), &json!("budget"))
    );
    let said = ended["error"]["message"].as_str().expect("a sentence");
    assert!(said.contains("(budget.tokens)"), "{said}");
}
