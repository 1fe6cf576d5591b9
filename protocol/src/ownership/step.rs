//! What each step does.

use super::{Action, Call, Change, Fact, Gate, Hand, Mutant, Ownership, Run, Stage, State, Statement, store::Lease};

/// More commands for one run than this change nothing.
const HINTS_MAX: u8 = 2;

impl Run {
    pub(super) fn hint(&mut self) {
        self.hints = (self.hints + 1).min(HINTS_MAX);
    }
}

impl Ownership {
    /// An earlier run of its session is open.
    pub(super) fn is_held(&self, state: &State, run: u8) -> bool {
        state.runs[..usize::from(run)]
            .iter()
            .any(|earlier| !earlier.log.is_empty() && !earlier.ended())
    }

    pub(super) fn announce_next(&self, state: &mut State, ended: usize) {
        let next = state.runs[ended + 1..]
            .iter_mut()
            .find(|run| !run.log.is_empty() && !run.ended());
        if let Some(next) = next {
            next.hint();
        }
    }

    pub(super) fn step(&self, state: &mut State, action: Action) {
        let hand = |worker: u8, run: u8| (usize::from(worker), usize::from(run));
        match action {
            Action::Accept(run) => self.accept(state, run.into()),
            Action::AcceptUnheard(run) => {
                state.runs[usize::from(run)].accepted();
                state.gates[usize::from(run)] = Gate::Accepting { unsure: true };
            }
            Action::AcceptLost(run) => state.gates[usize::from(run)] = Gate::Accepting { unsure: true },
            Action::GatewayDies(run) => state.gates[usize::from(run)] = Gate::Done,
            Action::Cancel(run) => self.cancel(state, run),
            Action::Deliver { worker, run } => self.deliver(state, worker, run),
            Action::Commit { worker, runs } => {
                for run in (0..self.runs).filter(|run| runs & 1 << run != 0) {
                    self.commit(state, worker, run);
                }
            }
            Action::CommitUnheard { worker, runs } => {
                for run in (0..self.runs).filter(|run| runs & 1 << run != 0) {
                    if let Some(statement) = self.statement(state, worker, run) {
                        self.execute(state, &statement);
                    }
                    state.hands[usize::from(worker)][usize::from(run)].unsure = true;
                }
            }
            Action::CommitLost { worker, runs } => {
                for run in (0..self.runs).filter(|run| runs & 1 << run != 0) {
                    state.hands[usize::from(worker)][usize::from(run)].unsure = true;
                }
            }
            Action::CommitHangs { worker, run } => {
                state.late = self.statement(state, worker, run);
                state.hands[usize::from(worker)][usize::from(run)].unsure = true;
            }
            Action::LateLands => {
                if let Some(statement) = state.late.take() {
                    self.execute(state, &statement);
                }
            }
            Action::LateVanishes => state.late = None,
            Action::GiveUp { worker, run } => self.let_go(state, worker, run),
            Action::CheckLease { worker, run } => {
                let (worker, run) = hand(worker, run);
                let hand = &mut state.hands[worker][run];
                if let Call::Open(attempt) = state.runs[run].view_at(hand.seen).call {
                    hand.stage = Stage::Cleared(attempt);
                }
            }
            Action::Call { worker, run } => {
                let (worker, run) = hand(worker, run);
                let hand = &mut state.hands[worker][run];
                if let Stage::Cleared(attempt) = hand.stage {
                    hand.stage = Stage::Calling(attempt);
                    if !self.lacks(Mutant::CallBeforeRecord) {
                        state.runs[run].called(attempt);
                    }
                }
            }
            Action::ModelReplies { worker, run } => {
                let (worker, run) = hand(worker, run);
                let hand = &mut state.hands[worker][run];
                if let Stage::Calling(attempt) = hand.stage {
                    hand.stage = Stage::Replying(attempt);
                }
            }
            Action::ModelFails { worker, run } => {
                let (worker, run) = hand(worker, run);
                let hand = &mut state.hands[worker][run];
                if let Stage::Calling(attempt) = hand.stage {
                    hand.stage = Stage::Failing(attempt);
                }
            }
            Action::Look { worker, run } => self.look(state, worker, run),
            Action::Renew { run, .. } => {
                if let Lease::Held { running, .. } = &mut state.runs[usize::from(run)].lease {
                    *running = true;
                }
            }
            Action::Lapse(run) | Action::LapseOfTheLiving(run) => {
                let run = &mut state.runs[usize::from(run)];
                run.lapses += 1;
                if let Lease::Held { running, .. } = &mut run.lease {
                    *running = false;
                }
            }
            Action::Crash(worker) => {
                for run in 0..self.runs {
                    self.let_go(state, worker, run);
                }
            }
            Action::Drain { worker, run } => {
                let (worker, run) = hand(worker, run);
                state.hands[worker][run].stage = Stage::HandingBack;
            }
            Action::Redrive(run) | Action::DoubleHint(run) => state.runs[usize::from(run)].hint(),
            Action::LoseHint(run) => state.runs[usize::from(run)].hints -= 1,
            Action::WipeQueue => {
                state.runs.iter_mut().for_each(|run| run.hints = 0);
                state.hands.iter_mut().flatten().for_each(|hand| hand.delivery = false);
            }
        }
    }

