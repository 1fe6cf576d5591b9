//! Exploring a model whole, breadth first: every property in every state, and from every state a way to a good end.
//!
//! `stateright` has a checker, which [`count`] runs to see that both find the same states. It is not what finds the
//! counterexamples: of several it keeps the last, and its `eventually` overlooks what a cycle or a join hides.

use std::{fmt::Debug, hash::Hash};

use indexmap::IndexSet;
use stateright::{Checker, Model};

/// A model with faults, and with ends that are good.
pub trait Protocol: Model<State: Clone + Debug + Eq + Hash, Action: Clone + Debug + PartialEq> {
    const NAME: &'static str;

    /// What [`Report`] calls the property that a good end is always within reach.
    const PROGRESS: &'static str;

    /// How large it is, in words.
    fn bounds(&self) -> String;

    /// Faults, and what clients happen to do. Progress may not depend on them.
    fn is_fault(action: &Self::Action) -> bool;

    /// Nothing that was promised is still to come.
    fn is_settled(&self, state: &Self::State) -> bool;
}

/// What an exploration found.
#[derive(Debug)]
pub struct Report {
    /// Different states looked at.
    pub states: usize,
    /// The properties that do not hold, each with a shortest way to where it breaks.
    pub broken: Vec<(&'static str, Vec<String>)>,
}

/// All of a model. With `only`, just as far as the first counterexample to that property.
pub fn explore<M: Protocol>(model: &M, only: Option<&str>) -> Report {
    let mut graph = Graph::new(model);
    let properties = model.properties();
    let mut open: Vec<_> = (properties.iter())
        .filter(|property| only.is_none_or(|only| only == property.name))
        .collect();
    let progress = only.is_none_or(|only| only == M::PROGRESS);
    let mut broken = Vec::new();
    let mut at = 0;
    while at < graph.states.len() && (progress || !open.is_empty()) {
        let state = graph.states[at].clone();
        open.retain(|property| {
            let holds = (property.condition)(model, &state);
            if !holds {
                broken.push((property.name, graph.path_to(model, at)));
            }
            holds
        });
        graph.expand(model, at, &state);
        at += 1;
    }
    if progress && let Some(stuck) = graph.stuck(model) {
        broken.push((M::PROGRESS, graph.path_to(model, stuck)));
    }
    Report {
        states: graph.states.len(),
        broken,
    }
}

/// How many different states `stateright` finds.
pub fn count<M>(model: M) -> usize
where
    M: Protocol + Send + Sync + 'static,
    M::State: Send + Sync,
    M::Action: Send + Sync,
{
    model.checker().spawn_bfs().join().unique_state_count()
}

/// The states found so far, and the steps between them that are no faults.
struct Graph<S> {
    states: IndexSet<S>,
    /// Whence each state was first reached.
    parents: Vec<usize>,
    /// Fault-free steps as (to, from).
    back: Vec<(u32, u32)>,
}

impl<S: Clone + Debug + Eq + Hash> Graph<S> {
    fn new<M: Protocol + Model<State = S>>(model: &M) -> Self {
        let states: IndexSet<S> = model.init_states().into_iter().collect();
        let parents = (0..states.len()).collect();
        let back = Vec::new();
        Self { states, parents, back }
    }

    fn expand<M: Protocol + Model<State = S>>(&mut self, model: &M, at: usize, state: &S) {
        let mut actions = Vec::new();
        model.actions(state, &mut actions);
        for action in actions {
            let fault = M::is_fault(&action);
            let Some(next) = model.next_state(state, action) else {
                continue;
            };
            let (to, new) = self.states.insert_full(next);
            if new {
                self.parents.push(at);
            }
            if !fault {
                self.back.push((to as u32, at as u32));
            }
        }
    }

    /// The first state from which no fault-free way leads to a good end.
    fn stuck<M: Protocol + Model<State = S>>(&mut self, model: &M) -> Option<usize> {
        self.back.sort_unstable();
        let mut reaches: Vec<bool> = self.states.iter().map(|state| model.is_settled(state)).collect();
        let mut open: Vec<usize> = (0..reaches.len()).filter(|at| reaches[*at]).collect();
        while let Some(to) = open.pop() {
            let first = self.back.partition_point(|step| (step.0 as usize) < to);
            for (_, from) in self.back[first..].iter().take_while(|step| step.0 as usize == to) {
                let from = *from as usize;
                if !std::mem::replace(&mut reaches[from], true) {
                    open.push(from);
                }
            }
        }
        reaches.iter().position(|reaches| !reaches)
    }

    fn path_to<M: Protocol + Model<State = S>>(&self, model: &M, mut at: usize) -> Vec<String> {
        let mut path = Vec::new();
        while self.parents[at] != at {
            let from = self.parents[at];
            let mut steps = model.next_steps(&self.states[from]).into_iter();
            let step = steps.find(|(_, next)| *next == self.states[at]);
            path.extend(step.map(|(action, _)| format!("{action:?}")));
            at = from;
        }
        path.reverse();
        path
    }
}
