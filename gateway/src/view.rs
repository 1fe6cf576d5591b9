//! Runs, sessions and lists as clients see them.

use chrono::SecondsFormat;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};
use steadfast::{
    read::{Listed, MessageRow, RunRow, SessionRow},
    run::{
        Amounts, Budget, Message, Run, RunId, SessionId, Status, Time, Usage, WaitingOn, event::RunError,
        state::Outcome,
    },
    store::{Loaded, Session},
};

/// Times as on the wire: UTC, microseconds.
pub fn time<S: Serializer>(time: &Time, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&time.to_rfc3339_opts(SecondsFormat::Micros, true))
}

pub fn optional_time<S: Serializer>(moment: &Option<Time>, serializer: S) -> Result<S::Ok, S::Error> {
    match moment {
        Some(moment) => time(moment, serializer),
        None => serializer.serialize_none(),
    }
}

/// A run, folded from its events.
#[derive(Serialize)]
pub struct RunView<'a> {
    id: RunId,
    object: &'static str,
    status: Status,
    session_id: SessionId,
    agent: &'a str,
    agent_version: &'a str,
    model: &'a str,
    /// The number of events so far: the cursor at which a stream of what follows begins.
    version: u64,
    #[serde(serialize_with = "time")]
    created_at: Time,
    #[serde(serialize_with = "optional_time")]
    ended_at: Option<Time>,
    metadata: &'a Value,
    output: Option<&'a str>,
    usage: Usage,
    error: Option<&'a RunError>,
    waiting_on: Option<WaitingOn>,
    /// As it is now, raises included.
    budget: Option<Budget>,
    cancel_requested: bool,
}

impl<'a> RunView<'a> {
    /// `None` for a run that was never requested.
    pub fn of(id: RunId, run: &'a Run, created_at: Time, ended_at: Option<Time>) -> Option<Self> {
        let request = run.request.as_ref()?;
        static NO_METADATA: std::sync::LazyLock<Value> = std::sync::LazyLock::new(|| json!({}));
        let metadata = if request.metadata.is_null() {
            &*NO_METADATA
        } else {
            &request.metadata
        };
        let budget = Budget {
            amounts: run.budget,
            ..request.terms.budget
        };
        let (output, error) = match &run.outcome {
            Some(Outcome::Completed { output }) => (Some(output.as_str()), None),
            Some(Outcome::Failed { error }) => (None, Some(error)),
            Some(Outcome::Cancelled { .. }) | None => (None, None),
        };
        Some(Self {
            id,
            object: "run",
            status: run.status(),
            session_id: request.session_id,
            agent: &request.agent.name,
            agent_version: &request.agent.version,
            model: &request.model,
            version: run.version,
            created_at,
            ended_at,
            metadata,
            output,
            usage: run.usage,
            error,
            waiting_on: run.waiting_on(),
            budget: Some(budget).filter(|budget| budget.amounts != Amounts::default()),
            cancel_requested: run.cancel.is_some(),
        })
    }

    pub fn loaded(loaded: &'a Loaded) -> Option<Self> {
        let head = &loaded.head;
        let ended_at = loaded.run.outcome.is_some().then_some(head.updated_at);
        Self::of(head.run_id, &loaded.run, head.created_at, ended_at)
    }
}

/// A page of a list.
#[derive(Serialize)]
pub struct List<T> {
    object: &'static str,
    data: Vec<T>,
    first_id: Option<String>,
    last_id: Option<String>,
    has_more: bool,
}

impl<T> List<T> {
    pub fn new(data: Vec<T>, first_id: Option<String>, last_id: Option<String>, has_more: bool) -> Self {
        Self {
            object: "list",
            data,
            first_id,
            last_id,
            has_more,
        }
    }

    /// A list that is never longer than a page.
    pub fn whole(data: Vec<T>) -> Self {
        Self::new(data, None, None, false)
    }

    pub fn of<R>(rows: Listed<R>, id: impl Fn(&R) -> String, view: impl FnMut(R) -> T) -> Self {
        let (first, last) = (rows.data.first().map(&id), rows.data.last().map(&id));
        Self::new(rows.data.into_iter().map(view).collect(), first, last, rows.has_more)
    }
}

/// A run as the list of runs knows it.
#[derive(Serialize)]
pub struct RunRowView {
    id: RunId,
    object: &'static str,
    status: String,
    session_id: SessionId,
    agent: String,
    #[serde(serialize_with = "time")]
    created_at: Time,
    #[serde(serialize_with = "optional_time")]
    ended_at: Option<Time>,
    input: String,
    output: Option<String>,
    usage: Usage,
    error: Option<Value>,
}

impl From<RunRow> for RunRowView {
    fn from(row: RunRow) -> Self {
        let RunRow {
            input_tokens,
            output_tokens,
            cost_microusd,
            ..
        } = row;
        Self {
            id: row.id,
            object: "run",
            status: row.status,
            session_id: row.session_id,
            agent: row.agent,
            created_at: row.created_at,
            ended_at: row.ended_at,
            input: row.input,
            output: row.output,
            usage: Usage {
                input_tokens,
                output_tokens,
                cost_microusd,
            },
            error: row.error_code.map(|code| json!({ "code": code })),
        }
    }
}

/// A session: alone, or as the list of sessions knows it.
#[derive(Serialize)]
pub struct SessionView {
    pub id: SessionId,
    object: &'static str,
    runs: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    messages: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Value>,
    #[serde(serialize_with = "time")]
    created_at: Time,
    #[serde(serialize_with = "optional_time", skip_serializing_if = "Option::is_none")]
    updated_at: Option<Time>,
}

impl From<&Session> for SessionView {
    fn from(session: &Session) -> Self {
        // What was stored is an object; anything else is shown as none.
        let metadata = serde_json::from_str(&session.metadata)
            .ok()
            .filter(Value::is_object)
            .unwrap_or_else(|| json!({}));
        Self {
            id: session.session_id,
            object: "session",
            runs: session.runs,
            messages: None,
            metadata: Some(metadata),
            created_at: session.created_at,
            updated_at: None,
        }
    }
}

impl From<SessionRow> for SessionView {
    fn from(row: SessionRow) -> Self {
        Self {
            id: row.id,
            object: "session",
            runs: row.runs,
            messages: Some(row.messages),
            metadata: None,
            created_at: row.created_at,
            updated_at: Some(row.updated_at),
        }
    }
}

/// A message of a session's memory.
#[derive(Serialize)]
pub struct MessageView {
    id: String,
    object: &'static str,
    run_id: RunId,
    version: u64,
    #[serde(flatten)]
    message: Message,
    #[serde(serialize_with = "time")]
    created_at: Time,
}

/// The id of a message: where it came from.
pub fn message_id(row: &MessageRow) -> String {
    format!("{}.{}.{}", row.run_id, row.version, row.index)
}

impl From<MessageRow> for MessageView {
    fn from(row: MessageRow) -> Self {
        let id = message_id(&row);
        let MessageRow {
            run_id,
            version,
            message,
            time,
            ..
        } = row;
        Self {
            id,
            object: "message",
            run_id,
            version,
            message,
            created_at: time,
        }
    }
}
