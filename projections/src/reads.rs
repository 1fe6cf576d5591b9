//! The queries over the read models. Ids are UUIDv7, so their order is the order in time, and pages are cut by id.

use std::time::Duration;

use async_trait::async_trait;
use steadfast::{
    read::{Listed, MessageRow, Page, ReadModels, RunFilter, RunRow, SessionRow, UsageRow},
    run::{RunId, SessionId, TenantId},
    store::{
        Db, Error, Position,
        sql::{Row, Value},
    },
};
use tokio::time::Instant;

use crate::{checkpoint, clock, models};

/// Rows of one page, at the most.
pub const PAGE_ROWS_MAX: u32 = 500;
/// Rows of a usage report, at the most: the newest days.
pub const USAGE_ROWS_MAX: u32 = 10_000;
/// How long a reader of its own writes is kept waiting.
const WAIT_MAX: Duration = Duration::from_secs(2);
const WAIT_PAUSE: Duration = Duration::from_millis(20);

#[derive(Clone)]
pub struct Reads {
    db: Db,
}

impl Reads {
    pub fn new(db: Db) -> Self {
        Self { db }
    }
}

#[async_trait]
impl ReadModels for Reads {
    async fn runs(&self, tenant: &TenantId, filter: &RunFilter, page: &Page) -> Result<Listed<RunRow>, Error> {
        let mut query = Query::new(
            "select t.run_id, t.session_id, t.agent, t.status, t.input, t.output, t.error_code, t.input_tokens, \
             t.output_tokens, t.cost_microusd, t.created_at, t.ended_at from run_list as t where t.tenant_id = ",
            tenant,
        );
        if let Some(session_id) = filter.session_id {
            query.and("t.session_id = ", session_id.0);
        }
        if let Some(status) = filter.status {
            query.and("t.status = ", status.as_str());
        }
        if let Some(agent) = &filter.agent {
            query.and("t.agent = ", agent.as_str());
        }
        let cut = |text: &str| {
            text.parse::<RunId>()
                .map(|id| vec![id.0.into()])
                .map_err(|error| error.to_string())
        };
        query
            .list(&self.db, &["t.run_id"], Order::NewestFirst, page, cut, run_row)
            .await
    }

    async fn sessions(&self, tenant: &TenantId, page: &Page) -> Result<Listed<SessionRow>, Error> {
        // Sessions without a run have no events; the store's own table knows them.
        let query = Query::new(
            "select s.session_id, s.created_at, t.runs, t.messages, t.updated_at from sessions as s \
             left join session_list as t on t.session_id = s.session_id where s.tenant_id = ",
            tenant,
        );
        let cut = |text: &str| {
            text.parse::<SessionId>()
                .map(|id| vec![id.0.into()])
                .map_err(|error| error.to_string())
        };
        query
            .list(&self.db, &["s.session_id"], Order::NewestFirst, page, cut, session_row)
            .await
    }

    async fn messages(
        &self,
        tenant: &TenantId,
        session_id: SessionId,
        page: &Page,
    ) -> Result<Listed<MessageRow>, Error> {
        let mut query = Query::new(
            "select t.run_id, t.version, t.idx, t.message, t.time from messages as t where t.tenant_id = ",
            tenant,
        );
        query.and("t.session_id = ", session_id.0);
        let columns = ["t.run_id", "t.version", "t.idx"];
        query
            .list(&self.db, &columns, Order::OldestFirst, page, message_cut, message_row)
            .await
    }

    async fn usage(&self, tenant: &TenantId, days: u32) -> Result<Vec<UsageRow>, Error> {
        let before = chrono::Days::new(days.max(1).into());
        // Before the beginning of the calendar lies every day there is.
        let first = clock::now()
            .checked_sub_days(before)
            .map_or_else(String::new, |day| day.format("%Y-%m-%d").to_string());
        let sql = format!(
            "select day, agent, model, model_calls, orphaned_calls, input_tokens, output_tokens, cost_microusd \
             from usage where tenant_id = $1 and day > $2 order by day desc, agent, model limit {USAGE_ROWS_MAX}"
        );
        self.db
            .fetch(&sql, &[tenant.as_str().into(), first.into()])
            .await?
            .iter()
            .map(usage_row)
            .collect()
    }

    async fn wait_for(&self, position: Position) -> Result<bool, Error> {
        let give_up = Instant::now() + WAIT_MAX;
        loop {
            let mut there = true;
            for projection in models::all() {
                let checkpoint = checkpoint::read(&self.db, projection.name()).await?;
                there &= checkpoint.is_some_and(|checkpoint| checkpoint.position >= position);
            }
            if there || Instant::now() >= give_up {
                return Ok(there);
            }
            tokio::time::sleep(WAIT_PAUSE).await;
        }
    }
}

/// The id of a message in a list: what `Page::after` and `Page::before` take.
pub fn message_cursor(run_id: RunId, version: u64, index: u32) -> String {
    format!("{run_id}.{version}.{index}")
}

