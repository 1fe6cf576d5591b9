//! The store as a few maps. Its time knows only what is over and what is far away, so that it needs no clock.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use steadfast::{
    run::{RunId, SessionId, Status, TenantId, Time, Usage},
    store::{
        Accept, Append, Appended, Demand, Due, GENESIS, Hash, Head, Idempotency, Lease, Outcome, Prepared, StoredEvent,
    },
};

/// When something must happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum When {
    /// Since so many operations.
    Over(u64),
    FarAway,
    Never,
}

#[derive(Debug, Clone)]
pub struct Row {
    pub tenant: TenantId,
    pub session: SessionId,
    pub seq: u64,
    pub status: Status,
    pub version: u64,
    pub epoch: u64,
    pub hash: Hash,
    pub owner: Option<String>,
    pub lease: When,
    pub due: When,
    pub held: bool,
    pub dispatches: u64,
    pub usage: Usage,
    pub updated_at: Time,
    pub events: Vec<StoredEvent>,
}

#[derive(Default)]
pub struct Model {
    pub runs: BTreeMap<RunId, Row>,
    /// Whose each is, and how many runs it has had.
    pub sessions: BTreeMap<SessionId, (TenantId, u64)>,
    pub keys: BTreeMap<(TenantId, String), Idempotency>,
    /// Every event, in the order of the commits.
    pub log: Vec<(RunId, u64)>,
    operations: u64,
}

impl Row {
    fn is_free(&self) -> bool {
        self.lease != When::FarAway
    }

    /// What differs between this row and the head the store shows, if anything does.
    pub fn differs(&self, head: &Head, now: Time) -> Option<String> {
        let soon = now + chrono::TimeDelta::seconds(60);
        let fits = |when: When, time: Option<Time>| match when {
            When::Never => time.is_none(),
            When::Over(_) => time.is_some_and(|time| time <= soon),
            When::FarAway => time.is_some_and(|time| time > soon),
        };
        let mine = (
            &self.tenant,
            self.session,
            self.seq,
            self.status,
            self.version,
            self.epoch,
        );
        let shown = (
            &head.tenant,
            head.session_id,
            head.session_seq,
            head.status,
            head.version,
            head.epoch,
        );
        let rest = (self.hash, &self.owner, self.usage, self.updated_at)
            == (head.hash, &head.lease_owner, head.usage, head.updated_at);
        let same = mine == shown && rest && fits(self.lease, head.lease_until) && fits(self.due, head.due_at);
        (!same).then(|| format!("the head is {head:?}\nand should be {self:?}"))
    }
}

impl Model {
    fn when(&self, pause: Duration) -> When {
        if pause.is_zero() {
            When::Over(self.operations)
        } else {
            When::FarAway
        }
    }

    pub fn begin_operation(&mut self) {
        self.operations += 1;
    }

    /// What the store must answer.
    pub fn append(&mut self, order: &Append) -> Outcome {
        let key = order.idempotency.as_ref();
        let key = key.map(|key| ((order.tenant.clone(), key.key.clone()), key.clone()));
        if let Some(used) = key.as_ref().and_then(|(name, _)| self.keys.get(name)) {
            return key_used(used);
        }
        let placed = match &order.accept {
            Some(accept) => self.accept(order, accept),
            None => self.advance(order),
        };
        let appended = match placed {
            Ok(appended) => appended,
            Err(refused) => return refused,
        };
        self.keys.extend(key);
        let row = self.runs.entry(order.run_id);
        row.and_modify(|row| row.events.extend(appended.events.iter().cloned()));
        self.log
            .extend(appended.events.iter().map(|event| (order.run_id, event.version)));
        Outcome::Appended(appended)
    }

    fn accept(&mut self, order: &Append, accept: &Accept) -> Result<Appended, Outcome> {
        let runs = match (accept.new_session, self.sessions.get(&accept.session_id)) {
            (true, None) => 1,
            (true, Some(_)) => return Err(Outcome::Conflict),
            (false, Some((tenant, runs))) if *tenant == order.tenant => runs + 1,
            (false, _) => return Err(Outcome::NoSuchSession),
        };
        self.sessions.insert(accept.session_id, (order.tenant.clone(), runs));
        let prepared = Prepared::new(order.clone());
        let row = Row {
            tenant: order.tenant.clone(),
            session: accept.session_id,
            seq: runs,
            status: Status::Queued,
            version: prepared.new_version(),
            epoch: 0,
            hash: prepared.head_hash(),
            owner: None,
            lease: When::Never,
            due: self.when(accept.claim_within),
            held: accept.held,
            dispatches: 0,
            usage: Usage::default(),
            updated_at: order.time,
            events: Vec::new(),
        };
        self.runs.insert(order.run_id, row);
        Ok(Appended {
            epoch: 0,
            events: prepared.events,
            next_in_session: None,
        })
    }

