//! Read models against a fold of the log up to their checkpoints.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use steadfast::{
    run::{RunId, SessionId},
    store::{Db, Error, Position, Reader, sql::Tx},
};

use super::{
    report::{Findings, Subject},
    run::RunCheck,
    scan::snapshot,
};
use crate::{
    checkpoint::{self, Checkpoint},
    log::{Entry, Log},
    models::{
        self, RunList, Sessions, UsageByDay,
        run_list::ListedRun,
        sessions::{Said, said},
        usage::{Account, Spent, Totals},
    },
    projection::Projection,
    reads::message_row,
    rows::fetch_by,
    schema::table_exists,
};

/// How often a read model that is behind is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Rows nothing explains that are looked at.
const STRAYS_MAX: u32 = 100;

/// Up to where a projection can be compared, if it can.
pub async fn comparable(
    tx: &mut Tx,
    projection: &dyn Projection,
    findings: &mut Findings,
) -> Result<Option<Position>, Error> {
    let name = projection.name();
    let known = if table_exists(tx, checkpoint::TABLE).await? {
        checkpoint::peek(tx, name).await?
    } else {
        None
    };
    let not = match known {
        Some(Checkpoint { version, position }) if version == projection.version() => return Ok(Some(position)),
        Some(Checkpoint { version, .. }) => {
            format!(
                "it is kept at version {version}, this build makes version {}",
                projection.version()
            )
        }
        None => "it has never been built".into(),
    };
    findings.not_checked.insert(format!("I11 for projection {name}: {not}"));
    Ok(None)
}

/// Whether each read model there is comes to the end of the log, where nothing more is written.
pub async fn caught_up(db: &Db, reader: &Reader, patience: Duration, findings: &mut Findings) -> Result<(), Error> {
    let started = Instant::now();
    loop {
        let end = reader.log_end().await?;
        let mut behind = Vec::new();
        let mut tx = snapshot(db).await?;
        for projection in models::all() {
            // One that cannot be compared is named elsewhere.
            let at = comparable(&mut tx, projection, &mut Findings::default()).await?;
            behind.extend(at.filter(|at| *at < end).map(|at| (projection.name(), at)));
        }
        tx.rollback().await?;
        if behind.is_empty() {
            return Ok(());
        }
        if started.elapsed() < patience {
            tokio::time::sleep(LOOK_AGAIN).await;
            continue;
        }
        for (name, at) in behind {
            let what = format!("projection {name} of a system at rest");
            findings.violation("I11", Subject::default(), what, format!("{end:?}"), format!("{at:?}"));
        }
        return Ok(());
    }
}

/// What the read models must hold of the runs of one page.
pub struct Expected {
    run_list_at: Option<Position>,
    messages_at: Option<Position>,
    run: Option<ListedRun>,
    broken: bool,
    said: Vec<Said>,
    page: Findings,
    runs: BTreeMap<RunId, ListedRun>,
    messages: BTreeMap<RunId, Vec<Said>>,
    /// Runs that cannot be folded: nothing can be said of their rows.
    skipped: Vec<RunId>,
}

impl Expected {
    pub async fn at_checkpoints(tx: &mut Tx) -> Result<Self, Error> {
        let mut page = Findings::default();
        Ok(Self {
            run_list_at: comparable(tx, &RunList, &mut page).await?,
            messages_at: comparable(tx, &Sessions, &mut page).await?,
            run: None,
            broken: false,
            said: Vec::new(),
            page,
            runs: BTreeMap::new(),
            messages: BTreeMap::new(),
            skipped: Vec::new(),
        })
    }

    pub fn take(&mut self, entry: &Entry) {
        if self
            .run_list_at
            .is_some_and(|checkpoint| entry.log.position <= checkpoint)
            && !self.broken
        {
            match ListedRun::after(self.run.take(), entry) {
                Ok(row) => self.run = Some(row),
                Err(_) => self.broken = true,
            }
        }
        if self
            .messages_at
            .is_some_and(|checkpoint| entry.log.position <= checkpoint)
        {
            self.said.append(&mut said(entry));
        }
    }

