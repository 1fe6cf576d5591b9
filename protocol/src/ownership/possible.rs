//! Which steps are possible in a state.

use super::{Action, Gate, Hand, Mutant, Ownership, Stage, State};

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
}
