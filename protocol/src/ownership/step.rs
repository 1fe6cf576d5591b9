//! Which steps are possible, and what each does.

use super::{Action, Call, Change, Fact, Gate, Hand, Mutant, Ownership, Run, Stage, State, Statement};

/// More commands for one run than this change nothing.
const HINTS_MAX: u8 = 2;

impl Run {
    pub(super) fn hint(&mut self) {
        self.hints = (self.hints + 1).min(HINTS_MAX);
    }
}

impl Ownership {
    pub(super) fn possible(&self, state: &State, actions: &mut Vec<Action>) {
        for run in 0..self.runs {
            self.possible_for_the_run(state, run, actions);
            for worker in 0..self.workers {
                self.possible_for_the_worker(state, worker, run, actions);
            }
        }
        for worker in 0..self.workers {
            self.possible_commits(state, worker, actions);
            if state.faults > 0 && state.hands[usize::from(worker)].iter().any(|hand| !hand.is_idle()) {
                actions.push(Action::Crash(worker));
            }
        }
        if state.late.is_some() {
            actions.extend([Action::LateLands, Action::LateVanishes]);
        }
        let held = |hands: &Vec<Hand>| hands.iter().any(|hand| hand.delivery);
        let filled = state.runs.iter().any(|run| run.hints > 0) || state.hands.iter().any(held);
        if state.faults > 0 && filled && !self.lacks(Mutant::ReliableQueue) {
            actions.push(Action::WipeQueue);
        }
    }

    fn possible_for_the_run(&self, state: &State, at: u8, actions: &mut Vec<Action>) {
        let run = &state.runs[usize::from(at)];
        let fault = state.faults > 0;
        // A session numbers its runs as they are accepted.
        let in_turn = at == 0 || state.gates[usize::from(at) - 1] == Gate::Done;
        if in_turn && state.gates[usize::from(at)] != Gate::Done {
            actions.push(Action::Accept(at));
            if fault {
                actions.extend([
                    Action::AcceptUnheard(at),
                    Action::AcceptLost(at),
                    Action::GatewayDies(at),
                ]);
            }
        }
        if self.cancels && run.told && self.rules().cancel(run.view()).is_some() {
            actions.push(Action::Cancel(at));
        }
        if run.lease.is_running() {
            let alive = (0..self.workers).any(|worker| {
                let hand = state.hands[usize::from(worker)][usize::from(at)];
                run.lease.is_of(worker) && hand.holds() && hand.epoch == run.epoch
            });
            match alive {
                false => actions.push(Action::Lapse(at)),
                true if fault => actions.push(Action::LapseOfTheLiving(at)),
                true => {}
            }
        }
        let redriver = !self.lacks(Mutant::NoRedriver);
        let overdue = run.due && !run.lease.is_running() && !self.is_held(state, at);
        if redriver && overdue && run.hints == 0 {
            actions.push(Action::Redrive(at));
        }
        if fault && run.hints > 0 {
            actions.push(Action::DoubleHint(at));
            if !self.lacks(Mutant::ReliableQueue) {
                actions.push(Action::LoseHint(at));
            }
        }
    }

    fn possible_for_the_worker(&self, state: &State, worker: u8, at: u8, actions: &mut Vec<Action>) {
        let run = &state.runs[usize::from(at)];
        let hand = state.hands[usize::from(worker)][usize::from(at)];
        let fault = state.faults > 0;
        if run.hints > 0 {
            actions.push(Action::Deliver { worker, run: at });
        }
        let view = run.view_at(hand.seen);
        // Fresh by the worker's own clock means running by the database's: it was measured from before the claim.
        let fresh = run.lease.is_running() && run.lease.is_of(worker);
        match hand.stage {
            Stage::Ready if (fresh || self.lacks(Mutant::NoLeaseCheck)) && !view.cancel => {
                actions.push(Action::CheckLease { worker, run: at });
            }
            Stage::Cleared(_) => actions.push(Action::Call { worker, run: at }),
            Stage::Calling(_) => {
                actions.push(Action::ModelReplies { worker, run: at });
                if fault {
                    actions.push(Action::ModelFails { worker, run: at });
                }
            }
            _ => {}
        }
        if matches!(hand.stage, Stage::Ready | Stage::Calling(_)) {
            actions.push(Action::Look { worker, run: at });
            if fault {
                actions.push(Action::Drain { worker, run: at });
            }
        }
        if hand.holds() && hand.epoch == run.epoch && run.lease.is_of(worker) && !run.lease.is_running() {
            actions.push(Action::Renew { worker, run: at });
        }
        if fault && hand.appends() {
            if state.late.is_none() {
                actions.push(Action::CommitHangs { worker, run: at });
            }
            if hand.unsure {
                actions.push(Action::GiveUp { worker, run: at });
            }
        }
    }

    fn possible_commits(&self, state: &State, worker: u8, actions: &mut Vec<Action>) {
        let appends = |run: u8| state.hands[usize::from(worker)][usize::from(run)].appends();
        for runs in 1..1_u8 << self.runs {
            if (0..self.runs).all(|run| runs & 1 << run == 0 || appends(run)) {
                actions.push(Action::Commit { worker, runs });
                if state.faults > 0 {
                    actions.push(Action::CommitUnheard { worker, runs });
                    actions.push(Action::CommitLost { worker, runs });
                }
            }
        }
    }

    /// An earlier run of its session is open.
    fn is_held(&self, state: &State, run: u8) -> bool {
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
                if let super::store::Lease::Held { running, .. } = &mut state.runs[usize::from(run)].lease {
                    *running = true;
                }
            }
            Action::Lapse(run) | Action::LapseOfTheLiving(run) => {
                let run = &mut state.runs[usize::from(run)];
                run.lapses += 1;
                if let super::store::Lease::Held { running, .. } = &mut run.lease {
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
