//! The store against a model of a few maps: random operations, sensible or not, given to both, and every answer and
//! every head compared. A sequence that fails is printed with its seed; its last line is where the two part.
//!
//! `STEADFAST_TEST_SEQUENCES=1000 cargo test -p steadfast-tests --test it modelled` looks longer, and
//! `STEADFAST_TEST_SEED` begins elsewhere.

mod model;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use steadfast::{
    run::{
        Event, RunId, SessionId, Status, TenantId, Usage,
        event::{CancelRequested, RunCompleted},
    },
    store::{Append, BLOB_BYTES_MIN, Demand, Idempotency, Lease, Outcome, Position, Session, Store, StoredAnswer},
};
use steadfast_tests::system::Chance;
use uuid::Uuid;

use self::model::{Model, Row};
use crate::bed::*;

const SEQUENCES: u64 = 12;
const OPERATIONS: u64 = 80;
/// SQLite's times are kept to the millisecond: what two operations make due in the same one is of the same age.
const TICK: Duration = Duration::from_millis(2);
const FAR_AWAY: Duration = Duration::from_secs(3600);
const TENANTS: [&str; 2] = ["a", "b"];
const OWNERS: [&str; 3] = ["one", "two", "three"];
/// Few, so that they are used again.
const KEYS: u64 = 12;

pub async fn random_operations_are_answered_as_by_a_model_of_maps(bed: &Bed) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let first = number("STEADFAST_TEST_SEED").unwrap_or(0);
    let mut case = Case {
        store: &bed.store,
        chance: Chance::new(first),
        model: Model::default(),
        story: Vec::new(),
        seed: first,
    };
    for seed in first..first + number("STEADFAST_TEST_SEQUENCES").unwrap_or(SEQUENCES) {
        (case.chance, case.seed) = (Chance::new(seed), seed);
        case.story.clear();
        for _ in 0..OPERATIONS {
            case.model.begin_operation();
            case.operation().await;
            tokio::time::sleep(TICK).await;
        }
        case.everything().await;
        case.let_go_of_all().await;
    }
}

struct Case<'a> {
    store: &'a Store,
    chance: Chance,
    model: Model,
    story: Vec<String>,
    seed: u64,
}

