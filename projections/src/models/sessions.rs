//! `messages`: the conversations as people read them, each message with the event it came from; and `session_list`:
//! how much was said in each session.

use std::collections::BTreeMap;

use async_trait::async_trait;
use steadfast::{
    run::{Event, Message, RunId, SessionId, TenantId, Time},
    store::{
        Error,
        sql::{Tx, Value},
    },
};

use crate::{
    log::Entry,
    projection::{Names, Projection, Table},
    rows::insert,
};

pub const SESSIONS: &str = "sessions";
pub const MESSAGES: &str = "messages";
pub const SESSION_LIST: &str = "session_list";

const VERSION: i64 = 1;

const TABLES: &[Table] = &[
    Table {
        name: MESSAGES,
        columns: "tenant_id text not null, session_id uuid not null, run_id uuid not null, version bigint not null, \
                  idx bigint not null, message text not null, time timestamptz not null",
        // Run ids sort by time, so this is also the order of the conversation.
        primary_key: "session_id, run_id, version, idx",
        indexes: &[],
    },
    Table {
        name: SESSION_LIST,
        columns: "tenant_id text not null, session_id uuid not null, runs bigint not null, messages bigint not null, \
                  updated_at timestamptz not null",
        primary_key: "session_id",
        indexes: &[],
    },
];

pub struct Sessions;

#[async_trait]
impl Projection for Sessions {
    fn name(&self) -> &'static str {
        SESSIONS
    }

    fn version(&self) -> i64 {
        VERSION
    }

    fn tables(&self) -> &'static [Table] {
        TABLES
    }

    async fn apply(&self, tx: &mut Tx, names: Names, batch: &[Entry]) -> Result<(), Error> {
        let mut messages = Vec::new();
        let mut sessions: BTreeMap<SessionId, Growth> = BTreeMap::new();
        for entry in batch {
            let said = said(entry);
            if said.is_empty() {
                continue;
            }
            let growth = sessions
                .entry(entry.origin.session_id)
                .or_insert_with(|| Growth::of(&entry.log.event.tenant));
            growth.runs += u64::from(matches!(entry.event, Event::RunRequested(_)));
            growth.messages += said.len() as u64;
            growth.updated_at = growth.updated_at.max(entry.log.event.time);
            for message in said {
                messages.push(message.into_values()?);
            }
        }
        let columns = "(tenant_id, session_id, run_id, version, idx, message, time)";
        insert(tx, &format!("{} {columns}", names.of(MESSAGES)), "", messages).await?;

        let table = names.of(SESSION_LIST);
        let rows = sessions
            .into_iter()
            .map(|(session_id, growth)| growth.into_values(session_id))
            .collect();
        insert(
            tx,
            &format!("{table} (tenant_id, session_id, runs, messages, updated_at)"),
            &format!(
                "on conflict (session_id) do update set runs = {table}.runs + excluded.runs, \
                 messages = {table}.messages + excluded.messages, \
                 updated_at = case when excluded.updated_at > {table}.updated_at \
                 then excluded.updated_at else {table}.updated_at end"
            ),
            rows,
        )
        .await
    }
}

/// One message and where it came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Said {
    pub tenant: TenantId,
    pub session_id: SessionId,
    pub run_id: RunId,
    pub version: u64,
    pub index: u32,
    pub message: Message,
    pub time: Time,
}

/// What an event adds to its conversation: the same messages the run's own fold collects.
pub fn said(entry: &Entry) -> Vec<Said> {
    let tool = |id: &str, content: String| {
        vec![Message::Tool {
            tool_call_id: id.into(),
            content,
        }]
    };
    let messages = match &entry.event {
        Event::RunRequested(e) => e.input.clone(),
        Event::ModelReplied(e) => {
            vec![Message::Assistant {
                content: e.text.clone(),
                tool_calls: e.tool_calls.clone(),
            }]
        }
        Event::ToolCallSucceeded(e) => tool(&e.tool_call_id, e.output.clone()),
        Event::ToolCallFailed(e) => tool(&e.tool_call_id, format!("error: {}", e.error)),
        _ => Vec::new(),
    };
    let stored = &entry.log.event;
    (0..)
        .zip(messages)
        .map(|(index, message)| Said {
            tenant: stored.tenant.clone(),
            session_id: entry.origin.session_id,
            run_id: stored.run_id,
            version: stored.version,
            index,
            message,
            time: stored.time,
        })
        .collect()
}

impl Said {
    fn into_values(self) -> Result<Vec<Value>, Error> {
        // As JSON, which also spells NUL in a way every database takes.
        let message = serde_json::to_string(&self.message).map_err(|error| Error::Corrupt {
            run_id: self.run_id,
            version: self.version,
            reason: format!("message {} cannot be written: {error}", self.index),
        })?;
        Ok(vec![
            self.tenant.as_str().into(),
            self.session_id.0.into(),
            self.run_id.0.into(),
            self.version.into(),
            self.index.into(),
            message.into(),
            self.time.into(),
        ])
    }
}

/// What a batch adds to a session.
struct Growth {
    tenant: TenantId,
    runs: u64,
    messages: u64,
    updated_at: Time,
}

impl Growth {
    fn of(tenant: &TenantId) -> Self {
        Self {
            tenant: tenant.clone(),
            runs: 0,
            messages: 0,
            updated_at: Time::UNIX_EPOCH,
        }
    }

    fn into_values(self, session_id: SessionId) -> Vec<Value> {
        vec![
            self.tenant.as_str().into(),
            session_id.0.into(),
            self.runs.into(),
            self.messages.into(),
            self.updated_at.into(),
        ]
    }
}