    fn advance(&mut self, order: &Append) -> Result<Appended, Outcome> {
        let row = self.runs.get(&order.run_id).ok_or(Outcome::Conflict)?;
        let in_place = (row.version, row.epoch) == (order.expected_version, order.expected_epoch);
        let claims = matches!(order.lease, Lease::Claim { .. });
        if !in_place || claims && (!row.is_free() || self.open_before(row.session, row.seq)) {
            return Err(Outcome::Conflict);
        }
        let prepared = Prepared::new(order.clone());
        let mut row = row.clone();
        let grown = prepared.new_version() != row.version;
        row.version = prepared.new_version();
        row.hash = prepared.head_hash();
        (row.status, row.usage, row.updated_at) = (order.status, order.usage, order.time);
        match &order.lease {
            Lease::Keep => {}
            Lease::Claim { owner, ttl } => {
                row.epoch += 1;
                row.owner = Some(owner.clone());
                row.lease = self.when(*ttl);
                row.due = row.lease;
            }
            Lease::Release { due_in } => {
                (row.owner, row.lease) = (None, When::Never);
                row.due = due_in.map_or(When::Never, |pause| self.when(pause));
            }
        }
        if order.lease != Lease::Keep {
            row.held = false;
            row.dispatches *= u64::from(!grown);
        }
        let next = (self.runs.iter())
            .filter(|(_, other)| other.session == row.session && other.seq > row.seq && other.status == Status::Queued)
            .min_by_key(|(_, other)| other.seq)
            .map(|(run_id, _)| *run_id);
        let appended = Appended {
            epoch: row.epoch,
            events: prepared.events,
            next_in_session: next.filter(|_| order.status.is_terminal()),
        };
        self.runs.insert(order.run_id, row);
        Ok(appended)
    }

    pub fn open_before(&self, session: SessionId, seq: u64) -> bool {
        self.runs
            .values()
            .any(|row| row.session == session && row.seq < seq && !row.status.is_terminal())
    }

    pub fn turns(&self, session: SessionId, before: u64, limit: usize) -> Vec<RunId> {
        let of_session = self.runs.iter().filter(|(_, row)| row.session == session);
        let mut turns: Vec<(u64, RunId)> = of_session
            .filter(|(_, row)| row.seq < before && row.status == Status::Completed)
            .map(|(run_id, row)| (row.seq, *run_id))
            .collect();
        turns.sort_unstable_by_key(|(seq, _)| std::cmp::Reverse(*seq));
        turns.into_iter().take(limit).map(|(_, run_id)| run_id).collect()
    }

    pub fn renew(&mut self, owner: &str, runs: &[(RunId, u64)], ttl: Duration) -> BTreeSet<RunId> {
        let until = self.when(ttl);
        let mut renewed = BTreeSet::new();
        for (run_id, epoch) in runs {
            let Some(row) = self.runs.get_mut(run_id) else { continue };
            if row.owner.as_deref() == Some(owner) && row.epoch == *epoch {
                (row.lease, row.due) = (until, until);
                renewed.insert(*run_id);
            }
        }
        renewed
    }

    /// Whether the store may take these: the oldest of those that are due, no more than asked, under their next number.
    pub fn take_due(&mut self, taken: &[Due], limit: usize) -> Result<(), String> {
        let due: BTreeMap<RunId, When> = (self.runs.iter())
            .filter(|(_, row)| matches!(row.due, When::Over(_)) && !row.held && !self.open_before(row.session, row.seq))
            .map(|(run_id, row)| (*run_id, row.due))
            .collect();
        let ids: BTreeSet<RunId> = taken.iter().map(|due| due.run_id).collect();
        let left = due.iter().filter(|(run_id, _)| !ids.contains(run_id));
        let oldest_left = left.map(|(_, when)| *when).min();
        let newest_taken = ids.iter().filter_map(|run_id| due.get(run_id)).max();
        if ids.len() != taken.len() || ids.len() != due.len().min(limit) || !ids.iter().all(|id| due.contains_key(id)) {
            return Err(format!("{taken:?} of {due:?} were taken"));
        }
        if newest_taken.copied() > oldest_left && oldest_left.is_some() {
            return Err(format!("{taken:?} were taken, and of {due:?} others are older"));
        }
        for due in taken {
            if let Some(row) = self.runs.get_mut(&due.run_id) {
                (row.due, row.dispatches) = (When::FarAway, row.dispatches + 1);
            }
            self.announced(due)?;
        }
        Ok(())
    }

