//! The model and the tool of the workload, for the peers that are written in Rust.

use reqwest::Client;
use serde_json::{Value, json};

/// An OpenAI-compatible server.
pub struct Model {
    http: Client,
    url: String,
}

impl Model {
    /// `url` goes up to and with `/v1`.
    pub fn new(url: &str) -> Result<Self, reqwest::Error> {
        Ok(Self {
            http: Client::builder().no_proxy().build()?,
            url: format!("{url}/chat/completions"),
        })
    }

    /// The reply's message, whole: these peers have no way to stream it on.
    pub async fn reply(&self, messages: &[Value]) -> Result<Value, reqwest::Error> {
        let request = json!({"model": "scripted-server", "messages": messages, "tools": [{"type": "function", "function": {
            "name": "lookup",
            "description": "Returns the text it is given.",
            "parameters": {
                "type": "object",
                "properties": {"q": {"type": "string", "description": "The text to return."}},
                "required": ["q"],
            },
        }}]});
        let response = self.http.post(&self.url).json(&request).send().await?;
        let mut reply: Value = response.error_for_status()?.json().await?;
        Ok(reply["choices"][0]["message"].take())
    }
}

/// How a conversation begins.
pub fn conversation(task: &str) -> Vec<Value> {
    vec![
        json!({"role": "system", "content": "You look things up."}),
        json!({"role": "user", "content": task}),
    ]
}

/// The tool calls a reply asks for; none: its text is the answer.
pub fn tool_calls(reply: &Value) -> Vec<Value> {
    reply["tool_calls"].as_array().cloned().unwrap_or_default()
}

/// Runs a call of the one tool there is.
pub fn lookup(call: &Value) -> Result<String, serde_json::Error> {
    let arguments: Value = serde_json::from_str(call["function"]["arguments"].as_str().unwrap_or_default())?;
    Ok(arguments["q"].as_str().unwrap_or_default().to_owned())
}

/// What the model is told of it.
pub fn tool_message(call: &Value, found: String) -> Value {
    json!({"role": "tool", "tool_call_id": call["id"], "content": found})
}
