//! The rows of the database, and what one transaction makes of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use chrono::TimeDelta;
use steadfast::{
    run::{RunId, SessionId, Status, TenantId, Time},
    store::{
        Accept, ApiKey, Appended, Hash, Head, Idempotency, Lease, LogEntry, Outcome, Position, Prepared, Session,
        Snapshot, StoredEvent,
    },
};

use crate::{guard::Guard, world::World};

#[derive(Default)]
pub struct Rows {
    pub runs: BTreeMap<RunId, Row>,
    pub events: BTreeMap<RunId, Vec<StoredEvent>>,
    pub log: BTreeMap<Position, (RunId, u64)>,
    pub sessions: BTreeMap<SessionId, Session>,
    pub keys: BTreeMap<(TenantId, String), Idempotency>,
    pub snapshots: BTreeMap<RunId, (u32, Snapshot)>,
    pub blobs: BTreeMap<Hash, Vec<u8>>,
    pub api_keys: BTreeMap<Hash, ApiKey>,
    /// What was written, for the check: who wrote under which claim while which one was in force.
    pub writes: Vec<Written>,
    /// When each event became visible.
    pub seen: BTreeMap<(RunId, u64), Seen>,
    pub open: BTreeSet<i64>,
    pub locked: BTreeSet<Lock>,
    pub txid: i64,
    seq: i64,
    /// Grows when the server dies: what was open then never happened.
    pub crashes: u64,
    pub away: bool,
    pub slow: bool,
}

pub struct Row {
    pub head: Head,
    pub dispatches: u32,
    /// In its tenant's line.
    pub held: bool,
}

/// The moment, and how many events were visible before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seen {
    pub at: Duration,
    pub place: usize,
}

pub struct Written {
    pub run_id: RunId,
    pub version: u64,
    pub expected_epoch: u64,
    pub epoch_in_force: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lock {
    Run(RunId),
    Session(SessionId),
    Key(TenantId, String),
}

/// What a transaction will make true when it commits.
#[derive(Default)]
pub struct Staged {
    heads: Vec<(RunId, Row)>,
    events: Vec<(Position, StoredEvent)>,
    sessions: Vec<Session>,
    keys: Vec<((TenantId, String), Idempotency)>,
    written: Vec<Written>,
    winners: BTreeMap<RunId, Appended>,
}

/// What a batch holds from its first statement to its commit.
pub fn locks(batch: &[Arc<Prepared>]) -> Vec<Lock> {
    let mut locks = Vec::new();
    for append in batch.iter().map(|prepared| &prepared.append) {
        locks.push(Lock::Run(append.run_id));
        locks.extend(append.accept.iter().map(|accept| Lock::Session(accept.session_id)));
        locks.extend(
            append
                .idempotency
                .iter()
                .map(|key| Lock::Key(append.tenant.clone(), key.key.clone())),
        );
    }
    locks
}

impl Rows {
    /// Decides who wins, and gives the events their numbers.
    pub fn stage(&mut self, batch: &[Arc<Prepared>], txid: i64, world: &World) -> Staged {
        let (mut staged, now) = (Staged::default(), world.now());
        for prepared in batch {
            let append = &prepared.append;
            let key = append
                .idempotency
                .as_ref()
                .filter(|_| !world.is_broken(Guard::IdempotencyKey));
            let key = key.map(|key| ((append.tenant.clone(), key.key.clone()), key.clone()));
            if key.as_ref().is_some_and(|(name, _)| self.keys.contains_key(name)) {
                continue;
            }
            let (row, appended) = match &append.accept {
                Some(accept) => {
                    let known = self.sessions.get(&accept.session_id);
                    let session = match (accept.new_session, known) {
                        (true, None) => Session {
                            session_id: accept.session_id,
                            tenant: append.tenant.clone(),
                            runs: 1,
                            metadata: "{}".into(),
                            created_at: append.time,
                        },
                        (false, Some(known)) if known.tenant == append.tenant => {
                            let mut session = known.clone();
                            session.runs += 1;
                            session
                        }
                        _ => continue,
                    };
                    if self.runs.contains_key(&append.run_id) {
                        continue;
                    }
                    let row = first_row(prepared, session.runs, accept, now);
                    staged.sessions.push(session);
                    (
                        row,
                        Appended {
                            epoch: 0,
                            events: prepared.events.clone(),
                            next_in_session: None,
                        },
                    )
                }
                None => {
                    let Some(row) = self.runs.get(&append.run_id) else {
                        continue;
                    };
                    let in_time = append.expected_epoch == row.head.epoch || world.is_broken(Guard::Epoch);
                    if append.expected_version != row.head.version || !in_time {
                        continue;
                    }
                    let anybody = world.is_broken(Guard::Lease);
                    if matches!(append.lease, Lease::Claim { .. }) && !self.may_be_claimed(&row.head, now, anybody) {
                        continue;
                    }
                    staged.written.push(Written {
                        run_id: append.run_id,
                        version: prepared.new_version(),
                        expected_epoch: append.expected_epoch,
                        epoch_in_force: row.head.epoch,
                    });
                    let row = moved(row, prepared, now);
                    let next_in_session = append.status.is_terminal().then(|| self.next_of(&row.head)).flatten();
                    let epoch = row.head.epoch;
                    (
                        row,
                        Appended {
                            epoch,
                            events: prepared.events.clone(),
                            next_in_session,
                        },
                    )
                }
            };
            for event in &prepared.events {
                self.seq += 1;
                let position = Position {
                    generation: 1,
                    txid,
                    seq: self.seq,
                };
                staged.events.push((position, event.clone()));
            }
            staged.keys.extend(key);
            staged.heads.push((append.run_id, row));
            staged.winners.insert(append.run_id, appended);
        }
        staged
    }

