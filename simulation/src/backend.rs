//! The store's port as one process reaches it: over a cable that may be cut, with answers that may be lost.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use chrono::TimeDelta;
use steadfast::{
    run::{RunId, SessionId, Status, TenantId, Time},
    store::{
        ApiKey, Appended, Backend, Demand, Due, Error, Hash, Head, Idempotency, Lease, LogEntry, Outcome, Position,
        Prepared, Session, Snapshot, StoredEvent, held_pause,
    },
};
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::{
    database::{Database, away},
    guard::Guard,
    process::{Edge, Process},
    rows::Rows,
    world::Draws,
};

/// As many as on Postgres.
const LANES: usize = 2;
/// As on Postgres.
const REDRIVE_PAUSE_MAX: Duration = Duration::from_secs(300);

pub struct SimulatedBackend {
    database: Arc<Database>,
    process: Arc<Process>,
}

impl SimulatedBackend {
    pub fn new(database: Arc<Database>, process: Arc<Process>) -> Arc<Self> {
        Arc::new(Self { database, process })
    }

    /// One way: to the database, or back.
    async fn cross(&self) -> Result<(), Error> {
        let away_now = self.database.rows().away;
        let crossed = self.process.cross(Edge::Store, away_now).await;
        crossed.map_err(|_| away())
    }

    async fn answer<T>(&self, answer: T) -> Result<T, Error> {
        let world = &self.process.world;
        if world.chance(Draws::Network, world.noise().answer_lost_permille) {
            world.fault("store answer lost");
            world.trouble(Some(&self.process.name), Duration::ZERO);
            return Err(away());
        }
        self.cross().await?;
        Ok(answer)
    }

    async fn ask<T>(&self, statement: impl FnOnce(&mut Rows) -> T + Send) -> Result<T, Error> {
        self.cross().await?;
        let answer = {
            let mut rows = self.database.rows();
            if rows.away {
                return Err(away());
            }
            statement(&mut rows)
        };
        self.answer(answer).await
    }

    fn now(&self) -> Time {
        self.process.world.now()
    }
}

fn later(now: Time, pause: Duration) -> Time {
    now + TimeDelta::from_std(pause).unwrap_or(TimeDelta::MAX)
}

#[async_trait]
impl Backend for SimulatedBackend {
    fn lanes(&self) -> usize {
        LANES
    }

    fn blocks(&self) -> bool {
        false
    }

    async fn write(&self, batch: &[Arc<Prepared>]) -> Result<Vec<Outcome>, Error> {
        self.cross().await?;
        // What has reached the server happens there, whatever becomes of the one who asked.
        let (verdict, done) = oneshot::channel();
        let (database, batch) = (self.database.clone(), batch.to_vec());
        tokio::spawn(async move {
            let written = database.write(&batch).await;
            drop(verdict.send(written));
        });
        let verdicts = done.await.map_err(|_| away())??;
        self.answer(verdicts).await
    }

    async fn was_appended(&self, prepared: &Prepared) -> Result<Option<Outcome>, Error> {
        let Some(last) = prepared.events.last() else {
            return Ok(None);
        };
        let found = self
            .ask(|rows| {
                let stored = rows.events.get(&last.run_id)?.get(last.version as usize - 1)?;
                (stored.hash == last.hash).then_some(())
            })
            .await?;
        let claimed = matches!(prepared.append.lease, Lease::Claim { .. });
        Ok(found.map(|()| {
            Outcome::Appended(Appended {
                epoch: prepared.append.expected_epoch + u64::from(claimed),
                events: prepared.events.clone(),
                next_in_session: None,
            })
        }))
    }

    async fn head(&self, run_id: RunId) -> Result<Option<Head>, Error> {
        self.ask(|rows| rows.runs.get(&run_id).map(|row| row.head.clone()))
            .await
    }

    async fn head_and_events(&self, run_id: RunId, limit: u32) -> Result<Option<(Head, Vec<StoredEvent>)>, Error> {
        self.ask(|rows| {
            let head = rows.runs.get(&run_id)?.head.clone();
            let events = rows.events.get(&run_id)?;
            Some((head, events.iter().take(limit as usize).cloned().collect()))
        })
        .await
    }

