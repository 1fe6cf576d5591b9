//! `run_list`: one row for each run, as lists show it.

use std::collections::HashMap;

use async_trait::async_trait;
use steadfast::{
    run::{
        Event, Message, Messages, Run, RunId, SessionId, TenantId, Time, Usage, event::RunRequested,
        state::STATE_VERSION,
    },
    store::{
        Error,
        sql::{Row, Tx, Value},
    },
};

use crate::{
    log::Entry,
    projection::{Index, Names, Projection, Table},
    rows::{fetch_by, insert, without_nul},
};

pub const RUN_LIST: &str = "run_list";

/// Raise it with every change of the row or of how it is made.
const VERSION: i64 = 1;

/// Longer inputs and outputs are cut in the list; the run itself has them whole.
pub const PREVIEW_CHARS_MAX: usize = 4000;

pub const COLUMNS: &str = "tenant_id, run_id, session_id, agent, status, input, output, error_code, input_tokens, \
                           output_tokens, cost_microusd, created_at, ended_at, version, fold";

const TABLES: &[Table] = &[Table {
    name: RUN_LIST,
    columns: "tenant_id text not null, run_id uuid not null, session_id uuid not null, agent text not null, \
              status text not null, input text not null, output text, error_code text, \
              input_tokens bigint not null, output_tokens bigint not null, cost_microusd bigint not null, \
              created_at timestamptz not null, ended_at timestamptz, version bigint not null, fold text",
    primary_key: "tenant_id, run_id",
    indexes: &[Index {
        suffix: "_by_session",
        columns: "tenant_id, session_id, run_id",
    }],
}];

pub struct RunList;

#[async_trait]
impl Projection for RunList {
    fn name(&self) -> &'static str {
        RUN_LIST
    }

    fn version(&self) -> i64 {
        // The row of an open run carries a fold, so it is as old as the fold's shape.
        VERSION * 10_000 + i64::from(STATE_VERSION)
    }

    fn tables(&self) -> &'static [Table] {
        TABLES
    }

    async fn apply(&self, tx: &mut Tx, names: Names, batch: &[Entry]) -> Result<(), Error> {
        let table = names.of(RUN_LIST);
        let mut rows = known_rows(tx, &table, batch).await?;
        for entry in batch {
            let run_id = entry.log.event.run_id;
            let row = ListedRun::after(rows.remove(&run_id), entry)?;
            rows.insert(run_id, row);
        }
        let mut rows: Vec<_> = rows.into_values().collect();
        rows.sort_unstable_by_key(|row| row.run_id);
        let mut values = Vec::with_capacity(rows.len());
        for row in rows {
            values.push(row.into_values()?);
        }
        insert(
            tx,
            &format!("{table} ({COLUMNS})"),
            "on conflict (tenant_id, run_id) do update set status = excluded.status, output = excluded.output, \
             error_code = excluded.error_code, input_tokens = excluded.input_tokens, \
             output_tokens = excluded.output_tokens, cost_microusd = excluded.cost_microusd, \
             ended_at = excluded.ended_at, version = excluded.version, fold = excluded.fold",
            values,
        )
        .await
    }
}

/// The rows of the runs whose first event lies before this batch.
async fn known_rows(tx: &mut Tx, table: &str, batch: &[Entry]) -> Result<HashMap<RunId, ListedRun>, Error> {
    let mut keys: Vec<_> = (batch.iter())
        .map(|entry| (entry.log.event.tenant.as_str(), entry.log.event.run_id))
        .collect();
    keys.sort_unstable();
    keys.dedup();
    let mut begun: Vec<_> = (batch.iter())
        .filter(|entry| matches!(entry.event, Event::RunRequested(_)))
        .map(|entry| entry.log.event.run_id)
        .collect();
    begun.sort_unstable();
    keys.retain(|(_, run_id)| begun.binary_search(run_id).is_err());
    let keys = keys
        .into_iter()
        .map(|(tenant, run_id)| vec![tenant.into(), run_id.0.into()])
        .collect();
    let tail = match tx {
        // A look-up for each, with nothing to plan: a plan made while the table was empty would read all of it.
        Tx::Postgres(_) => format!(
            "cross join lateral (select * from {table} as r
                                 where r.tenant_id = k.column1 and r.run_id = k.column2 limit 1) as t"
        ),
        Tx::Sqlite(..) => format!("join {table} as t on t.tenant_id = k.column1 and t.run_id = k.column2"),
    };
    let found = fetch_by(tx, "select t.* from", &tail, keys).await?;
    found
        .iter()
        .map(|row| ListedRun::read(row).map(|row| (row.run_id, row)))
        .collect()
}