    pub fn end_run(&mut self, check: &RunCheck, findings: &mut Findings) {
        let (run, said, broken) = (
            self.run.take(),
            std::mem::take(&mut self.said),
            std::mem::take(&mut self.broken),
        );
        if !check.foldable || broken {
            self.skipped.push(check.run_id());
            let what = format!("I11 for run {}: its events do not fold", check.run_id());
            self.page.not_checked.insert(what);
            return;
        }
        // All of it applied: the conversation must be the one the run's own fold tells.
        if run.as_ref().is_some_and(|row| row.version == check.run.version) && self.messages_at >= self.run_list_at {
            let told = said.iter().map(|said| &said.message);
            if !told.eq(check.run.messages.iter().map(|message| &**message)) {
                let at = Subject::run(check.run_id());
                findings.violation(
                    "I11",
                    at,
                    "the messages its events add",
                    check.run.messages.len(),
                    said.len(),
                );
            }
        }
        self.runs.extend(run.map(|row| (row.run_id, row)));
        if !said.is_empty() {
            self.messages.insert(check.run_id(), said);
        }
    }
}

/// Compares what the page's runs must be with what the tables say.
pub async fn compare_page(
    tx: &mut Tx,
    mut expected: Expected,
    keys: Vec<(String, SessionId, RunId)>,
    findings: &mut Findings,
) -> Result<(), Error> {
    findings.merge(std::mem::take(&mut expected.page));
    if expected.run_list_at.is_some() {
        let by = keys
            .iter()
            .map(|(tenant, _, run_id)| vec![tenant.as_str().into(), run_id.0.into()])
            .collect();
        let tail = "join run_list as t on t.tenant_id = k.column1 and t.run_id = k.column2";
        for row in fetch_by(tx, "select t.* from", tail, by).await? {
            findings.rows += 1;
            let run_id = RunId(row.get("run_id")?);
            if expected.skipped.contains(&run_id) {
                continue;
            }
            let expect = expected.runs.remove(&run_id);
            let at = Subject::run(run_id);
            match (expect, ListedRun::read(&row)) {
                (Some(expect), Ok(found)) if expect == found => {}
                (Some(expect), Ok(found)) => {
                    let (expect, found) = difference(&format!("{expect:?}"), &format!("{found:?}"));
                    findings.violation("I11", at, "the row of run_list", expect, found);
                }
                (None, _) => findings.violation("I11", at, "the row of run_list", "none yet", "a row"),
                (_, Err(error)) => findings.violation("I11", at, "the row of run_list", "a row that reads", error),
            }
        }
        for (run_id, expect) in std::mem::take(&mut expected.runs) {
            let expect = format!("a row at version {}", expect.version);
            findings.violation("I11", Subject::run(run_id), "the row of run_list", expect, "none");
        }
    }
    if expected.messages_at.is_some() {
        compare_messages(tx, expected, keys, findings).await?;
    }
    Ok(())
}

async fn compare_messages(
    tx: &mut Tx,
    mut expected: Expected,
    keys: Vec<(String, SessionId, RunId)>,
    findings: &mut Findings,
) -> Result<(), Error> {
    let by = keys
        .into_iter()
        .map(|(_, session_id, run_id)| vec![session_id.0.into(), run_id.0.into()])
        .collect();
    let tail = "join messages as t on t.session_id = k.column1 and t.run_id = k.column2";
    let mut expect: BTreeMap<(RunId, u64, u32), Said> = std::mem::take(&mut expected.messages)
        .into_values()
        .flatten()
        .map(|said| ((said.run_id, said.version, said.index), said))
        .collect();
    for row in fetch_by(tx, "select t.* from", tail, by).await? {
        findings.rows += 1;
        let run_id = RunId(row.get("run_id")?);
        if expected.skipped.contains(&run_id) {
            continue;
        }
        let at = Subject::event(run_id, row.count("version")?);
        let what = format!("message {}", row.count("idx")?);
        let (tenant, session_id): (String, _) = (row.get("tenant_id")?, SessionId(row.get("session_id")?));
        match message_row(&row) {
            Ok(found) => match expect.remove(&(run_id, found.version, found.index)) {
                Some(said) => {
                    findings.same(
                        "I13",
                        at,
                        &format!("the tenant of {what}"),
                        said.tenant.as_str(),
                        &tenant,
                    );
                    findings.same(
                        "I11",
                        at,
                        &format!("the session of {what}"),
                        said.session_id,
                        session_id,
                    );
                    if (&said.message, said.time) != (&found.message, found.time) {
                        let before = format!("{:?} at {}", said.message, said.time);
                        let (expect, found) = difference(&before, &format!("{:?} at {}", found.message, found.time));
                        findings.violation("I11", at, what, expect, found);
                    }
                }
                None => findings.violation("I11", at, what, "no such message", "a row of messages"),
            },
            Err(error) => findings.violation("I11", at, what, "a row that reads", error),
        }
    }
    for said in expect.into_values() {
        let at = Subject::event(said.run_id, said.version);
        findings.violation(
            "I11",
            at,
            format!("message {}", said.index),
            "a row of messages",
            "none",
        );
    }
    Ok(())
}

