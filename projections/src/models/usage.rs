//! `usage`: what was spent, by tenant, day, agent and model.
//!
//! The model is the one the run asked for, so that the calls, what they cost and what a crash took stand in one row;
//! what answered may call itself something longer. The day is the event's, in UTC.

use std::collections::BTreeMap;

use async_trait::async_trait;
use steadfast::{
    run::{Event, Usage},
    store::{
        Error,
        sql::{Row, Tx, Value},
    },
};

use crate::{
    log::Entry,
    projection::{Names, Projection, Table},
    rows::{insert, without_nul},
};

pub const USAGE: &str = "usage";

const VERSION: i64 = 1;

const TABLES: &[Table] = &[Table {
    name: USAGE,
    columns: "tenant_id text not null, day text not null, agent text not null, model text not null, \
              model_calls bigint not null, orphaned_calls bigint not null, input_tokens bigint not null, \
              output_tokens bigint not null, cost_microusd bigint not null",
    primary_key: "tenant_id, day, agent, model",
    indexes: &[],
}];

pub struct UsageByDay;

/// What a total is kept for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Account {
    pub tenant: String,
    pub day: String,
    pub agent: String,
    pub model: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spent {
    /// Calls that were made: answered, failed, orphaned or still open.
    pub model_calls: u64,
    pub orphaned_calls: u64,
    pub usage: Usage,
}

impl Spent {
    fn add(&mut self, other: Self) {
        self.model_calls += other.model_calls;
        self.orphaned_calls += other.orphaned_calls;
        self.usage += other.usage;
    }
}

/// Totals of a stretch of the log.
#[derive(Debug, Default)]
pub struct Totals(pub BTreeMap<Account, Spent>);

impl Totals {
    pub fn add(&mut self, entry: &Entry) {
        let spent = match &entry.event {
            Event::ModelCallRequested(_) => Spent {
                model_calls: 1,
                ..Spent::default()
            },
            Event::ModelReplied(e) => Spent {
                usage: e.usage,
                ..Spent::default()
            },
            Event::ModelCallOrphaned(e) => Spent {
                orphaned_calls: 1,
                // Charged as the run's own fold charges it.
                usage: e.charged(),
                ..Spent::default()
            },
            _ => return,
        };
        let stored = &entry.log.event;
        let account = Account {
            tenant: stored.tenant.as_str().into(),
            day: stored.time.format("%Y-%m-%d").to_string(),
            agent: without_nul(&entry.origin.agent),
            model: without_nul(&entry.origin.model),
        };
        self.0.entry(account).or_default().add(spent);
    }
}

impl Totals {
    pub fn merge(&mut self, other: Self) {
        for (account, spent) in other.0 {
            self.0.entry(account).or_default().add(spent);
        }
    }

    /// A row of the table.
    pub fn read(row: &Row) -> Result<(Account, Spent), Error> {
        let account = Account {
            tenant: row.get("tenant_id")?,
            day: row.get("day")?,
            agent: row.get("agent")?,
            model: row.get("model")?,
        };
        let usage = Usage {
            input_tokens: row.count("input_tokens")?,
            output_tokens: row.count("output_tokens")?,
            cost_microusd: row.count("cost_microusd")?,
        };
        let spent = Spent {
            model_calls: row.count("model_calls")?,
            orphaned_calls: row.count("orphaned_calls")?,
            usage,
        };
        Ok((account, spent))
    }
}

#[async_trait]
impl Projection for UsageByDay {
    fn name(&self) -> &'static str {
        USAGE
    }

    fn version(&self) -> i64 {
        VERSION
    }

    fn tables(&self) -> &'static [Table] {
        TABLES
    }

    async fn apply(&self, tx: &mut Tx, names: Names, batch: &[Entry]) -> Result<(), Error> {
        let mut totals = Totals::default();
        for entry in batch {
            totals.add(entry);
        }
        let rows = totals
            .0
            .into_iter()
            .map(|(account, spent)| into_values(account, spent))
            .collect();
        let table = names.of(USAGE);
        insert(
            tx,
            &format!(
                "{table} (tenant_id, day, agent, model, model_calls, orphaned_calls, input_tokens, output_tokens, \
                 cost_microusd)"
            ),
            &format!(
                "on conflict (tenant_id, day, agent, model) do update set \
                 model_calls = {table}.model_calls + excluded.model_calls, \
                 orphaned_calls = {table}.orphaned_calls + excluded.orphaned_calls, \
                 input_tokens = {table}.input_tokens + excluded.input_tokens, \
                 output_tokens = {table}.output_tokens + excluded.output_tokens, \
                 cost_microusd = {table}.cost_microusd + excluded.cost_microusd"
            ),
            rows,
        )
        .await
    }
}

fn into_values(account: Account, spent: Spent) -> Vec<Value> {
    vec![
        account.tenant.into(),
        account.day.into(),
        account.agent.into(),
        account.model.into(),
        spent.model_calls.into(),
        spent.orphaned_calls.into(),
        spent.usage.input_tokens.into(),
        spent.usage.output_tokens.into(),
        spent.usage.cost_microusd.into(),
    ]
}