    fn accept(&self, state: &mut State, at: usize) {
        let run = &mut state.runs[at];
        let early = self.lacks(Mutant::AnswerBeforeCommit) && !run.told;
        let unsure = state.gates[at] == Gate::Accepting { unsure: true };
        if early {
            run.told = true;
            return;
        }
        // Asked first whether it had happened: `was_appended`.
        let believed = unsure && self.lacks(Mutant::UnknownTakenForDone);
        if !believed {
            run.accepted();
        }
        run.told = true;
        run.hint();
        state.gates[at] = Gate::Done;
    }

    fn cancel(&self, state: &mut State, at: u8) {
        let run = &state.runs[usize::from(at)];
        let Some(facts) = self.rules().cancel(run.view()) else {
            return;
        };
        let ends = facts.last().is_some_and(|fact| fact.is_terminal());
        let lease = if ends {
            Change::Release { due: false }
        } else {
            Change::Keep
        };
        let (version, epoch) = (run.version, run.epoch);
        let statement = Statement {
            run: at,
            worker: None,
            version,
            epoch,
            facts,
            lease,
            again: false,
        };
        self.execute(state, &statement);
        if ends {
            self.announce_next(state, at.into());
        } else {
            state.runs[usize::from(at)].hint();
        }
    }

    fn deliver(&self, state: &mut State, worker: u8, at: u8) {
        let again = state.late.as_ref().is_some_and(|late| late.run == at && !late.again);
        let held = self.is_held(state, at);
        let run = &mut state.runs[usize::from(at)];
        run.hints -= 1;
        let hand = &mut state.hands[usize::from(worker)][usize::from(at)];
        // In these hands already, or nothing to be done: the command has served.
        if !hand.is_idle() || run.log.is_empty() || run.ended() || held {
            return;
        }
        let delivery = !self.lacks(Mutant::AckOnArrival);
        let (seen, epoch) = (run.version, run.epoch);
        *hand = Hand {
            stage: Stage::Claiming,
            seen,
            epoch,
            delivery,
            unsure: false,
            again,
        };
        if self.lacks(Mutant::CallBeforeRecord)
            && let Some(statement) = self.statement(state, worker, at)
            && let Some(Fact::CallRequested(attempt)) = statement.facts.last()
        {
            state.runs[usize::from(at)].called(*attempt);
        }
    }

    fn execute(&self, state: &mut State, statement: &Statement) -> bool {
        let claims = statement.lease == Change::Claim;
        let held = claims && self.is_held(state, statement.run);
        !held && state.runs[usize::from(statement.run)].execute(statement, self.mutants)
    }

    /// The appender's turn, heard: asks first if it is unsure, and again if that try met a conflict.
    fn commit(&self, state: &mut State, worker: u8, run: u8) {
        let Some(statement) = self.statement(state, worker, run) else {
            return;
        };
        let unsure = state.hands[usize::from(worker)][usize::from(run)].unsure;
        let believed = unsure && self.lacks(Mutant::UnknownTakenForDone);
        let found = unsure && state.runs[usize::from(run)].was_appended(&statement);
        if believed || found || self.execute(state, &statement) {
            self.heard_won(state, &statement, worker);
        } else {
            self.heard_conflict(state, worker, run);
        }
    }

    /// Dead, or out of patience. A command not acknowledged comes again.
    fn let_go(&self, state: &mut State, worker: u8, run: u8) {
        let hand = std::mem::take(&mut state.hands[usize::from(worker)][usize::from(run)]);
        if hand.delivery {
            state.runs[usize::from(run)].hint();
        }
    }
}

impl Run {
    /// A second execution finds the run there and does nothing.
    fn accepted(&mut self) {
        if self.log.is_empty() {
            self.log.push((1, Fact::Requested));
            self.version = 1;
            self.due = true;
        }
    }

    fn called(&mut self, attempt: u8) {
        if let Some(calls) = self.calls.get_mut(usize::from(attempt) - 1) {
            *calls += 1;
        }
    }
}
