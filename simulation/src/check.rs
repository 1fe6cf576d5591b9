//! The invariants, checked on the truth, on what reached the outside, and on what clients saw.

use std::collections::{BTreeMap, BTreeSet};

use steadfast::{
    run::{Event, Run, RunId, state::Outcome},
    store::{GENESIS, Head, StoredEvent, chain},
};

use crate::{
    calls::{self, Account},
    house::House,
    model::Ledger,
    rows::Rows,
    transcript::{Transcript, exactness},
};

#[derive(Debug, Clone, PartialEq)]
pub struct Violation {
    pub invariant: &'static str,
    pub what: String,
}

#[derive(Default)]
pub struct Checks {
    pub violations: Vec<Violation>,
    /// How often each invariant was looked at.
    pub made: BTreeMap<&'static str, u64>,
}

impl Checks {
    pub fn fail(&mut self, invariant: &'static str, what: String) {
        self.violations.push(Violation { invariant, what });
    }

    pub fn that(&mut self, invariant: &'static str, holds: bool, what: impl FnOnce() -> String) {
        *self.made.entry(invariant).or_default() += 1;
        if !holds {
            self.fail(invariant, what());
        }
    }

    pub fn all(&mut self, house: &House, transcripts: &[Transcript]) {
        let rows = house.database.rows();
        let ledger = house.ledger.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for (run_id, row) in &rows.runs {
            let stored = rows.events.get(run_id).map(Vec::as_slice).unwrap_or_default();
            let decoded: Result<Vec<Event>, _> = stored.iter().map(StoredEvent::decode).collect();
            match decoded {
                Ok(events) => {
                    self.stream(&row.head, stored, &events);
                    self.ends(*run_id, &events);
                    Account::new(self, house, &rows, &ledger, *run_id).judge(&events, row.head.usage);
                    self.folds(&row.head, &events);
                }
                Err(error) => self.fail("I1 contiguity", format!("{run_id} does not read: {error}")),
            }
        }
        self.fencing(&rows);
        self.sessions(&rows);
        self.keys(&rows, transcripts);
        self.effects(&rows, &ledger);
        self.read_model(house, &rows);
        for transcript in transcripts {
            self.transcript(&rows, house, transcript);
        }
    }

    /// Versions are 1 … n, the head stands at n, and every link of the chain holds.
    fn stream(&mut self, head: &Head, stored: &[StoredEvent], events: &[Event]) {
        let run_id = head.run_id;
        let numbered = stored.iter().zip(1..).all(|(event, version)| event.version == version);
        let at_end = head.version == stored.len() as u64;
        self.that("I1 contiguity", numbered && at_end, || {
            format!("{run_id}: head {}, events {}", head.version, stored.len())
        });
        let mut previous = GENESIS;
        let linked = stored.iter().zip(events).all(|(stored, event)| {
            let StoredEvent {
                version,
                tenant,
                name,
                schema,
                time,
                payload,
                hash,
                ..
            } = stored;
            previous = chain(&previous, run_id, *version, tenant, name, *schema, *time, payload);
            previous == *hash && event.name() == name
        });
        self.that("I14 hash chain", linked && head.hash == previous, || {
            format!("{run_id}: a link is broken")
        });
    }

    fn ends(&mut self, run_id: RunId, events: &[Event]) {
        let ends = events.iter().filter(|event| event.is_terminal()).count();
        let last = events.last().is_some_and(Event::is_terminal);
        self.that("I4 progress", ends == 1 && last, || {
            format!("{run_id}: {ends} ends, the last event is one: {last}")
        });
        let epochs: Vec<u64> = events
            .iter()
            .filter_map(|event| match event {
                Event::RunStarted(started) => Some(started.epoch),
                Event::RunResumed(resumed) => Some(resumed.epoch),
                _ => None,
            })
            .collect();
        let grows = epochs.windows(2).all(|pair| pair[0] < pair[1]);
        self.that("I5 fencing", grows, || {
            format!("{run_id}: claims in the order {epochs:?}")
        });
    }

    /// Folding is a function of the events; a snapshot reads back as what it was.
    fn folds(&mut self, head: &Head, events: &[Event]) {
        let (once, again) = (Run::fold(events), Run::fold(events));
        let json = serde_json::to_string(&once).unwrap_or_default();
        let back = serde_json::from_str::<Run>(&json).ok();
        let same = once == again && back.as_ref() == Some(&once);
        self.that("I16 replay", same, || {
            format!("{} folds differently the second time", head.run_id)
        });
        let agrees = head.usage == once.usage && head.status == once.status();
        self.that("I8 budget", agrees, || {
            format!("{}: head {:?}, fold {:?}", head.run_id, head.usage, once.usage)
        });
    }

    fn fencing(&mut self, rows: &Rows) {
        for written in &rows.writes {
            self.that("I5 fencing", written.expected_epoch == written.epoch_in_force, || {
                let Some(head) = rows.runs.get(&written.run_id).map(|row| &row.head) else {
                    return String::new();
                };
                format!(
                    "{} version {} was written under claim {} while {} was in force",
                    head.run_id, written.version, written.expected_epoch, written.epoch_in_force
                )
            });
        }
    }