    async fn events(&self, run_id: RunId, after: u64, limit: u32) -> Result<Vec<StoredEvent>, Error> {
        self.ask(|rows| {
            let events = rows.events.get(&run_id).map(Vec::as_slice).unwrap_or_default();
            let behind = events.iter().filter(|event| event.version > after);
            behind.take(limit as usize).cloned().collect()
        })
        .await
    }

    async fn log(&self, after: Position, limit: u32) -> Result<Vec<LogEntry>, Error> {
        let bare = self.process.world.is_broken(Guard::Position);
        self.ask(|rows| rows.log_after(after, limit as usize, bare)).await
    }

    async fn log_end(&self) -> Result<Position, Error> {
        self.ask(|rows| rows.log_end()).await
    }

    async fn turns(&self, session_id: SessionId, before: u64, limit: u32) -> Result<Vec<RunId>, Error> {
        self.ask(|rows| {
            let mut turns: Vec<(u64, RunId)> = (rows.of_session(session_id))
                .filter(|head| head.session_seq < before && head.status == Status::Completed)
                .map(|head| (head.session_seq, head.run_id))
                .collect();
            turns.sort_unstable_by(|a, b| b.cmp(a));
            turns
                .into_iter()
                .take(limit as usize)
                .map(|(_, run_id)| run_id)
                .collect()
        })
        .await
    }

    async fn open_before(&self, session_id: SessionId, before: u64) -> Result<bool, Error> {
        self.ask(|rows| rows.open_before(session_id, before)).await
    }

    async fn exchanges(&self, runs: &[RunId]) -> Result<Vec<StoredEvent>, Error> {
        let mut runs = runs.to_vec();
        runs.sort_unstable();
        self.ask(|rows| {
            let events = runs.iter().filter_map(|run_id| rows.events.get(run_id)).flatten();
            let wanted = events.filter(|event| matches!(event.name.as_str(), "run.requested" | "run.completed"));
            wanted.cloned().collect()
        })
        .await
    }

    async fn renew(&self, owner: &str, runs: &[(RunId, u64)], ttl: Duration) -> Result<Vec<RunId>, Error> {
        self.cross().await?;
        let mut runs = runs.to_vec();
        runs.sort_unstable();
        let ids: Vec<RunId> = runs.iter().map(|(run_id, _)| *run_id).collect();
        self.database.when_free(&ids).await;
        let until = later(self.now(), ttl);
        let mut renewed = Vec::new();
        {
            let mut rows = self.database.rows();
            if rows.away {
                return Err(away());
            }
            for (run_id, epoch) in runs {
                let row = rows.runs.get_mut(&run_id);
                let held = |head: &Head| head.epoch == epoch && head.lease_owner.as_deref() == Some(owner);
                if let Some(row) = row.filter(|row| held(&row.head)) {
                    row.head.lease_until = Some(until);
                    row.head.due_at = Some(until);
                    renewed.push(run_id);
                }
            }
        }
        self.answer(renewed).await
    }

    async fn take_due(&self, limit: u32, first_pause: Duration) -> Result<Vec<Due>, Error> {
        if self.process.world.is_broken(Guard::Redriver) {
            return Ok(Vec::new());
        }
        let now = self.now();
        self.ask(|rows| {
            let overdue = |head: &Head| head.due_at.is_some_and(|due| due <= now);
            let mut due: Vec<(Option<Time>, RunId)> = (rows.runs.values().map(|row| &row.head))
                .filter(|head| overdue(head) && !rows.is_locked(head.run_id) && !rows.is_held(head.run_id))
                .filter(|head| !rows.open_before(head.session_id, head.session_seq))
                .map(|head| (head.due_at, head.run_id))
                .collect();
            due.sort_unstable();
            let mut taken = Vec::new();
            for (_, run_id) in due.into_iter().take(limit as usize) {
                let Some(row) = rows.runs.get_mut(&run_id) else {
                    continue;
                };
                let held = row.head.lease_owner.is_some();
                let first_pause = if held { held_pause(first_pause) } else { first_pause };
                let pause = first_pause
                    .saturating_mul(1 << row.dispatches.min(12))
                    .min(REDRIVE_PAUSE_MAX);
                row.head.due_at = Some(later(now, pause));
                row.dispatches += 1;
                taken.push(Due {
                    run_id,
                    tenant: row.head.tenant.clone(),
                    version: row.head.version,
                    dispatch: row.dispatches.into(),
                });
            }
            taken
        })
        .await
    }

