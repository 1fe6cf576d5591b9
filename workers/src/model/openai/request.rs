//! A request, in the words of the OpenAI API.

use async_openai::types::chat::{
    ChatCompletionMessageToolCall, ChatCompletionMessageToolCalls, ChatCompletionRequestAssistantMessage,
    ChatCompletionRequestMessage, ChatCompletionRequestSystemMessage, ChatCompletionRequestToolMessage,
    ChatCompletionRequestUserMessage, ChatCompletionStreamOptions, ChatCompletionTool, ChatCompletionTools,
    CreateChatCompletionRequest, FunctionCall, FunctionObject,
};
use steadfast::run::{Message, ToolCall, ToolSpec};

use super::super::ModelRequest;

#[expect(
    deprecated,
    reason = "max_tokens is deprecated by OpenAI, and all that many other servers know"
)]
pub fn render(request: &ModelRequest, new_token_limit: bool) -> CreateChatCompletionRequest {
    let limit = Some(request.output_tokens_max);
    CreateChatCompletionRequest {
        model: request.model.clone(),
        messages: request.messages.iter().map(message).collect(),
        // An empty list of tools is refused by some servers.
        tools: Some(request.tools.iter().map(tool).collect()).filter(|tools: &Vec<_>| !tools.is_empty()),
        max_completion_tokens: limit.filter(|_| new_token_limit),
        max_tokens: limit.filter(|_| !new_token_limit),
        temperature: request.temperature.map(|temperature| temperature as f32),
        stream: Some(true),
        stream_options: Some(ChatCompletionStreamOptions {
            include_usage: Some(true),
            include_obfuscation: None,
        }),
        ..Default::default()
    }
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