    pub fn commit(&mut self, staged: Staged, batch: &[Arc<Prepared>], world: &World) -> Vec<Outcome> {
        for (position, event) in staged.events {
            world.note(format_args!("log: {} {} {}", event.run_id, event.version, event.name));
            let (at, place) = (world.elapsed(), self.seen.len());
            self.seen.insert((event.run_id, event.version), Seen { at, place });
            self.log.insert(position, (event.run_id, event.version));
            self.events.entry(event.run_id).or_default().push(event);
        }
        self.runs.extend(staged.heads);
        self.sessions
            .extend(staged.sessions.into_iter().map(|session| (session.session_id, session)));
        self.keys.extend(staged.keys);
        self.writes.extend(staged.written);
        let mut winners = staged.winners;
        (batch.iter())
            .map(|prepared| match winners.remove(&prepared.append.run_id) {
                Some(appended) => Outcome::Appended(appended),
                None => self.why_not(prepared),
            })
            .collect()
    }

    fn why_not(&self, prepared: &Prepared) -> Outcome {
        let append = &prepared.append;
        let key = append.idempotency.as_ref();
        if let Some(used) = key.and_then(|key| self.keys.get(&(append.tenant.clone(), key.key.clone()))) {
            return Outcome::KeyUsed {
                fingerprint: used.fingerprint,
                answer: used.answer.clone(),
            };
        }
        match append.accept.as_ref().filter(|accept| !accept.new_session) {
            Some(accept) if self.session(&append.tenant, accept.session_id).is_none() => Outcome::NoSuchSession,
            _ => Outcome::Conflict,
        }
    }

    pub fn session(&self, tenant: &TenantId, id: SessionId) -> Option<&Session> {
        self.sessions.get(&id).filter(|session| session.tenant == *tenant)
    }

    fn may_be_claimed(&self, head: &Head, now: Time, anybody: bool) -> bool {
        (anybody || head.lease_until.is_none_or(|until| until <= now))
            && !self.open_before(head.session_id, head.session_seq)
    }

    pub fn open_before(&self, session_id: SessionId, before: u64) -> bool {
        self.of_session(session_id)
            .any(|head| head.session_seq < before && !head.status.is_terminal())
    }