/// A row of the list, and what is needed to go on with it.
#[derive(Debug, Clone, PartialEq)]
pub struct ListedRun {
    pub tenant: TenantId,
    pub run_id: RunId,
    pub session_id: SessionId,
    pub agent: String,
    pub status: String,
    pub input: String,
    pub output: Option<String>,
    pub error_code: Option<String>,
    pub usage: Usage,
    pub created_at: Time,
    pub ended_at: Option<Time>,
    pub version: u64,
    /// The run's fold without what was said in it; none once the run has ended.
    pub fold: Option<Run>,
}

impl ListedRun {
    /// The row after one more event of its run.
    pub fn after(before: Option<Self>, entry: &Entry) -> Result<Self, Error> {
        let stored = &entry.log.event;
        let corrupt = |reason: String| Error::Corrupt {
            run_id: stored.run_id,
            version: stored.version,
            reason,
        };
        let mut row = match (before, &entry.event) {
            (Some(row), _) => row,
            (None, Event::RunRequested(request)) => Self::begin(entry, request),
            (None, _) => {
                return Err(corrupt(
                    "run_list has no row of this run; rebuild the projection".into(),
                ));
            }
        };
        if stored.version != row.version + 1 {
            return Err(corrupt(format!("run_list has this run at version {}", row.version)));
        }
        let Some(fold) = row.fold.take() else {
            return Err(corrupt(format!("the run had ended as {} before", row.status)));
        };
        let mut fold = fold.evolve(&entry.event);
        // Neither the status nor the usage depends on what was said.
        fold.request = None;
        fold.turns = None;
        fold.messages = Messages::default();
        fold.client_outputs.clear();
        row.version = stored.version;
        row.status = fold.status().to_string();
        row.usage = fold.usage;
        match &entry.event {
            Event::RunCompleted(done) => row.output = Some(preview(&done.output)),
            Event::RunFailed(failed) => row.error_code = Some(without_nul(&failed.error.code)),
            _ => {}
        }
        if entry.event.is_terminal() {
            row.ended_at = Some(stored.time);
        } else {
            row.fold = Some(fold);
        }
        Ok(row)
    }

    fn begin(entry: &Entry, request: &RunRequested) -> Self {
        let stored = &entry.log.event;
        let asked = request
            .input
            .iter()
            .rfind(|message| matches!(message, Message::User { .. }));
        Self {
            tenant: stored.tenant.clone(),
            run_id: stored.run_id,
            session_id: request.session_id,
            agent: without_nul(&request.agent.name),
            status: String::new(),
            input: preview(asked.map_or("", Message::content)),
            output: None,
            error_code: None,
            usage: Usage::default(),
            created_at: stored.time,
            ended_at: None,
            version: 0,
            fold: Some(Run::default()),
        }
    }

    pub fn read(row: &Row) -> Result<Self, Error> {
        let run_id = RunId(row.get("run_id")?);
        let fold = row
            .get::<Option<String>>("fold")?
            .map(|text| serde_json::from_str(&text))
            .transpose();
        Ok(Self {
            tenant: row.tenant("tenant_id")?,
            run_id,
            session_id: SessionId(row.get("session_id")?),
            agent: row.get("agent")?,
            status: row.get("status")?,
            input: row.get("input")?,
            output: row.get("output")?,
            error_code: row.get("error_code")?,
            usage: row.usage()?,
            created_at: row.get("created_at")?,
            ended_at: row.get("ended_at")?,
            version: row.count("version")?,
            fold: fold.map_err(|error| Error::Refused(format!("run_list.fold of {run_id} does not read: {error}")))?,
        })
    }

    fn into_values(self) -> Result<Vec<Value>, Error> {
        let fold = self.fold.as_ref().map(serde_json::to_string).transpose();
        let fold = fold.map_err(|error| Error::Refused(format!("run_list.fold of {}: {error}", self.run_id)))?;
        Ok(vec![
            self.tenant.as_str().into(),
            self.run_id.0.into(),
            self.session_id.0.into(),
            self.agent.into(),
            self.status.into(),
            self.input.into(),
            self.output.into(),
            self.error_code.into(),
            self.usage.input_tokens.into(),
            self.usage.output_tokens.into(),
            self.usage.cost_microusd.into(),
            self.created_at.into(),
            self.ended_at.into(),
            self.version.into(),
            fold.into(),
        ])
    }
}

/// The beginning of a text.
fn preview(text: &str) -> String {
    match text.char_indices().nth(PREVIEW_CHARS_MAX) {
        Some((end, _)) => without_nul(&text[..end]) + "…",
        None => without_nul(text),
    }
}
