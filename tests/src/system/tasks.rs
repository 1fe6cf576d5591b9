//! What clients of a siege ask for: runs that are met in every state, each with a text of its own, by which the model
//! counts.

use serde_json::{Value, json};

use super::Api;

/// The task of the n-th client.
pub fn task(n: usize, tag: &str, sessions: &[String]) -> Value {
    let calculate = format!(r#"[[tool:calculator {{"expression":"{n} + 1"}}]]"#);
    let orders = match n % 8 {
        0 => "[[say:a short answer, at once]]".to_owned(),
        1 => format!("{calculate} [[tool:clock {{}}]] [[then]] {calculate}"),
        2 => "[[tool:ask_the_client {}]]".to_owned(),
        3 => format!("{calculate} [[tool:ask_the_client {{}}]] [[then]] [[tool:ask_the_client {{}}]]"),
        4 => "[[fault:cut*1]] [[tokens:60]]".to_owned(),
        _ => calculate,
    };
    let mut body = json!({"input": format!("{tag} {n} {orders}"), "tools": [{"name": "ask_the_client"}]});
    // Half of them ask for the stream with the post, the others follow afterwards.
    body["stream"] = n.is_multiple_of(2).into();
    if n.is_multiple_of(5) && !sessions.is_empty() {
        body["session_id"] = sessions[(n / 5) % sessions.len()].clone().into();
    }
    body
}

/// Sessions for tasks to share.
pub async fn sessions(api: &Api, count: usize) -> Vec<String> {
    let mut sessions = vec![];
    for _ in 0..count {
        let session = api.post("/v1/sessions", &json!({})).await.expect(201);
        sessions.push(session["id"].as_str().expect("an id").to_owned());
    }
    sessions
}
