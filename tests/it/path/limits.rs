//! Every run has an end.

use serde_json::{Value, json};

use crate::support::{Stack, in_both_modes};

in_both_modes!(
    a_run_that_never_answers_ends_at_its_step_limit,
    a_run_ends_at_its_deadline_whatever_it_does
);

async fn a_run_that_never_answers_ends_at_its_step_limit(stack: &Stack) {
    let api = stack.api();
    let text = r#"[[tool:calculator {"expression":"1+1"}]] [[loop]]"#;
    let run = api.task(json!({"input": text, "limits": {"steps_max": 4}})).await;
    let ended = api.ended(&run).await;
    assert_eq!(
        (&ended["status"], &ended["error"]["code"]),
        (&json!("failed"), &json!("step_limit"))
    );
    let seen = api.replay(&run).await;
    seen.assert_sound();
    assert_eq!((seen.count("model.replied"), seen.count("tool_call.succeeded")), (4, 4));
}

async fn a_run_ends_at_its_deadline_whatever_it_does(stack: &Stack) {
    let api = stack.api();
    let end = async |text: &str| -> Value {
        let body = json!({"input": text, "tools": [{"name": "ask"}], "limits": {"run_seconds_max": 1}});
        api.ended(&api.task(body).await).await
    };
    let (talking, looping, waiting, backing_off) = tokio::join!(
        end("[[tokens:60000]]"),
        end(r#"[[tool:calculator {"expression":"1+1"}]] [[loop]]"#),
        end("[[tool:ask {}]]"),
        end("[[fault:503:60]] [[say:x]]"),
    );
    for ended in [&talking, &waiting] {
        assert_eq!(
            (&ended["status"], &ended["error"]["code"]),
            (&json!("failed"), &json!("deadline")),
            "{ended}"
        );
    }
    // It may have met its step limit first.
    assert_eq!(looping["status"], "failed", "{looping}");
    // A retry after the deadline is none: the run fails with what the model said.
    assert_eq!(
        (&backing_off["status"], &backing_off["error"]["code"]),
        (&json!("failed"), &json!("model_unavailable"))
    );
}
