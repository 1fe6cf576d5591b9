//! The log and the heads, page by page in the order of run ids, each page under one snapshot.

use std::{collections::BTreeMap, iter::Peekable, sync::Arc, vec::IntoIter};

use sha2::{Digest, Sha256};
use steadfast::{
    run::{
        Corrupt, Event, RunId, SessionId,
        agent::{hex, unhex},
    },
    store::{
        Db, Error, Hash, LogEntry, Position, Reader, StoredEvent,
        sql::{Row, Tx},
    },
};
use uuid::Uuid;

use super::{
    Options,
    models::{Expected, UsageCheck, compare_page},
    report::{Findings, Subject},
    run::{HeadRow, RawEvent, RunCheck},
};
use crate::{
    log::{Entry, Origin},
    models::usage::Totals,
};

/// Runs of one page: what is compared at once is kept in memory.
const PAGE_RUNS: usize = 100;
/// Events fetched at once.
const FETCH_EVENTS: usize = 1000;

/// Everything up to this run has been checked.
#[derive(Debug, Default)]
pub struct Place(Option<RunId>);

pub struct CheckedPage {
    pub findings: Findings,
    pub usage: Totals,
    pub next: Option<Place>,
}

/// Checks the runs after `from`.
pub async fn page(
    db: &Db,
    reader: &Reader,
    options: &Options<'_>,
    from: &Place,
    usage: &UsageCheck,
) -> Result<CheckedPage, Error> {
    let mut tx = snapshot(db).await?;
    let low = from.0.map_or(Uuid::nil(), |run_id| run_id.0);
    let heads = heads(&mut tx, low).await?;
    let last = heads
        .last()
        .filter(|_| heads.len() == PAGE_RUNS)
        .map(|head| head.run_id);
    // The last page also takes the events behind the last head.
    let high = last.map_or(Uuid::max(), |run_id| run_id.0);
    let keys: Vec<_> = heads
        .iter()
        .map(|head| (head.tenant.clone(), head.session_id, head.run_id))
        .collect();
    let mut expected = Expected::at_checkpoints(&mut tx).await?;
    let mut work = Work {
        reader,
        settled: options.settled.is_some(),
        findings: Findings::default(),
        heads: heads.into_iter().peekable(),
    };
    let mut totals = Totals::default();
    let mut current: Option<RunCheck> = None;
    let mut at = (low, i64::MAX);
    let sql = format!("{EVENTS} limit {FETCH_EVENTS}");
    loop {
        let rows = tx.fetch(&sql, &[at.0.into(), at.1.into(), high.into()]).await?;
        for row in &rows {
            let raw = raw_event(row)?;
            at = (raw.run_id.0, i64::try_from(raw.version).unwrap_or(i64::MAX));
            if current.as_ref().is_none_or(|check| check.run_id() != raw.run_id) {
                work.finish(current.take(), Some(raw.run_id), &mut expected);
            }
            let check = current.get_or_insert_with(|| RunCheck::new(raw.run_id));
            if let Some(entry) = work.take(check, raw, position(row)?).await? {
                expected.take(&entry);
                if usage.covers(entry.log.position) {
                    totals.add(&entry);
                }
            }
        }
        if rows.len() < FETCH_EVENTS {
            break;
        }
    }
    work.finish(current.take(), None, &mut expected);
    let mut findings = work.findings;
    compare_page(&mut tx, expected, keys, &mut findings).await?;
    tx.rollback().await?;
    Ok(CheckedPage {
        findings,
        usage: totals,
        next: last.map(|run_id| Place(Some(run_id))),
    })
}

/// Reads that all see the same moment.
pub async fn snapshot(db: &Db) -> Result<Tx, Error> {
    let mut tx = db.begin().await?;
    if db.is_postgres() {
        tx.execute("set transaction isolation level repeatable read, read only", &[])
            .await?;
    }
    Ok(tx)
}

/// The page in the making.
struct Work<'a> {
    reader: &'a Reader,
    settled: bool,
    findings: Findings,
    heads: Peekable<IntoIter<HeadRow>>,
}

