//! A small real model behind the same path, in both modes. It needs a model server, so it runs only where it is asked
//! for: `make test-real-model` fetches one, starts it, and runs these.

use serde_json::json;

use crate::support::{Layout, Stack, read};

const URL: &str = "STEADFAST_REAL_MODEL_URL";

async fn a_real_answer_streams_to_its_end(layout: Layout) {
    let url =
        std::env::var(URL).unwrap_or_else(|_| panic!("{URL} says where the model is; make test-real-model sets it"));
    let stack: Stack = layout.without_provider().env("OPENAI_BASE_URL", &url).start().await;
    let api = stack.api();
    // The built-in agent has tools, and a model this small may try them: any answer will do, not any end.
    let task = json!({ "input": "Name three colours.", "limits": { "output_tokens_max": 200 } });
    let seen = read(api.stream(task).await).await;
    seen.assert_sound();
    assert_eq!(seen.names().last(), Some(&"run.completed"), "{:?}", seen.names());
    assert!(seen.count("agent.message.delta") > 1, "the answer came in one piece");
    let reply = (seen.events().filter(|frame| frame.name == "model.replied").last()).expect("a reply");
    assert_ne!(reply.data()["model"], "scripted", "the built-in model answered");
    let run = seen.events().next().expect("a first event").value()["run_id"].clone();
    let run = run.as_str().expect("an id");
    let ended = api.ended(run).await;
    assert_eq!(ended["output"], reply.data()["text"]);
    assert!(ended["usage"]["output_tokens"].as_u64() > Some(0));
    seen.assert_same(&api.replay(run).await);
    stack.check_settled().await;
}

#[tokio::test]
#[ignore = "needs a real model: make test-real-model"]
async fn embedded() {
    a_real_answer_streams_to_its_end(Layout::embedded()).await;
}

#[tokio::test]
#[ignore = "needs a real model: make test-real-model"]
async fn distributed() {
    a_real_answer_streams_to_its_end(Layout::distributed()).await;
}
