//! Approvals: what a person must decide before a run goes on, and what was decided.
//!
//! An approval is bound to one exact thing: a tool call with the hash of its arguments, or one try of a model call. Its
//! id is the version of the event that asked, so it is unique within the run, and an answer that comes late never
//! decides a later question about the same call.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{ApprovalId, ToolCall, agent::hex};

/// What is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "about", rename_all = "snake_case")]
pub enum Question {
    /// A tool that must not run twice had started when its worker was lost. It may or may not have taken effect.
    CutOffTool {
        tool_call: ToolCall,
        /// SHA-256 of the arguments, in hex: what exactly is decided on.
        arguments_sha256: String,
    },
    /// The outcome of a model call was lost with its worker. It is charged at its reservation already.
    OrphanedCall { step: u32, attempt: u32 },
}

impl Question {
    pub fn about_tool(call: &ToolCall) -> Self {
        Self::CutOffTool {
            tool_call: call.clone(),
            arguments_sha256: hex(&Sha256::digest(&call.arguments)),
        }
    }

    /// The stable word: the name of the policy that made it be asked.
    pub fn about(&self) -> &'static str {
        match self {
            Self::CutOffTool { .. } => "cut_off_tool",
            Self::OrphanedCall { .. } => "orphaned_call",
        }
    }

    pub fn tool_call(&self) -> Option<&ToolCall> {
        match self {
            Self::CutOffTool { tool_call, .. } => Some(tool_call),
            Self::OrphanedCall { .. } => None,
        }
    }

    pub fn arguments_sha256(&self) -> Option<&str> {
        match self {
            Self::CutOffTool { arguments_sha256, .. } => Some(arguments_sha256),
            Self::OrphanedCall { .. } => None,
        }
    }
}

/// What a person says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "decision", rename_all = "snake_case")]
pub enum Decision {
    /// Do it again.
    Allow,
    /// Do not: the model is told that the tool call was cut off; a run whose model call is not repeated fails.
    Deny {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// Do not run the tool again; this is what its call came to.
    Edit { output: String },
}

/// A question, and its answer once there is one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Approval {
    pub id: ApprovalId,
    #[serde(flatten)]
    pub question: Question,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolution: Option<Resolution>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Resolution {
    #[serde(flatten)]
    pub decision: Decision,
    /// Who decided: a token's subject, an API key's id, or `local`.
    pub by: String,
}