impl Work<'_> {
    /// Judges one event. Answers it decoded, if that and the fold so far are possible.
    async fn take(&mut self, check: &mut RunCheck, raw: RawEvent, position: Position) -> Result<Option<Entry>, Error> {
        self.findings.events += 1;
        check.link(&raw, &mut self.findings);
        let Ok(mut stored) = raw.stored else { return Ok(None) };
        if check.is_left_to_newer() {
            return Ok(None);
        }
        if let Some(hash) = referred(&stored.payload) {
            match self.blob(&hash, Subject::event(stored.run_id, stored.version)).await? {
                Some(payload) => stored.payload = payload,
                None => {
                    check.foldable = false;
                    return Ok(None);
                }
            }
        }
        match Event::from_stored(&stored.name, stored.schema, &stored.payload) {
            Ok(event) => {
                check.fold(&event, &mut self.findings);
                let Some(request) = check.run.request.as_ref().filter(|_| check.foldable) else {
                    return Ok(None);
                };
                let origin = Arc::new(Origin::of(request));
                Ok(Some(Entry {
                    log: LogEntry {
                        position,
                        event: stored,
                    },
                    event,
                    origin,
                }))
            }
            // Not damage: whoever recorded it can check it.
            Err(Corrupt::UnknownEvent { name, schema }) => {
                check.leave_to_newer();
                self.findings.left_to_newer = true;
                let what = format!(
                    "the state of runs with {name:?} events of schema {schema}: a newer build recorded them; check with it"
                );
                self.findings.not_checked.insert(what);
                Ok(None)
            }
            Err(reason @ Corrupt::BadPayload { .. }) => {
                check.unreadable(&reason.to_string(), &mut self.findings);
                Ok(None)
            }
        }
    }

    async fn blob(&mut self, hash: &Hash, at: Subject) -> Result<Option<String>, Error> {
        self.findings.blobs += 1;
        let Some(bytes) = self.reader.blob(hash).await? else {
            self.findings
                .violation("I14", at, "the blob the event refers to", hex(hash), "no such blob");
            return Ok(None);
        };
        let found: Hash = Sha256::digest(&bytes).into();
        self.findings.same(
            "I14",
            at,
            "the hash of the blob the event refers to",
            hex(hash),
            hex(&found),
        );
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Some(text)),
            Err(_) => {
                self.findings
                    .violation("I14", at, "the blob the event refers to", "UTF-8", "other bytes");
                Ok(None)
            }
        }
    }

    /// Ends a run; heads without events before the next run are runs too.
    fn finish(&mut self, check: Option<RunCheck>, next: Option<RunId>, expected: &mut Expected) {
        if let Some(check) = check {
            self.finish_heads_before(Some(check.run_id()));
            let head = self.heads.next_if(|head| head.run_id == check.run_id());
            self.findings.runs += 1;
            check.finish(head.as_ref(), self.settled, &mut self.findings);
            expected.end_run(&check, &mut self.findings);
        }
        self.finish_heads_before(next);
    }

    fn finish_heads_before(&mut self, run_id: Option<RunId>) {
        while let Some(head) = self
            .heads
            .next_if(|head| run_id.is_none_or(|run_id| head.run_id < run_id))
        {
            self.findings.runs += 1;
            let at = Subject::run(head.run_id);
            self.findings.violation(
                "I1",
                at,
                "the run's events",
                format!("{} of them", head.version),
                "none",
            );
        }
    }
}

async fn heads(tx: &mut Tx, after: Uuid) -> Result<Vec<HeadRow>, Error> {
    let sql = format!(
        "select run_id, tenant_id, session_id, agent, status, version, epoch, hash, input_tokens, output_tokens, \
         cost_microusd from runs where run_id > $1 order by run_id limit {PAGE_RUNS}"
    );
    tx.fetch(&sql, &[after.into()]).await?.iter().map(head).collect()
}

fn head(row: &Row) -> Result<HeadRow, Error> {
    Ok(HeadRow {
        run_id: RunId(row.get("run_id")?),
        tenant: row.get("tenant_id")?,
        session_id: SessionId(row.get("session_id")?),
        agent: row.get("agent")?,
        status: row.get("status")?,
        version: row.count("version")?,
        epoch: row.count("epoch")?,
        hash: row.get("hash")?,
        usage: row.usage()?,
    })
}

const EVENTS: &str = "select run_id, version, tenant_id, type, cast(schema as bigint) as schema, time, payload, hash, \
                      cast(generation as bigint) as generation, cast(cast(txid as text) as bigint) as txid, position \
                      from events where (run_id, version) > ($1, $2) and run_id <= $3 order by run_id, version";

fn position(row: &Row) -> Result<Position, Error> {
    Ok(Position {
        generation: row.get("generation")?,
        txid: row.get("txid")?,
        seq: row.get("position")?,
    })
}

fn raw_event(row: &Row) -> Result<RawEvent, Error> {
    let run_id = RunId(row.get("run_id")?);
    let version = row.count("version")?;
    let stored = stored_event(row, run_id, version).map_err(|error| error.to_string());
    Ok(RawEvent {
        run_id,
        version,
        stored,
    })
}

fn stored_event(row: &Row, run_id: RunId, version: u64) -> Result<StoredEvent, Error> {
    Ok(StoredEvent {
        run_id,
        version,
        tenant: row.tenant("tenant_id")?,
        name: row.get("type")?,
        schema: u16::try_from(row.count("schema")?).map_err(|_| Error::Refused("column schema is too large".into()))?,
        time: row.get("time")?,
        payload: row.get("payload")?,
        hash: row.hash("hash")?,
    })
}

/// The content hash in a payload that is only a reference.
fn referred(payload: &str) -> Option<Hash> {
    if !payload.starts_with("{\"$blob\"") {
        return None;
    }
    let fields: BTreeMap<String, serde_json::Value> = serde_json::from_str(payload).ok()?;
    unhex(fields.get("$blob")?.as_str()?)
}
