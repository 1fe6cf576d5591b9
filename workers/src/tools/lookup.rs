//! `lookup`: returns what it is asked for. It measures the path of a tool call and nothing else, so no agent has it
//! unless the box was given it.

use async_trait::async_trait;
use serde_json::{Value, json};
use steadfast::run::ToolSpec;

use super::{Tool, ToolContext, required};

pub struct Echo;

#[async_trait]
impl Tool for Echo {
    fn spec(&self) -> ToolSpec {
        ToolSpec {
            name: "lookup".into(),
            description: "Returns the text it is given.".into(),
            parameters: json!({
                "type": "object",
                "properties": {"q": {"type": "string", "description": "The text to return."}},
                "required": ["q"]
            }),
        }
    }

    fn retry_safe(&self) -> bool {
        true
    }

    fn immediate(&self) -> bool {
        true
    }

    async fn call(&self, arguments: &Value, _context: &ToolContext) -> Result<String, String> {
        required(arguments, "q").map(Into::into)
    }
}