fn message_cut(text: &str) -> Result<Vec<Value>, String> {
    let bad = || {
        format!(
            "{:?} is not run_….version.index",
            text.chars().take(80).collect::<String>()
        )
    };
    let mut parts = text.split('.');
    let (Some(run_id), Some(version), Some(index), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(bad());
    };
    let run_id: RunId = run_id.parse().map_err(|_| bad())?;
    let version: u32 = version.parse().map_err(|_| bad())?;
    let index: u32 = index.parse().map_err(|_| bad())?;
    Ok(vec![run_id.0.into(), version.into(), index.into()])
}

#[derive(Clone, Copy, PartialEq)]
enum Order {
    NewestFirst,
    OldestFirst,
}

/// A list's query. The tenant comes first, always.
struct Query {
    sql: String,
    args: Vec<Value>,
}

impl Query {
    fn new(sql: &str, tenant: &TenantId) -> Self {
        let mut query = Self {
            sql: sql.into(),
            args: Vec::new(),
        };
        query.bind(tenant.as_str());
        query
    }

    fn bind(&mut self, value: impl Into<Value>) {
        self.args.push(value.into());
        self.sql.push_str(&format!("${}", self.args.len()));
    }

    fn and(&mut self, condition: &str, value: impl Into<Value>) {
        self.sql.push_str(" and ");
        self.sql.push_str(condition);
        self.bind(value);
    }

    /// One page by these key columns. `cut` reads an id of the list.
    async fn list<T>(
        mut self,
        db: &Db,
        key: &[&str],
        order: Order,
        page: &Page,
        cut: impl Fn(&str) -> Result<Vec<Value>, String>,
        read: impl Fn(&Row) -> Result<T, Error>,
    ) -> Result<Listed<T>, Error> {
        let newest_first = order == Order::NewestFirst;
        let bounds = [
            ("after", &page.after, newest_first),
            ("before", &page.before, !newest_first),
        ];
        for (field, id, older) in bounds {
            let Some(id) = id else { continue };
            let values = cut(id).map_err(|why| Error::Refused(format!("{field}: {why}; use an id from the list")))?;
            self.sql.push_str(&format!(
                " and ({}) {} (",
                key.join(", "),
                if older { '<' } else { '>' }
            ));
            for (at, value) in values.into_iter().enumerate() {
                self.sql.push_str(if at == 0 { "" } else { ", " });
                self.bind(value);
            }
            self.sql.push(')');
        }
        // With only `before`, the page that ends there is meant, so it is read backwards.
        let backwards = page.before.is_some() && page.after.is_none();
        let direction = if newest_first != backwards { " desc" } else { "" };
        let limit = page.limit.clamp(1, PAGE_ROWS_MAX) as usize;
        let columns: Vec<String> = key.iter().map(|column| format!("{column}{direction}")).collect();
        self.sql
            .push_str(&format!(" order by {} limit {}", columns.join(", "), limit + 1));
        let mut data = db
            .fetch(&self.sql, &self.args)
            .await?
            .iter()
            .map(read)
            .collect::<Result<Vec<T>, _>>()?;
        let has_more = data.len() > limit;
        data.truncate(limit);
        if backwards {
            data.reverse();
        }
        Ok(Listed { data, has_more })
    }
}

fn run_row(row: &Row) -> Result<RunRow, Error> {
    Ok(RunRow {
        id: RunId(row.get("run_id")?),
        session_id: SessionId(row.get("session_id")?),
        agent: row.get("agent")?,
        status: row.get("status")?,
        input: row.get("input")?,
        output: row.get("output")?,
        error_code: row.get("error_code")?,
        input_tokens: row.count("input_tokens")?,
        output_tokens: row.count("output_tokens")?,
        cost_microusd: row.count("cost_microusd")?,
        created_at: row.get("created_at")?,
        ended_at: row.get("ended_at")?,
    })
}

fn session_row(row: &Row) -> Result<SessionRow, Error> {
    let count = |column| row.get::<Option<i64>>(column).map(|n| n.unwrap_or(0).unsigned_abs());
    let created_at = row.get("created_at")?;
    Ok(SessionRow {
        id: SessionId(row.get("session_id")?),
        runs: count("runs")?,
        messages: count("messages")?,
        created_at,
        updated_at: row.get::<Option<_>>("updated_at")?.unwrap_or(created_at),
    })
}

pub(crate) fn message_row(row: &Row) -> Result<MessageRow, Error> {
    let run_id = RunId(row.get("run_id")?);
    let version = row.count("version")?;
    let message = serde_json::from_str(&row.get::<String>("message")?).map_err(|error| {
        Error::Refused(format!(
            "a message of run {run_id}, version {version} does not read: {error}"
        ))
    })?;
    let index = u32::try_from(row.count("idx")?).unwrap_or(u32::MAX);
    Ok(MessageRow {
        run_id,
        version,
        index,
        message,
        time: row.get("time")?,
    })
}

fn usage_row(row: &Row) -> Result<UsageRow, Error> {
    Ok(UsageRow {
        day: row.get("day")?,
        agent: row.get("agent")?,
        model: row.get("model")?,
        model_calls: row.count("model_calls")?,
        orphaned_calls: row.count("orphaned_calls")?,
        input_tokens: row.count("input_tokens")?,
        output_tokens: row.count("output_tokens")?,
        cost_microusd: row.count("cost_microusd")?,
    })
}