    /// One open run at a time: nothing of a run is begun before the one before it has ended.
    fn sessions(&mut self, rows: &Rows) {
        let started = |run_id: RunId| {
            let events = rows.events.get(&run_id)?;
            let first = events.iter().find(|event| event.name == "run.started")?;
            rows.seen.get(&(run_id, first.version)).copied()
        };
        for session in rows.sessions.keys() {
            let mut heads: Vec<&Head> = rows.of_session(*session).collect();
            heads.sort_by_key(|head| head.session_seq);
            let numbered = heads.iter().zip(1..).all(|(head, seq)| head.session_seq == seq);
            let mut in_turn = true;
            for pair in heads.windows(2) {
                let ended = rows.seen.get(&(pair[0].run_id, pair[0].version)).copied();
                in_turn &= started(pair[1].run_id).is_none_or(|started| ended.is_some_and(|ended| ended < started));
            }
            self.that("sessions in order", numbered && in_turn, || {
                format!("{session}: a run began before its turn")
            });
        }
    }

    /// A request that was sent twice happened once.
    fn keys(&mut self, rows: &Rows, transcripts: &[Transcript]) {
        let mut seen = BTreeSet::new();
        for (run_id, row) in &rows.runs {
            let first = rows.events.get(run_id).and_then(|events| events.first()?.decode().ok());
            if let Some(Event::RunRequested(request)) = first {
                let key = (row.head.tenant.clone(), request.idempotency_key);
                self.that("I3 command once", seen.insert(key.clone()), || {
                    format!("{run_id} is the second of {key:?}")
                });
            }
        }
        for transcript in transcripts {
            let same = transcript.run_ids.windows(2).all(|pair| pair[0] == pair[1]);
            self.that("I3 command once", same, || {
                format!("{}: answered with {:?}", transcript.key, transcript.run_ids)
            });
        }
    }

    fn effects(&mut self, rows: &Rows, ledger: &Ledger) {
        for ((run_id, call), times) in &ledger.sent {
            let allowed = allowed_again(rows, *run_id, call);
            self.that("I9 tool at most once", *times <= 1 + allowed, || {
                format!("{run_id}: {call} ran {times} times, a person allowed it again {allowed} times")
            });
        }
        calls::recorded(self, rows, ledger);
    }

    /// What the projector made of the log is what a fold makes of it.
    fn read_model(&mut self, house: &House, rows: &Rows) {
        let listed = house.models.runs();
        self.that("I11 projections", listed.len() == rows.runs.len(), || {
            format!("{} rows of {} runs", listed.len(), rows.runs.len())
        });
        for (run_id, row) in &rows.runs {
            let events = rows.events.get(run_id).map(Vec::as_slice).unwrap_or_default();
            let run = Run::fold(
                &events
                    .iter()
                    .filter_map(|event| event.decode().ok())
                    .collect::<Vec<_>>(),
            );
            let (output, code) = match &run.outcome {
                Some(Outcome::Completed { output }) => (Some(output.as_str()), None),
                Some(Outcome::Failed { error }) => (None, Some(error.code.as_str())),
                _ => (None, None),
            };
            let same = listed.get(run_id).is_some_and(|listed| {
                listed.version == run.version
                    && listed.status == run.status().as_str()
                    && listed.usage == run.usage
                    && listed.output.as_deref() == output
                    && listed.error_code.as_deref() == code
                    && listed.tenant == row.head.tenant
            });
            self.that("I11 projections", same, || {
                format!("{run_id}: {:?} is not its fold", listed.get(run_id))
            });
        }
    }

    fn transcript(&mut self, rows: &Rows, house: &House, transcript: &Transcript) {
        self.that("answers", transcript.surprises.is_empty(), || {
            transcript.surprises.join("; ")
        });
        for run_id in &transcript.run_ids {
            let known = rows.runs.get(run_id);
            let mine = known.is_some_and(|row| row.head.tenant == house.tenants[transcript.tenant].id);
            self.that("I2 durable accept", mine, || {
                format!("{run_id} was accepted and is not in the log")
            });
        }
        let Some(run_id) = transcript.run_ids.first() else {
            return;
        };
        let stored = rows.events.get(run_id).map(Vec::as_slice).unwrap_or_default();
        let wrong = exactness(&transcript.frames, stored);
        self.that("I10 stream exactness", wrong.is_none(), || {
            format!("the client of {run_id}: {}", wrong.unwrap_or_default())
        });
    }
}

/// How often a person said that a tool call that was cut off should run again.
fn allowed_again(rows: &Rows, run_id: RunId, call: &str) -> u64 {
    let events = rows.events.get(&run_id).map(Vec::as_slice).unwrap_or_default();
    let allowed = events.iter().filter_map(|event| event.decode().ok()).filter(|event| {
        matches!(event, Event::ApprovalGranted(granted)
            if granted.subject.tool_call_id.as_deref() == Some(call) && granted.output.is_none())
    });
    allowed.count() as u64
}