/// The parts of two long texts around the first place where they differ.
fn difference(a: &str, b: &str) -> (String, String) {
    const BEFORE: usize = 40;
    let same = a.chars().zip(b.chars()).take_while(|(a, b)| a == b).count();
    let from = |text: &str| {
        let rest: String = text.chars().skip(same.saturating_sub(BEFORE)).collect();
        if same > BEFORE { format!("…{rest}") } else { rest }
    };
    (from(a), from(b))
}

/// Rows of runs the store does not know.
pub async fn strays(db: &Db, findings: &mut Findings) -> Result<(), Error> {
    let tables: [(&dyn Projection, &str, &str); 2] = [
        (&RunList, "run_list", ""),
        (&Sessions, "messages", " and r.session_id = t.session_id"),
    ];
    for (projection, table, and) in tables {
        let mut tx = snapshot(db).await?;
        if comparable(&mut tx, projection, findings).await?.is_some() {
            let sql = format!(
                "select t.run_id from {table} as t left join runs as r on r.run_id = t.run_id \
                 and r.tenant_id = t.tenant_id{and} where r.run_id is null limit {STRAYS_MAX}"
            );
            for row in tx.fetch(&sql, &[]).await? {
                let at = Subject::run(RunId(row.get("run_id")?));
                findings.violation(
                    "I11",
                    at,
                    format!("a row of {table}"),
                    "a run of this tenant and session",
                    "none",
                );
            }
        }
        tx.rollback().await?;
    }
    Ok(())
}

/// The usage table is a sum over all runs, so it is compared once, at the end.
pub struct UsageCheck {
    /// Where the table stood when the check began; what it has taken in since is added at the end.
    began_at: Option<Position>,
    totals: Totals,
}

impl UsageCheck {
    pub async fn begin(db: &Db, findings: &mut Findings) -> Result<Self, Error> {
        let mut tx = snapshot(db).await?;
        let began_at = comparable(&mut tx, &UsageByDay, findings).await?;
        tx.rollback().await?;
        Ok(Self {
            began_at,
            totals: Totals::default(),
        })
    }

    pub fn covers(&self, position: Position) -> bool {
        self.began_at.is_some_and(|began_at| position <= began_at)
    }

    pub fn merge(&mut self, totals: Totals) {
        self.totals.merge(totals);
    }

    pub async fn finish(mut self, db: &Db, reader: &Reader, findings: &mut Findings) -> Result<(), Error> {
        let Some(began_at) = self.began_at else { return Ok(()) };
        if findings.left_to_newer {
            let what = "I11 for projection usage: a newer build has written to the log";
            findings.not_checked.insert(what.into());
            return Ok(());
        }
        let mut tx = snapshot(db).await?;
        let Some(end) = comparable(&mut tx, &UsageByDay, findings).await? else {
            return Ok(());
        };
        let rows = tx.fetch("select * from usage", &[]).await?;
        tx.rollback().await?;
        let mut log = Log::new(reader.clone());
        let mut at = began_at;
        while at < end {
            let page = log.page(at).await?;
            page.entries
                .iter()
                .filter(|entry| entry.log.position <= end)
                .for_each(|entry| self.totals.add(entry));
            if page.broken.is_some() {
                findings
                    .not_checked
                    .insert("I11 for projection usage: the log does not read to its end".into());
                return Ok(());
            }
            let Some(reached) = page.end() else { break };
            at = reached;
        }
        let mut found = Totals::default();
        for row in &rows {
            findings.rows += 1;
            let (account, spent) = Totals::read(row)?;
            found.0.insert(account, spent);
        }
        let accounts: std::collections::BTreeSet<&Account> = self.totals.0.keys().chain(found.0.keys()).collect();
        for account in accounts {
            let show = |spent: Option<&Spent>| spent.map_or("no row".into(), |spent| format!("{spent:?}"));
            let Account {
                tenant,
                day,
                agent,
                model,
            } = account;
            let what = format!("usage of tenant {tenant}, day {day}, agent {agent}, model {model}");
            let (expect, found) = (show(self.totals.0.get(account)), show(found.0.get(account)));
            findings.same("I11", Subject::default(), &what, expect, found);
        }
        Ok(())
    }
}