    async fn make_due(&self, dead_owner: Option<&str>) -> Result<u64, Error> {
        self.database.when_all_free().await;
        let now = self.now();
        self.ask(|rows| {
            let mut made = 0;
            for row in rows.runs.values_mut() {
                let later = row.head.due_at.is_some_and(|due| due > now);
                let unheld = row.head.lease_until.is_none_or(|until| until <= now);
                if later && !row.held && (row.head.status == Status::Queued || (row.dispatches > 0 && unheld)) {
                    row.head.due_at = Some(now);
                    row.dispatches = row.dispatches.max(1);
                    made += 1;
                }
                let dead = dead_owner.is_some() && row.head.lease_owner.as_deref() == dead_owner;
                if dead && row.head.lease_until.is_some_and(|until| until > now) {
                    row.head.lease_until = Some(now);
                    row.head.due_at = Some(now);
                    made += 1;
                }
            }
            made
        })
        .await
    }

    async fn hold(&self, runs: &[RunId]) -> Result<u64, Error> {
        self.cross().await?;
        self.database.when_free(runs).await;
        let now = self.now();
        let mut held = 0;
        {
            let mut rows = self.database.rows();
            if rows.away {
                return Err(away());
            }
            for run_id in runs {
                let Some(row) = rows.runs.get_mut(run_id) else { continue };
                let unheld = row.head.lease_until.is_none_or(|until| until <= now);
                if unheld && row.head.due_at.is_some() && !row.held {
                    row.held = true;
                    held += 1;
                }
            }
        }
        self.answer(held).await
    }

    async fn take_held(&self, tenant: &TenantId, limit: u32, claim_within: Duration) -> Result<Vec<Due>, Error> {
        let now = self.now();
        self.ask(|rows| {
            let first: Vec<RunId> = (rows.runs.values())
                .filter(|row| row.held && row.head.tenant == *tenant && !rows.is_locked(row.head.run_id))
                .map(|row| row.head.run_id)
                .take(limit as usize)
                .collect();
            let mut taken = Vec::new();
            for run_id in first {
                let Some(row) = rows.runs.get_mut(&run_id) else {
                    continue;
                };
                row.held = false;
                if row.head.due_at.is_none_or(|due| due <= now) {
                    row.head.due_at = Some(later(now, claim_within));
                }
                taken.push(Due {
                    run_id,
                    tenant: tenant.clone(),
                    version: row.head.version,
                    dispatch: row.dispatches.into(),
                });
            }
            taken
        })
        .await
    }

    async fn held_tenants(&self, after: Option<&TenantId>, limit: u32) -> Result<Vec<TenantId>, Error> {
        if self.process.world.is_broken(Guard::Lines) {
            return Ok(Vec::new());
        }
        self.ask(|rows| {
            let held = rows.runs.values().filter(|row| row.held).map(|row| &row.head.tenant);
            let behind: BTreeSet<&TenantId> = held
                .filter(|tenant| after.is_none_or(|after| *tenant > after))
                .collect();
            behind.into_iter().take(limit as usize).cloned().collect()
        })
        .await
    }

    async fn demand(&self, than: RunId) -> Result<Vec<Demand>, Error> {
        let now = self.now();
        self.ask(|rows| {
            let mut demand = BTreeMap::<&TenantId, Demand>::new();
            for row in rows.runs.values().filter(|row| row.head.due_at.is_some()) {
                let head = &row.head;
                let tenant = demand.entry(&head.tenant).or_insert_with(|| Demand {
                    tenant: head.tenant.clone(),
                    ..Demand::default()
                });
                let waits = head.status == Status::Queued && !rows.open_before(head.session_id, head.session_seq);
                match (row.held, &head.lease_owner) {
                    (true, _) => tenant.held += 1,
                    (false, Some(_)) => {
                        let until = head.lease_until.unwrap_or(now);
                        tenant.running += u64::from(until > now);
                        tenant.oldest = tenant.oldest.max((now - until).to_std().unwrap_or_default());
                    }
                    (false, None) if waits => tenant.runnable += 1,
                    (false, None) => continue,
                }
                if row.held || head.lease_owner.is_none() {
                    tenant.older += u64::from(head.run_id < than);
                    // Others are in the line because they are overdue; it is no place that they wait for.
                    if head.status == Status::Queued {
                        tenant.waited = tenant.waited.max((now - head.updated_at).to_std().unwrap_or_default());
                    }
                    if !row.held {
                        tenant.oldest = tenant.oldest.max((now - head.updated_at).to_std().unwrap_or_default());
                    }
                }
            }
            demand.into_values().collect()
        })
        .await
    }