    pub fn of_session(&self, session_id: SessionId) -> impl Iterator<Item = &Head> {
        (self.runs.values().map(|row| &row.head)).filter(move |head| head.session_id == session_id)
    }

    fn next_of(&self, ended: &Head) -> Option<RunId> {
        self.of_session(ended.session_id)
            .filter(|head| head.session_seq > ended.session_seq && head.status == Status::Queued)
            .min_by_key(|head| head.session_seq)
            .map(|head| head.run_id)
    }

    pub fn is_held(&self, run_id: RunId) -> bool {
        self.runs.get(&run_id).is_some_and(|row| row.held)
    }

    pub fn is_locked(&self, run_id: RunId) -> bool {
        self.locked.contains(&Lock::Run(run_id))
    }

    pub fn log_after(&self, after: Position, limit: usize, bare_sequence: bool) -> Vec<LogEntry> {
        let entry = |(position, (run_id, version)): (&Position, &(RunId, u64))| {
            let event = self.events.get(run_id)?.get(usize::try_from(version - 1).ok()?)?;
            Some(LogEntry {
                position: *position,
                event: event.clone(),
            })
        };
        if bare_sequence {
            let mut entries: Vec<_> = self
                .log
                .iter()
                .filter(|(position, _)| position.seq > after.seq)
                .collect();
            entries.sort_by_key(|(position, _)| position.seq);
            return entries.into_iter().take(limit).filter_map(entry).collect();
        }
        (self
            .log
            .range((std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded)))
        .take_while(|(position, _)| position.txid < self.horizon())
        .take(limit)
        .filter_map(entry)
        .collect()
    }

    /// The oldest transaction still open, or the next one.
    fn horizon(&self) -> i64 {
        self.open.first().copied().unwrap_or(self.txid + 1)
    }

    pub fn log_end(&self) -> Position {
        let seen = self.log.keys().take_while(|position| position.txid < self.horizon());
        seen.last().copied().unwrap_or_default()
    }
}

fn after(now: Time, pause: Duration) -> Time {
    now + TimeDelta::from_std(pause).unwrap_or(TimeDelta::MAX)
}

fn first_row(prepared: &Prepared, session_seq: u64, accept: &Accept, now: Time) -> Row {
    let append = &prepared.append;
    Row {
        dispatches: 0,
        held: accept.held,
        head: Head {
            run_id: append.run_id,
            tenant: append.tenant.clone(),
            session_id: accept.session_id,
            session_seq,
            agent: accept.agent.clone(),
            status: Status::Queued,
            version: prepared.new_version(),
            epoch: 0,
            hash: prepared.head_hash(),
            lease_owner: None,
            lease_until: None,
            due_at: Some(after(now, accept.claim_within)),
            usage: append.usage,
            created_at: append.time,
            updated_at: append.time,
        },
    }
}

/// The head after an append that won.
fn moved(row: &Row, prepared: &Prepared, now: Time) -> Row {
    let append = &prepared.append;
    let mut head = row.head.clone();
    // A dispatch is told from others of the same version by its number: that begins anew with a version only.
    let stays = append.lease == Lease::Keep || prepared.new_version() == row.head.version;
    let dispatches = if stays { row.dispatches } else { 0 };
    head.version = prepared.new_version();
    head.hash = prepared.head_hash();
    head.status = append.status;
    head.usage = append.usage;
    head.updated_at = append.time;
    match &append.lease {
        Lease::Keep => {}
        Lease::Claim { owner, ttl } => {
            head.epoch += 1;
            head.lease_owner = Some(owner.clone());
            head.lease_until = Some(after(now, *ttl));
            head.due_at = head.lease_until;
        }
        Lease::Release { due_in } => {
            head.lease_owner = None;
            head.lease_until = None;
            head.due_at = due_in.map(|due_in| after(now, due_in));
        }
    }
    let held = row.held && append.lease == Lease::Keep;
    Row { head, dispatches, held }
}