    fn announced(&self, due: &Due) -> Result<(), String> {
        let row = &self.runs[&due.run_id];
        let expected = (&row.tenant, row.version, row.dispatches);
        if (&due.tenant, due.version, due.dispatch) == expected {
            Ok(())
        } else {
            Err(format!("{due:?} should be {expected:?}"))
        }
    }

    pub fn make_due(&mut self, dead: Option<&str>) -> u64 {
        let (now, mut made) = (When::Over(self.operations), 0);
        for row in self.runs.values_mut() {
            let in_vain = row.dispatches > 0 && row.is_free();
            if row.due == When::FarAway && !row.held && (row.status == Status::Queued || in_vain) {
                (row.due, row.dispatches) = (now, row.dispatches.max(1));
                made += 1;
            }
            if dead.is_some() && row.owner.as_deref() == dead && row.lease == When::FarAway {
                (row.lease, row.due) = (now, now);
                made += 1;
            }
        }
        made
    }

    pub fn hold(&mut self, runs: &[RunId]) -> u64 {
        let mut held = 0;
        for run_id in runs {
            let Some(row) = self.runs.get_mut(run_id) else { continue };
            if row.due != When::Never && row.is_free() && !row.held {
                row.held = true;
                held += 1;
            }
        }
        held
    }

    pub fn take_held(
        &mut self,
        taken: &[Due],
        tenant: &TenantId,
        limit: usize,
        within: Duration,
    ) -> Result<(), String> {
        let until = self.when(within);
        let line = self.runs.iter().filter(|(_, row)| row.held && row.tenant == *tenant);
        let first: BTreeSet<RunId> = line.map(|(run_id, _)| *run_id).take(limit).collect();
        if first != taken.iter().map(|due| due.run_id).collect() || first.len() != taken.len() {
            return Err(format!("{taken:?} were taken, and first are {first:?}"));
        }
        for due in taken {
            if let Some(row) = self.runs.get_mut(&due.run_id) {
                row.held = false;
                row.due = if row.due == When::FarAway { row.due } else { until };
            }
            self.announced(due)?;
        }
        Ok(())
    }

    pub fn held_tenants(&self, after: Option<&TenantId>, limit: usize) -> Vec<TenantId> {
        let held = self.runs.values().filter(|row| row.held).map(|row| &row.tenant);
        let tenants: BTreeSet<&TenantId> = held
            .filter(|tenant| after.is_none_or(|after| *tenant > after))
            .collect();
        tenants.into_iter().take(limit).cloned().collect()
    }

    /// How long somebody has waited is left out.
    pub fn demand(&self, than: RunId) -> Vec<Demand> {
        let mut all = BTreeMap::<TenantId, Demand>::new();
        for (run_id, row) in self.runs.iter().filter(|(_, row)| row.due != When::Never) {
            let tenant = row.tenant.clone();
            let demand = all.entry(tenant.clone()).or_insert(Demand {
                tenant,
                ..Demand::default()
            });
            let waits = row.status == Status::Queued && !self.open_before(row.session, row.seq);
            let runnable = row.owner.is_none() && waits;
            let count = match (row.held, row.is_free()) {
                (true, _) => &mut demand.held,
                (false, false) => &mut demand.running,
                (false, true) if runnable => &mut demand.runnable,
                // Left behind by a dead worker, or behind an earlier run of its session.
                (false, true) => continue,
            };
            *count += 1;
            demand.older += u64::from((row.held || row.is_free()) && *run_id < than);
        }
        all.into_values().collect()
    }

    pub fn key(&mut self, tenant: &TenantId, key: &Idempotency) -> Option<Outcome> {
        let name = (tenant.clone(), key.key.clone());
        if let Some(used) = self.keys.get(&name) {
            return Some(key_used(used));
        }
        self.keys.insert(name, key.clone());
        None
    }

    /// The run's head, for whoever wants to append: version, epoch, hash.
    pub fn head(&self, run_id: RunId) -> (u64, u64, Hash) {
        self.runs
            .get(&run_id)
            .map_or((0, 0, GENESIS), |row| (row.version, row.epoch, row.hash))
    }
}

fn key_used(used: &Idempotency) -> Outcome {
    Outcome::KeyUsed {
        fingerprint: used.fingerprint,
        answer: used.answer.clone(),
    }
}
