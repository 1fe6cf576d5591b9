//! A worker with one run in its hands. Stands for `workers/src/{worker,execute,call,lease}.rs`.

use super::{
    Mutant, Ownership, State,
    decide::{Call, Fact},
    store::{Change, Statement},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Stage {
    #[default]
    Idle,
    /// Loaded; the claim is on its way.
    Claiming,
    /// Claimed without facts, because they end the run; those are on their way.
    Settling,
    /// About to do what `next` says.
    Ready,
    /// Was told that its lease holds; the call has not left yet.
    Cleared(u8),
    Calling(u8),
    Replying(u8),
    Failing(u8),
    Confirming,
    HandingBack,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Hand {
    pub stage: Stage,
    /// The version it has folded.
    pub seen: u8,
    /// Of its claim; while claiming, of the head it has read.
    pub epoch: u8,
    /// The command is not acknowledged yet.
    pub delivery: bool,
    /// The append may have been committed without our knowing.
    pub unsure: bool,
    pub again: bool,
}

impl Hand {
    pub fn is_idle(self) -> bool {
        self.stage == Stage::Idle
    }

    /// Has a claim, as far as it knows.
    pub fn holds(self) -> bool {
        !matches!(self.stage, Stage::Idle | Stage::Claiming)
    }

    /// An append is on its way.
    pub fn appends(self) -> bool {
        !matches!(
            self.stage,
            Stage::Idle | Stage::Ready | Stage::Cleared(_) | Stage::Calling(_)
        )
    }
}

impl Ownership {
    /// What a claim adds to the epoch.
    fn raise(&self) -> u8 {
        u8::from(!self.lacks(Mutant::EpochNotRaised))
    }

    /// The append that a hand's stage asks for. Nothing: it was refused, the worker is done with the run.
    pub(super) fn statement(&self, state: &State, worker: u8, run: u8) -> Option<Statement> {
        let hand = state.hands[usize::from(worker)][usize::from(run)];
        let view = state.runs[usize::from(run)].view_at(hand.seen);
        let (rules, again) = (self.rules(), hand.again);
        let claimed = |epoch| Fact::Claimed { epoch, worker, again };
        let facts = match hand.stage {
            Stage::Claiming => {
                let facts = rules.advance(view, claimed(hand.epoch + self.raise()))?;
                // A run that ends at once is claimed first and settled by a second append.
                if view.after(&facts).ended { Vec::new() } else { facts }
            }
            Stage::Settling => rules.advance(view, claimed(hand.epoch))?,
            Stage::Replying(attempt) => rules.reply(view, attempt)?,
            Stage::Failing(attempt) => rules.failure(view, attempt)?,
            Stage::Confirming => rules.confirm_cancel(view)?,
            Stage::HandingBack => Vec::new(),
            Stage::Idle | Stage::Ready | Stage::Cleared(_) | Stage::Calling(_) => return None,
        };
        let after = view.after(&facts);
        let lease = match hand.stage {
            Stage::Claiming => Change::Claim,
            Stage::HandingBack => Change::Release { due: true },
            _ if after.ended => Change::Release { due: false },
            // A long pause is not sat out. Short ones are: that is this without the letting go.
            _ if matches!(after.call, Call::Backoff(_)) => Change::Release { due: true },
            _ => Change::Keep,
        };
        let (version, epoch) = (hand.seen, hand.epoch);
        Some(Statement {
            run,
            worker: Some(worker),
            version,
            epoch,
            facts,
            lease,
            again,
        })
    }

    /// The append's answer: it is in the log.
    pub(super) fn heard_won(&self, state: &mut State, statement: &Statement, worker: u8) {
        let run = usize::from(statement.run);
        let hand = &mut state.hands[usize::from(worker)][run];
        hand.unsure = false;
        hand.seen = statement.version + statement.facts.len() as u8;
        match statement.lease {
            Change::Claim => {
                hand.epoch += self.raise();
                hand.delivery = false;
                hand.stage = if statement.facts.is_empty() {
                    Stage::Settling
                } else {
                    Stage::Ready
                };
            }
            Change::Keep => hand.stage = Stage::Ready,
            Change::Release { .. } => {
                let handed_back = hand.stage == Stage::HandingBack;
                *hand = Hand::default();
                // Announced: the run itself, or the next of its session.
                if handed_back {
                    state.runs[run].hint();
                } else if statement.facts.last().is_some_and(|fact| fact.is_terminal()) {
                    self.announce_next(state, run);
                }
            }
        }
    }

    /// The append's answer: the head was elsewhere. Read again, decide again.
    pub(super) fn heard_conflict(&self, state: &mut State, worker: u8, at: u8) {
        let run = &state.runs[usize::from(at)];
        let hand = &mut state.hands[usize::from(worker)][usize::from(at)];
        let nothing_new = hand.seen == run.version;
        let fenced = hand.epoch != run.epoch && !self.lacks(Mutant::NoEpochCheck);
        hand.unsure = false;
        hand.seen = run.version;
        let done = match hand.stage {
            Stage::Claiming => {
                hand.epoch = run.epoch;
                nothing_new
            }
            Stage::HandingBack => true,
            _ => fenced,
        };
        if done || self.statement(state, worker, at).is_none() {
            state.hands[usize::from(worker)][usize::from(at)] = Hand::default();
        }
    }

    /// A signal came, or it was time: what others have added is folded in.
    pub(super) fn look(&self, state: &mut State, worker: u8, at: u8) {
        let run = &state.runs[usize::from(at)];
        let hand = &mut state.hands[usize::from(worker)][usize::from(at)];
        hand.seen = run.version;
        let view = run.view();
        if view.ended || hand.epoch != run.epoch && !self.lacks(Mutant::NoEpochCheck) {
            *hand = Hand::default();
        } else if view.cancel {
            // The call's connection is closed.
            hand.stage = Stage::Confirming;
        }
    }
}
