//! Who may write to a run: accept, claim, lease, fenced append, lost answers, redrive, and the ledger of model calls.
//!
//! A few workers and runs, every interleaving of their steps, and any few faults in any places. A step of the model is
//! what happens at one instant: a statement's execution in the database, a message's arrival, a call's departure.

pub mod decide;
mod invariants;
mod possible;
mod step;
pub mod store;
mod worker;

use stateright::{Model, Property};

use crate::explore::Protocol;
use decide::{Call, Fact, Rules};
use invariants::{accounted, bounded, contiguous, fenced};
use store::{Change, Run, Statement};
use worker::{Hand, Stage};

pub const I1: &str = "I1: versions are 1 to n, and the head stands at n";
pub const I2: &str = "I2: what was answered with 202 is in the log";
pub const I4: &str = "I4: one terminal event, and it is the last";
pub const PROGRESS: &str = "I4: with faults stopped, everything accepted comes to its end";
pub const I5: &str = "I5: epochs grow, and every write is covered by the claim in force";
pub const I6: &str = "I6: every call that left was recorded before, and has one outcome before the next";
pub const I7: &str = "I7: one reply is used, and calls made again are no more than leases lost";

/// A guard taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mutant {
    NoVersionCheck,
    NoEpochCheck,
    EpochNotRaised,
    /// Whether a lease has ended is judged by the claimer, whose clock may be ahead.
    LeaseByTheWorkersClock,
    NoRedriver,
    /// Acknowledged before the run is claimed.
    AckOnArrival,
    /// A worker does not ask itself whether its lease still runs before a call.
    NoLeaseCheck,
    /// No guard, but a wish granted: the queue loses nothing.
    ReliableQueue,
    /// Letting go sets no `due_at`.
    NothingDueAfterRelease,
    OrphanNotRecorded,
    /// The call leaves before its intent is committed.
    CallBeforeRecord,
    /// A lost answer counts as a yes.
    UnknownTakenForDone,
    /// The client is answered first.
    AnswerBeforeCommit,
}

impl Mutant {
    /// What is missing, and what that breaks.
    pub const CAUGHT: &[(&[Self], &'static str)] = &[
        (&[Self::NoVersionCheck], I1),
        (&[Self::UnknownTakenForDone], I2),
        (&[Self::AnswerBeforeCommit], I2),
        (&[Self::NoVersionCheck], I4),
        (&[Self::NoRedriver], PROGRESS),
        (&[Self::NoRedriver, Self::ReliableQueue], PROGRESS),
        (&[Self::NoRedriver, Self::ReliableQueue, Self::AckOnArrival], PROGRESS),
        (&[Self::NothingDueAfterRelease], PROGRESS),
        (&[Self::NoEpochCheck], I5),
        (&[Self::EpochNotRaised], I5),
        (&[Self::OrphanNotRecorded], I6),
        (&[Self::CallBeforeRecord], I6),
        (&[Self::LeaseByTheWorkersClock], I7),
    ];

    /// What may be missing: another guard stands behind it.
    pub const SPARED: &[&[Self]] = &[&[Self::AckOnArrival], &[Self::NoLeaseCheck]];
}

#[derive(Debug, Clone)]
pub struct Ownership {
    pub workers: u8,
    /// Of one session: the second may start when the first has ended.
    pub runs: u8,
    /// Faults of all kinds together, at the most.
    pub faults: u8,
    pub attempts_max: u8,
    /// Clients cancel.
    pub cancels: bool,
    pub mutants: &'static [Mutant],
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    runs: Vec<Run>,
    gates: Vec<Gate>,
    /// By worker, by run.
    hands: Vec<Vec<Hand>>,
    /// A statement whose sender has stopped waiting, still in the database's hands.
    late: Option<Statement>,
    faults: u8,
}

/// The gateway that was posted a task. Stands for `gateway/src/routes/create_run.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Gate {
    Accepting { unsure: bool },
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Accept(u8),
    AcceptUnheard(u8),
    AcceptLost(u8),
    GatewayDies(u8),
    Cancel(u8),
    Deliver {
        worker: u8,
        run: u8,
    },
    /// One statement for all appends of a worker that are named.
    Commit {
        worker: u8,
        runs: u8,
    },
    CommitUnheard {
        worker: u8,
        runs: u8,
    },
    CommitLost {
        worker: u8,
        runs: u8,
    },
    /// The database has it and does not answer; it may still happen.
    CommitHangs {
        worker: u8,
        run: u8,
    },
    LateLands,
    LateVanishes,
    GiveUp {
        worker: u8,
        run: u8,
    },
    CheckLease {
        worker: u8,
        run: u8,
    },
    Call {
        worker: u8,
        run: u8,
    },
    ModelReplies {
        worker: u8,
        run: u8,
    },
    ModelFails {
        worker: u8,
        run: u8,
    },
    Look {
        worker: u8,
        run: u8,
    },
    Renew {
        worker: u8,
        run: u8,
    },
    Lapse(u8),
    /// The holder is alive and was kept from renewing.
    LapseOfTheLiving(u8),
    Crash(u8),
    Drain {
        worker: u8,
        run: u8,
    },
    Redrive(u8),
    LoseHint(u8),
    DoubleHint(u8),
    WipeQueue,
}

