//! A request, in the words of the OpenAI API.

use async_openai::types::chat::{
    ChatCompletionMessageToolCall, ChatCompletionMessageToolCalls, ChatCompletionRequestAssistantMessage,
    ChatCompletionRequestMessage, ChatCompletionRequestSystemMessage, ChatCompletionRequestToolMessage,
    ChatCompletionRequestUserMessage, ChatCompletionStreamOptions, ChatCompletionTool, ChatCompletionTools,
    FunctionCall, FunctionObject,
};
use serde::Serialize;
use steadfast::run::{Message, ToolCall, ToolSpec};

use super::super::ModelRequest;

/// All but the messages, which come last: async-openai's request has them as values, here they go as they were sent before.
#[derive(Serialize)]
struct Settings<'a> {
    model: &'a str,
    // An empty list of tools is refused by some servers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<ChatCompletionTools>,
    /// What `max_tokens` is called since OpenAI deprecated that, which is all that many other servers know.
    #[serde(skip_serializing_if = "Option::is_none")]
    max_completion_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f32>,
    stream: bool,
    stream_options: ChatCompletionStreamOptions,
}

/// The body, as JSON.
pub fn body(request: &ModelRequest, new_token_limit: bool) -> serde_json::Result<Vec<u8>> {
    let limit = Some(request.output_tokens_max);
    let settings = Settings {
        model: &request.model,
        tools: request.tools.iter().map(tool).collect(),
        max_completion_tokens: limit.filter(|_| new_token_limit),
        max_tokens: limit.filter(|_| !new_token_limit),
        temperature: request.temperature.map(|temperature| temperature as f32),
        stream: true,
        stream_options: ChatCompletionStreamOptions {
            include_usage: Some(true),
            include_obfuscation: None,
        },
    };
    let mut body = serde_json::to_vec(&settings)?;
    body.pop();
    body.extend_from_slice(br#","messages":["#);
    let write = |said: &Message| serde_json::to_vec(&message(said));
    request.messages.write_json(&mut body, write)?;
    body.extend_from_slice(b"]}");
    Ok(body)
}

fn message(message: &Message) -> ChatCompletionRequestMessage {
    match message {
        Message::System { content } => ChatCompletionRequestSystemMessage {
            content: content.as_str().into(),
            name: None,
        }
        .into(),
        Message::User { content } => ChatCompletionRequestUserMessage {
            content: content.as_str().into(),
            name: None,
        }
        .into(),
        Message::Tool { tool_call_id, content } => ChatCompletionRequestToolMessage {
            content: content.as_str().into(),
            tool_call_id: tool_call_id.clone(),
        }
        .into(),
        Message::Assistant { content, tool_calls } => ChatCompletionRequestAssistantMessage {
            content: Some(content.as_str().into()).filter(|_| !content.is_empty()),
            tool_calls: Some(tool_calls.iter().map(tool_call).collect()).filter(|calls: &Vec<_>| !calls.is_empty()),
            ..Default::default()
        }
        .into(),
    }
}

fn tool_call(call: &ToolCall) -> ChatCompletionMessageToolCalls {
    ChatCompletionMessageToolCalls::Function(ChatCompletionMessageToolCall {
        id: call.id.clone(),
        function: FunctionCall {
            name: call.name.clone(),
            arguments: call.arguments.clone(),
        },
    })
}

fn tool(tool: &ToolSpec) -> ChatCompletionTools {
    ChatCompletionTools::Function(ChatCompletionTool {
        function: FunctionObject {
            name: tool.name.clone(),
            description: Some(tool.description.clone()).filter(|description| !description.is_empty()),
            parameters: Some(tool.parameters.clone()),
            strict: None,
        },
    })
}
