//! `session_list` against `messages`: both are kept by one projection, so they agree at every moment.

use std::collections::BTreeMap;

use steadfast::{
    run::{SessionId, Time},
    store::{
        Db, Error,
        sql::{Row, Tx},
    },
};
use uuid::Uuid;

use super::{
    models::comparable,
    report::{Findings, Subject},
    scan::snapshot,
};
use crate::models::Sessions;

const PAGE_SESSIONS: usize = 500;

/// Runs, messages and the time of the last one.
type Counted = (u64, u64, Time);

pub async fn sessions(db: &Db, findings: &mut Findings) -> Result<(), Error> {
    let mut after = Some(Uuid::nil());
    while let Some(from) = after {
        let mut page = page(db, from).await?;
        if !page.0.is_clean() {
            page = self::page(db, from).await?;
        }
        findings.merge(page.0);
        after = page.1;
    }
    Ok(())
}

async fn page(db: &Db, after: Uuid) -> Result<(Findings, Option<Uuid>), Error> {
    let mut findings = Findings::default();
    let mut tx = snapshot(db).await?;
    if comparable(&mut tx, &Sessions, &mut findings).await?.is_none() {
        return Ok((findings, None));
    }
    let listed = listed(&mut tx, after).await?;
    let last = listed.keys().last().filter(|_| listed.len() == PAGE_SESSIONS).copied();
    let counted = counted(&mut tx, after, last.unwrap_or(Uuid::max())).await?;
    tx.rollback().await?;
    let sessions: std::collections::BTreeSet<_> = listed.keys().chain(counted.keys()).collect();
    for session in sessions {
        findings.rows += 1;
        let show = |counted: Option<&Counted>| {
            counted.map_or("no row".into(), |(runs, messages, at)| {
                format!("{runs} runs, {messages} messages, last {at}")
            })
        };
        let what = format!("the row of session_list for {}", SessionId(*session));
        let (expect, found) = (show(counted.get(session)), show(listed.get(session)));
        findings.same("I11", Subject::default(), &what, expect, found);
    }
    Ok((findings, last))
}

async fn listed(tx: &mut Tx, after: Uuid) -> Result<BTreeMap<Uuid, Counted>, Error> {
    let sql = format!("select * from session_list where session_id > $1 order by session_id limit {PAGE_SESSIONS}");
    tx.fetch(&sql, &[after.into()]).await?.iter().map(counts).collect()
}

async fn counted(tx: &mut Tx, after: Uuid, to: Uuid) -> Result<BTreeMap<Uuid, Counted>, Error> {
    let sql = "select session_id, count(*) as messages, max(time) as updated_at, \
               cast(sum(case when version = 1 and idx = 0 then 1 else 0 end) as bigint) as runs \
               from messages where session_id > $1 and session_id <= $2 group by session_id";
    tx.fetch(sql, &[after.into(), to.into()])
        .await?
        .iter()
        .map(counts)
        .collect()
}

fn counts(row: &Row) -> Result<(Uuid, Counted), Error> {
    Ok((
        row.get("session_id")?,
        (row.count("runs")?, row.count("messages")?, row.get("updated_at")?),
    ))
}