impl Case<'_> {
    async fn operation(&mut self) {
        match self.chance.below(20) {
            0..4 => self.accept().await,
            4..11 => self.advance().await,
            11 => self.renew().await,
            12..14 => self.take_due().await,
            14 => self.make_due().await,
            15 => self.hold().await,
            16 => self.take_held().await,
            17 => self.create_session().await,
            _ => self.look().await,
        }
    }

    fn tell(&mut self, what: impl fmt::Debug) {
        self.story.push(format!("{what:?}"));
    }

    fn same<T: PartialEq + fmt::Debug>(&self, what: &str, found: T, expected: T) {
        if found != expected {
            self.fail(&format!(
                "{what}: the store says\n{found:?}\nand the model\n{expected:?}"
            ));
        }
    }

    fn fail(&self, what: &str) -> ! {
        panic!("seed {}:\n{}\n{what}", self.seed, self.story.join("\n"));
    }

    fn chance(&mut self, one_in: u64) -> bool {
        self.chance.below(one_in) == 0
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> Option<T> {
        let at = self.chance.below(all.len() as u64);
        all.get(at as usize).copied()
    }

    fn tenant(&mut self) -> TenantId {
        tenant(self.one_of(&TENANTS).unwrap_or_default())
    }

    fn owner(&mut self) -> String {
        self.one_of(&OWNERS).unwrap_or_default().into()
    }

    fn pause(&mut self) -> Duration {
        if self.chance(3) { Duration::ZERO } else { FAR_AWAY }
    }

    fn id(&mut self) -> Uuid {
        let half = |case: &mut Self| u128::from(case.chance.below(u64::MAX));
        Uuid::from_u128(half(self) << 64 | half(self))
    }

    /// One that has not ended, or none.
    fn run(&mut self) -> Option<RunId> {
        let open = |(run_id, row): (&RunId, &Row)| (!row.status.is_terminal()).then_some(*run_id);
        let open: Vec<RunId> = self.model.runs.iter().filter_map(open).collect();
        self.one_of(&open)
    }

    fn runs(&mut self) -> Vec<RunId> {
        let runs: BTreeSet<RunId> = (0..self.chance.below(6)).filter_map(|_| self.run()).collect();
        runs.into_iter().collect()
    }

    fn key(&mut self) -> Option<Idempotency> {
        let number = self.chance.below(KEYS);
        self.chance(3).then(|| Idempotency {
            key: format!("key {number}"),
            fingerprint: [number as u8; 32],
            answer: StoredAnswer {
                status: 202,
                body: format!("{{\"by\":{}}}", self.chance.below(1000)),
            },
        })
    }

    fn session(&mut self) -> Option<SessionId> {
        let known: Vec<SessionId> = self.model.sessions.keys().copied().collect();
        self.one_of(&known)
    }

    async fn accept(&mut self) {
        let tenant = self.tenant();
        let session = if self.chance(2) { self.session() } else { None };
        // Now and then to a session nobody knows.
        let new_session = session.is_none() && !self.chance(8);
        let session = session.unwrap_or(SessionId(self.id()));
        let mut order = accept_in(&tenant, session, new_session, "modelled");
        order.run_id = RunId(self.id());
        order.idempotency = self.key();
        let (claim_within, held) = (self.pause(), self.chance(4));
        if let Some(accept) = &mut order.accept {
            (accept.claim_within, accept.held) = (claim_within, held);
        }
        self.append(order).await;
    }

    async fn advance(&mut self) {
        let Some(run_id) = self.run() else { return };
        let (version, epoch, prev_hash) = self.model.head(run_id);
        let ends = self.chance(6);
        let mut events: Vec<Event> = (0..self.chance.below(3)).map(|_| self.fact()).collect();
        let open = [Status::Queued, Status::Running, Status::Waiting];
        let mut status = self.one_of(&open).unwrap_or(Status::Running);
        if ends {
            status = Status::Completed;
            let output = "done".into();
            events.push(RunCompleted { output }.into());
        }
        let lease = match self.chance.below(4) {
            _ if ends => Lease::Release { due_in: None },
            0 => Lease::Keep,
            1 => Lease::Release {
                due_in: if self.chance(3) { None } else { Some(self.pause()) },
            },
            _ => Lease::Claim {
                owner: self.owner(),
                ttl: self.pause(),
            },
        };
        let stale = self.chance.below(12);
        let order = Append {
            run_id,
            tenant: self.model.runs[&run_id].tenant.clone(),
            expected_version: match stale {
                0 => version - 1,
                1 => version + 1,
                _ => version,
            },
            expected_epoch: match stale {
                2 => epoch.saturating_sub(1),
                3 => epoch + 1,
                _ => epoch,
            },
            prev_hash,
            time: now(),
            events,
            status,
            usage: Usage {
                input_tokens: self.chance.below(100),
                output_tokens: self.chance.below(100),
                cost_microusd: self.chance.below(100),
            },
            lease,
            accept: None,
            idempotency: self.key(),
            patience: PATIENCE,
        };
        self.append(order).await;
    }

    /// The store does not ask whether a fact makes sense: that is the run's affair.
    fn fact(&mut self) -> Event {
        let long = if self.chance(20) { BLOB_BYTES_MIN } else { 0 };
        let reason = Some(format!("{} {}", self.chance.below(1000), "ö".repeat(long)));
        CancelRequested { reason }.into()
    }

    async fn append(&mut self, order: Append) {
        let facts: Vec<&str> = order.events.iter().map(Event::name).collect();
        self.story.push(format!(
            "append {} at {}, {} for {}: {facts:?} {:?} {:?} {:?} {:?}",
            order.run_id,
            order.expected_version,
            order.expected_epoch,
            order.tenant,
            order.status,
            order.lease,
            order.accept,
            order.idempotency.as_ref().map(|key| &key.key)
        ));
        let run_id = order.run_id;
        let expected = self.model.append(&order);
        let found = try_append(self.store, order).await;
        self.same("the outcome", found, expected);
        self.head(run_id).await;
    }

    async fn renew(&mut self) {
        let (owner, ttl) = (self.owner(), self.pause());
        let mut runs = Vec::new();
        for run_id in self.runs() {
            let (_, epoch, _) = self.model.head(run_id);
            runs.push((run_id, epoch - u64::from(epoch > 0 && self.chance(5))));
        }
        self.tell(("renew", &owner, &runs, ttl));
        let expected = self.model.renew(&owner, &runs, ttl);
        let found = self.store.reader.renew(&owner, &runs, ttl).await.expect("answered");
        self.same("renewed", found.iter().copied().collect(), expected);
        self.same("renewed once each", found.len(), BTreeSet::from_iter(&found).len());
    }

    async fn take_due(&mut self) {
        let limit = 1 + self.chance.below(5) as u32;
        self.tell(("take due", limit));
        let taken = self.store.reader.take_due(limit, FAR_AWAY).await.expect("answered");
        if let Err(reason) = self.model.take_due(&taken, limit as usize) {
            self.fail(&reason);
        }
    }

    async fn make_due(&mut self) {
        let dead = if self.chance(2) { Some(self.owner()) } else { None };
        self.tell(("make due", &dead));
        let expected = self.model.make_due(dead.as_deref());
        let found = self.store.reader.make_due(dead.as_deref()).await.expect("answered");
        self.same("made due", found, expected);
    }

    async fn hold(&mut self) {
        let runs = self.runs();
        self.tell(("hold", &runs));
        let expected = self.model.hold(&runs);
        let found = self.store.reader.hold(&runs).await.expect("answered");
        self.same("held", found, expected);
    }

    async fn take_held(&mut self) {
        let (tenant, limit, within) = (self.tenant(), 1 + self.chance.below(3) as u32, self.pause());
        self.tell(("take held", &tenant, limit, within));
        let taken = self.store.reader.take_held(&tenant, limit, within).await;
        let taken = taken.expect("answered");
        if let Err(reason) = self.model.take_held(&taken, &tenant, limit as usize, within) {
            self.fail(&reason);
        }
    }

    async fn create_session(&mut self) {
        let session = Session {
            session_id: SessionId(self.id()),
            tenant: self.tenant(),
            runs: 0,
            metadata: "{\"of\":\"a model\"}".into(),
            created_at: now(),
        };
        let key = self.key();
        self.tell((
            "create session",
            session.session_id,
            &session.tenant,
            key.as_ref().map(|key| &key.key),
        ));
        let used = key.as_ref().and_then(|key| self.model.key(&session.tenant, key));
        let found = self.store.reader.create_session(&session, key.as_ref()).await;
        match (found.expect("answered"), used) {
            (Outcome::Appended(_), None) => {
                let tenant = session.tenant.clone();
                self.model.sessions.insert(session.session_id, (tenant, 0));
            }
            (found, used) => self.same("the session", Some(found), used),
        }
    }

    /// What only reads.
    async fn look(&mut self) {
        let reader = &self.store.reader;
        if let Some(session) = self.session() {
            let (tenant, runs) = self.model.sessions[&session].clone();
            let shown = reader.session(&tenant, session).await.expect("reads");
            self.same("runs of the session", shown.map(|session| session.runs), Some(runs));
            let (before, limit) = (self.chance.below(runs + 2), 1 + self.chance.below(4));
            self.tell(("look", session, before, limit));
            let turns = reader.turns(session, before, limit as u32).await.expect("reads");
            let expected = self.model.turns(session, before, limit as usize);
            self.same("turns", &turns, &expected);
            let open = reader.open_before(session, before).await.expect("reads");
            self.same("an open one before", open, self.model.open_before(session, before));
            let exchanges = reader.exchanges(&turns).await.expect("reads");
            let mut asked = BTreeMap::new();
            for event in &exchanges {
                *asked.entry(event.run_id).or_insert(0) += 1;
            }
            let both = turns.iter().map(|run_id| (*run_id, 2)).collect();
            self.same("questions and answers", asked, both);
        }
        if let Some(run_id) = self.run() {
            let (after, limit) = (self.chance.below(4), 1 + self.chance.below(4) as u32);
            let events = reader.events(run_id, after, limit).await.expect("reads");
            let mine = self.model.runs[&run_id].events.iter();
            let expected = mine.skip(after as usize).take(limit as usize).cloned().collect();
            self.same("events", events, expected);
        }
        let after = if self.chance(2) { Some(self.tenant()) } else { None };
        let tenants = reader.held_tenants(after.as_ref(), 1).await.expect("reads");
        self.same("lines", tenants, self.model.held_tenants(after.as_ref(), 1));
        let than = self.run().unwrap_or_default();
        let demand = reader.demand(than).await.expect("reads").into_iter();
        let unwaited = demand.map(|demand| Demand {
            waited: Duration::ZERO,
            oldest: Duration::ZERO,
            ..demand
        });
        self.same("demand", unwaited.collect(), self.model.demand(than));
    }

    async fn head(&self, run_id: RunId) {
        let head = self.store.reader.head(run_id).await.expect("reads");
        let difference = match (&head, self.model.runs.get(&run_id)) {
            (None, None) => None,
            (Some(head), Some(row)) => row.differs(head, now()),
            (head, row) => Some(format!("the head is {head:?}\nand should be {row:?}")),
        };
        if let Some(difference) = difference {
            self.fail(&difference);
        }
    }

    /// All heads, all events, all keys, and the whole log in its order.
    async fn everything(&self) {
        for (run_id, row) in &self.model.runs {
            self.head(*run_id).await;
            let events = self.store.reader.events(*run_id, 0, 1000).await.expect("reads");
            self.same("all events", &events, &row.events);
        }
        for ((tenant, key), used) in &self.model.keys {
            let stored = self.store.reader.idempotency(tenant, key).await.expect("reads");
            self.same("the key", stored.as_ref(), Some(used));
        }
        let log = async {
            let (mut log, mut after) = (Vec::new(), Position::default());
            // Transactions of other tests on the same server may hide the end of it for a moment.
            while log.len() < self.model.log.len() {
                let page = self.store.reader.log(after, 50).await.expect("reads");
                log.extend(page.iter().map(|entry| (entry.event.run_id, entry.event.version)));
                after = page.last().map_or(after, |entry| entry.position);
            }
            log
        };
        let log = tokio::time::timeout(PATIENCE, log).await.expect("all of it is seen");
        self.same("the log", &log, &self.model.log);
    }

    /// What is due or held in one sequence would be in the way of the next.
    async fn let_go_of_all(&mut self) {
        while let Some(run_id) = self.run() {
            let (version, epoch, prev_hash) = self.model.head(run_id);
            let tenant = self.model.runs[&run_id].tenant.clone();
            let mut end = accept_in(&tenant, SessionId(run_id.0), true, "");
            (end.run_id, end.accept, end.prev_hash) = (run_id, None, prev_hash);
            (end.expected_version, end.expected_epoch) = (version, epoch);
            (end.status, end.lease) = (Status::Completed, Lease::Release { due_in: None });
            let output = "let go".into();
            end.events = vec![RunCompleted { output }.into()];
            self.append(end).await;
        }
    }
}
