//! How a projection follows the whole log while transactions are open: the tuple checkpoint.
//!
//! Writers take a transaction number and sequence numbers in any order, and commit in any other; projectors read pages
//! and apply them. Stands for `src/store/adapter.rs` (`log`), `projections/src/{projector,lane,log,checkpoint}.rs`.

mod reader;

use std::cmp::Reverse;

use stateright::{Model, Property};

use crate::explore::Protocol;

pub const I11: &str = "I11: the rows are a fold of the log up to the checkpoint, each event once";
pub const PROGRESS: &str = "I11: every committed event reaches the rows";

/// A guard taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mutant {
    /// `position > checkpoint`.
    BareSequence,
    /// The same, of transactions below the oldest open one.
    SequenceBelowTheMark,
    /// The tuple, with no regard for open transactions.
    TupleWithoutTheMark,
    /// Rows in one transaction, the checkpoint in the next.
    CheckpointAfterTheRows,
    /// The other way round.
    CheckpointBeforeTheRows,
    /// Whoever comes second does not see that it was overtaken.
    CheckpointNotCompared,
}

impl Mutant {
    /// What is missing, and what that breaks.
    pub const CAUGHT: &[(&[Self], &'static str)] = &[
        (&[Self::BareSequence], I11),
        (&[Self::BareSequence], PROGRESS),
        (&[Self::SequenceBelowTheMark], I11),
        (&[Self::SequenceBelowTheMark], PROGRESS),
        (&[Self::TupleWithoutTheMark], I11),
        (&[Self::CheckpointAfterTheRows], I11),
        (&[Self::CheckpointBeforeTheRows], I11),
        (&[Self::CheckpointNotCompared], I11),
    ];
}

#[derive(Debug, Clone)]
pub struct Projection {
    /// Events of each writer's transaction.
    pub writes: Vec<u8>,
    pub projectors: usize,
    pub faults: u8,
    pub mutants: &'static [Mutant],
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    writers: Vec<Writer>,
    next_txid: u8,
    next_seq: u8,
    projectors: Vec<Projector>,
    checkpoint: Position,
    /// What was applied, in order.
    rows: Vec<Position>,
    faults: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Position {
    txid: u8,
    seq: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Writer {
    txid: Option<u8>,
    seqs: Vec<u8>,
    ended: Option<bool>,
}

/// One process: where it believes to be, the page in its hands, and the page read ahead.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Projector {
    position: Position,
    page: Vec<Position>,
    ahead: Vec<Position>,
    /// Mutants only: one half of the page's two transactions is done.
    half: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Action {
    TakeTxid(usize),
    TakeSeq(usize),
    Commit(usize),
    Abort(usize),
    Read(usize),
    ReadAhead(usize),
    Apply(usize),
    /// It was committed, and the projector does not hear of it.
    ApplyUnheard(usize),
    Crash(usize),
}

impl Projection {
    fn lacks(&self, guard: Mutant) -> bool {
        self.mutants.contains(&guard)
    }
}

impl State {
    fn committed(&self) -> impl Iterator<Item = Position> {
        let committed = self.writers.iter().filter(|writer| writer.ended == Some(true));
        committed.flat_map(|writer| {
            let txid = writer.txid.unwrap_or_default();
            writer.seqs.iter().map(move |seq| Position { txid, seq: *seq })
        })
    }
}

impl Model for Projection {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            writers: vec![Writer::default(); self.writes.len()],
            next_txid: 1,
            next_seq: 1,
            projectors: vec![Projector::default(); self.projectors],
            checkpoint: Position::default(),
            rows: Vec::new(),
            faults: self.faults,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let fault = state.faults > 0;
        for (at, writer) in state
            .writers
            .iter()
            .enumerate()
            .filter(|(_, writer)| writer.ended.is_none())
        {
            let written = writer.seqs.len() == usize::from(self.writes[at]);
            if writer.txid.is_none() {
                actions.push(Action::TakeTxid(at));
            }
            match written {
                false => actions.push(Action::TakeSeq(at)),
                true if writer.txid.is_some() => actions.push(Action::Commit(at)),
                true => {}
            }
            if fault {
                actions.push(Action::Abort(at));
            }
        }
        for (at, projector) in state.projectors.iter().enumerate() {
            match projector.page.last() {
                None => actions.push(Action::Read(at)),
                Some(_) => {
                    actions.push(Action::Apply(at));
                    if projector.ahead.is_empty() {
                        actions.push(Action::ReadAhead(at));
                    }
                    if fault {
                        actions.push(Action::ApplyUnheard(at));
                    }
                }
            }
            if fault {
                actions.push(Action::Crash(at));
            }
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        if Self::is_fault(&action) {
            next.faults -= 1;
        }
        match action {
            Action::TakeTxid(at) => {
                next.writers[at].txid = Some(next.next_txid);
                next.next_txid += 1;
            }
            Action::TakeSeq(at) => {
                next.writers[at].seqs.push(next.next_seq);
                next.next_seq += 1;
            }
            Action::Commit(at) => next.writers[at].ended = Some(true),
            Action::Abort(at) => next.writers[at].ended = Some(false),
            Action::Read(at) => next.projectors[at].page = self.log(state, state.projectors[at].position),
            Action::ReadAhead(at) => {
                let end = state.projectors[at].page.last()?;
                next.projectors[at].ahead = self.log(state, *end);
            }
            Action::Apply(at) => self.apply(&mut next, at, true),
            Action::ApplyUnheard(at) => self.apply(&mut next, at, false),
            Action::Crash(at) => {
                let position = next.checkpoint;
                next.projectors[at] = Projector {
                    position,
                    ..Projector::default()
                };
            }
        }
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always(I11, |model: &Self, state: &State| {
            // Between the halves of a mutant's page nobody looks.
            if state.projectors.iter().any(|projector| projector.half) {
                return true;
            }
            let mut due: Vec<_> = state
                .committed()
                .filter(|place| !model.after(*place, state.checkpoint))
                .collect();
            due.sort_unstable_by_key(|place| Reverse(model.key(*place)));
            state.rows.iter().rev().eq(&due)
        })]
    }
}

impl Protocol for Projection {
    const NAME: &str = "projection";
    const PROGRESS: &str = PROGRESS;

    fn is_fault(action: &Action) -> bool {
        matches!(action, Action::Abort(_) | Action::ApplyUnheard(_) | Action::Crash(_))
    }

    fn bounds(&self) -> String {
        let Self {
            writes,
            projectors,
            faults,
            ..
        } = self;
        format!("events of each transaction: {writes:?}, projectors: {projectors}, faults: {faults}")
    }

    fn is_settled(&self, state: &State) -> bool {
        state.writers.iter().all(|writer| writer.ended.is_some())
            && state.committed().all(|place| state.rows.contains(&place))
    }
}