impl Ownership {
    fn lacks(&self, guard: Mutant) -> bool {
        self.mutants.contains(&guard)
    }

    fn rules(&self) -> Rules {
        Rules {
            attempts_max: self.attempts_max,
            orphan_recorded: !self.lacks(Mutant::OrphanNotRecorded),
        }
    }
}

impl Model for Ownership {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let run = Run {
            calls: vec![0; self.attempts_max.into()],
            ..Run::default()
        };
        vec![State {
            runs: vec![run; self.runs.into()],
            gates: vec![Gate::Accepting { unsure: false }; self.runs.into()],
            hands: vec![vec![Hand::default(); self.runs.into()]; self.workers.into()],
            late: None,
            faults: self.faults,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.possible(state, actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        if costs(action) {
            next.faults -= 1;
        }
        self.step(&mut next, action);
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(I1, |_, state: &State| state.runs.iter().all(contiguous)),
            Property::always(I2, |_, state: &State| {
                state.runs.iter().all(|run| !run.told || !run.log.is_empty())
            }),
            Property::always(I4, |_, state: &State| {
                state.runs.iter().all(|run| {
                    run.log
                        .iter()
                        .map(|(_, fact)| *fact)
                        .rev()
                        .skip(1)
                        .all(|fact| !fact.is_terminal())
                })
            }),
            Property::always(I5, |_, state: &State| state.runs.iter().all(fenced)),
            Property::always(I6, |_, state: &State| state.runs.iter().all(accounted)),
            Property::always(I7, |_, state: &State| state.runs.iter().all(bounded)),
        ]
    }
}

impl Protocol for Ownership {
    const NAME: &str = "ownership";
    const PROGRESS: &str = PROGRESS;

    fn is_fault(action: &Action) -> bool {
        costs(*action) || matches!(action, Action::Cancel(_))
    }

    fn bounds(&self) -> String {
        let Self {
            workers,
            runs,
            faults,
            attempts_max,
            cancels,
            ..
        } = self;
        let cancels = if *cancels { ", cancels" } else { "" };
        format!("workers: {workers}, runs: {runs}, tries of the call: {attempts_max}, faults: {faults}{cancels}")
    }

    fn is_settled(&self, state: &State) -> bool {
        let settled = |(run, gate): (&Run, &Gate)| match run.log.is_empty() {
            true => *gate == Gate::Done && !run.told,
            false => run.ended(),
        };
        state.runs.iter().zip(&state.gates).all(settled)
    }
}

fn costs(action: Action) -> bool {
    use Action::*;
    match action {
        AcceptUnheard(_) | AcceptLost(_) | GatewayDies(_) | CommitUnheard { .. } | CommitLost { .. } => true,
        CommitHangs { .. } | GiveUp { .. } | ModelFails { .. } | LapseOfTheLiving(_) | Crash(_) | Drain { .. } => true,
        LoseHint(_) | DoubleHint(_) | WipeQueue => true,
        Accept(_) | Cancel(_) | Deliver { .. } | Commit { .. } | LateLands | LateVanishes | CheckLease { .. } => false,
        Call { .. } | ModelReplies { .. } | Look { .. } | Renew { .. } | Lapse(_) | Redrive(_) => false,
    }
}
