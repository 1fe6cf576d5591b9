//! The store: one head for each run, and the statement that moves it. Stands for `src/store/{postgres,sqlite}.rs`
//! (the append), `src/store/appender.rs` (what an unknown answer means) and `src/store/adapter.rs` (`renew`,
//! `take_due`, `was_appended`).

use super::{
    Mutant,
    decide::{Fact, View},
};

/// Time is the database's: a lease runs until a step says that it does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Lease {
    #[default]
    Free,
    Held {
        worker: u8,
        running: bool,
    },
}

impl Lease {
    pub fn is_running(self) -> bool {
        matches!(self, Self::Held { running: true, .. })
    }

    pub fn is_of(self, worker: u8) -> bool {
        matches!(self, Self::Held { worker: owner, .. } if owner == worker)
    }
}

/// What an append makes of the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Change {
    Keep,
    Claim,
    /// `due`: the redriver will look at the run again.
    Release {
        due: bool,
    },
}

/// An append as it is sent.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Statement {
    pub run: u8,
    /// `None`: a gateway's.
    pub worker: Option<u8>,
    pub version: u8,
    pub epoch: u8,
    pub facts: Vec<Fact>,
    pub lease: Change,
    /// Tells a claim from an earlier try of the same worker that may still be on its way.
    pub again: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Run {
    /// Versions and facts. The version is stored, so that a store that checks nothing can get it wrong.
    pub log: Vec<(u8, Fact)>,
    pub version: u8,
    pub epoch: u8,
    pub lease: Lease,
    /// `due_at` is set: the redriver will look at the run once nobody holds it.
    pub due: bool,
    /// Commands on the queue that name this run.
    pub hints: u8,
    /// The client was told 202.
    pub told: bool,
    /// Model calls that have left a worker, by attempt.
    pub calls: Vec<u8>,
    /// Leases that ended by the database's clock, or were handed back, with a call in flight or not.
    pub lapses: u8,
    /// A worker's append came through that its claim no longer covered.
    pub late_write: bool,
}

impl Run {
    pub fn facts(&self) -> impl Iterator<Item = Fact> {
        self.log.iter().map(|(_, fact)| *fact)
    }

    /// The run as somebody saw it who read it at this version.
    pub fn view_at(&self, version: u8) -> View {
        View::fold(self.facts().take(version.into()))
    }

    pub fn view(&self) -> View {
        View::fold(self.facts())
    }

    pub fn ended(&self) -> bool {
        self.view().ended
    }

    /// The append. False: a conflict, nothing happened.
    pub fn execute(&mut self, statement: &Statement, mutants: &[Mutant]) -> bool {
        let lacks = |guard| mutants.contains(&guard);
        let claim = statement.lease == Change::Claim;
        let free = !self.lease.is_running() || lacks(Mutant::LeaseByTheWorkersClock);
        let version = self.version == statement.version || lacks(Mutant::NoVersionCheck);
        let epoch = self.epoch == statement.epoch || lacks(Mutant::NoEpochCheck);
        if !version || !epoch || claim && !free {
            return false;
        }
        if let (Some(worker), false) = (statement.worker, statement.facts.is_empty() || claim) {
            self.late_write |= self.epoch != statement.epoch || !self.lease.is_of(worker);
        }
        let versions = statement.version + 1..;
        self.log.extend(versions.zip(statement.facts.iter().copied()));
        self.version = statement.version + statement.facts.len() as u8;
        match (statement.lease, statement.worker) {
            (Change::Claim, Some(worker)) => {
                self.epoch += u8::from(!lacks(Mutant::EpochNotRaised));
                self.lease = Lease::Held { worker, running: true };
                self.due = true;
            }
            (Change::Release { due }, _) => {
                self.lapses += u8::from(statement.facts.is_empty() && self.lease != Lease::Free);
                self.lease = Lease::Free;
                self.due = due && !lacks(Mutant::NothingDueAfterRelease);
            }
            _ => {}
        }
        true
    }

    /// Asked when the answer to an append was lost. An append without facts leaves nothing to be found.
    pub fn was_appended(&self, statement: &Statement) -> bool {
        let end = usize::from(statement.version) + statement.facts.len();
        let found = self.log.get(statement.version.into()..end);
        // The hash of the last event covers all before it.
        let same = |found: &[(u8, Fact)]| found.iter().map(|(_, fact)| fact).eq(&statement.facts);
        !statement.facts.is_empty() && found.is_some_and(same)
    }
}