    async fn put_snapshot(&self, run_id: RunId, snapshot: &Snapshot, state_version: u32) -> Result<(), Error> {
        let snapshot = snapshot.clone();
        self.ask(|rows| {
            let known = rows
                .snapshots
                .get(&run_id)
                .map(|(state, known)| (*state, known.version));
            if known.is_none_or(|known| known < (state_version, snapshot.version)) {
                rows.snapshots.insert(run_id, (state_version, snapshot));
            }
        })
        .await
    }

    async fn snapshot(&self, run_id: RunId, state_version: u32) -> Result<Option<Snapshot>, Error> {
        self.ask(|rows| {
            let (state, snapshot) = rows.snapshots.get(&run_id)?;
            (*state == state_version).then(|| snapshot.clone())
        })
        .await
    }

    async fn put_blob(&self, sha256: &Hash, bytes: &[u8]) -> Result<(), Error> {
        self.ask(|rows| {
            rows.blobs.entry(*sha256).or_insert_with(|| bytes.to_vec());
        })
        .await
    }

    async fn blob(&self, sha256: &Hash) -> Result<Option<Vec<u8>>, Error> {
        self.ask(|rows| rows.blobs.get(sha256).cloned()).await
    }

    async fn create_session(&self, session: &Session, key: Option<&Idempotency>) -> Result<Outcome, Error> {
        let broken = self.process.world.is_broken(Guard::IdempotencyKey);
        self.ask(|rows| {
            if let Some(key) = key.filter(|_| !broken) {
                let name = (session.tenant.clone(), key.key.clone());
                if let Some(used) = rows.keys.get(&name) {
                    return Outcome::KeyUsed {
                        fingerprint: used.fingerprint,
                        answer: used.answer.clone(),
                    };
                }
                rows.keys.insert(name, key.clone());
            }
            rows.sessions.insert(session.session_id, session.clone());
            Outcome::Appended(Appended {
                epoch: 0,
                events: Vec::new(),
                next_in_session: None,
            })
        })
        .await
    }

    async fn session(&self, tenant: &TenantId, id: SessionId) -> Result<Option<Session>, Error> {
        self.ask(|rows| rows.session(tenant, id).cloned()).await
    }

    async fn idempotency(&self, tenant: &TenantId, key: &str) -> Result<Option<Idempotency>, Error> {
        self.ask(|rows| rows.keys.get(&(tenant.clone(), key.to_owned())).cloned())
            .await
    }

    async fn put_api_key(&self, key: &ApiKey, hash: &Hash) -> Result<(), Error> {
        let known = self
            .ask(|rows| match rows.api_keys.contains_key(hash) {
                true => true,
                false => rows.api_keys.insert(*hash, key.clone()).is_some(),
            })
            .await?;
        match known {
            true => Err(Error::Refused("simulated: the hash belongs to another key".into())),
            false => Ok(()),
        }
    }

    async fn api_key(&self, hash: &Hash) -> Result<Option<ApiKey>, Error> {
        self.ask(|rows| rows.api_keys.get(hash).cloned()).await
    }

    async fn api_keys(&self) -> Result<Vec<ApiKey>, Error> {
        self.ask(|rows| {
            let mut keys: Vec<ApiKey> = rows.api_keys.values().cloned().collect();
            keys.sort_unstable_by_key(|key| (key.created_at, key.id));
            keys
        })
        .await
    }

    async fn revoke_api_key(&self, id: Uuid, now: Time) -> Result<bool, Error> {
        self.ask(|rows| {
            let key = rows
                .api_keys
                .values_mut()
                .find(|key| key.id == id && key.revoked_at.is_none());
            key.map(|key| key.revoked_at = Some(now)).is_some()
        })
        .await
    }
}
