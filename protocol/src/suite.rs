//! What is explored: each model at a size that takes seconds, at a larger one, and with guards taken out.

use std::fmt::Debug;

use crate::{
    explore::{Protocol, Report, count, explore},
    ownership::{self, Ownership},
    projection::{self, Projection},
    stream::{self, Stream},
};

/// One exploration, to be made.
pub struct Case {
    pub model: &'static str,
    pub bounds: String,
    /// The guards that are missing.
    pub lacking: String,
    /// The property that must break for it; none: all must hold.
    pub breaks: Option<&'static str>,
    explore: Box<dyn Fn() -> Report>,
    count: Box<dyn Fn() -> usize>,
}

impl Case {
    fn of<M>(model: M, lacking: &[impl Debug], breaks: Option<&'static str>) -> Self
    where
        M: Protocol + Clone + Send + Sync + 'static,
        M::State: Send + Sync,
        M::Action: Send + Sync,
    {
        let (explored, counted) = (model.clone(), model.clone());
        let lacking: Vec<_> = lacking.iter().map(|guard| format!("{guard:?}")).collect();
        Self {
            model: M::NAME,
            bounds: model.bounds(),
            lacking: lacking.join(" + "),
            breaks,
            explore: Box::new(move || explore(&explored, breaks)),
            count: Box::new(move || count(counted.clone())),
        }
    }

    pub fn explore(&self) -> Report {
        (self.explore)()
    }

    /// The same by `stateright`'s own search.
    pub fn count(&self) -> usize {
        (self.count)()
    }
}

/// The protocol as it is, in seconds.
pub fn short() -> Vec<Case> {
    let cancels = Ownership {
        attempts_max: 3,
        ..ownership()
    };
    let faults = Ownership {
        faults: 3,
        cancels: false,
        ..ownership()
    };
    let session = Ownership {
        runs: 2,
        faults: 1,
        cancels: false,
        ..ownership()
    };
    vec![
        Case::of(cancels, NONE, None),
        Case::of(faults, NONE, None),
        Case::of(session, NONE, None),
        Case::of(projection(), NONE, None),
        Case::of(
            Projection {
                writes: vec![1, 2, 1],
                ..projection()
            },
            NONE,
            None,
        ),
        Case::of(stream(), NONE, None),
    ]
}

/// The same, larger: minutes and gigabytes.
pub fn long() -> Vec<Case> {
    let faults = Ownership {
        faults: 3,
        ..ownership()
    };
    let workers = Ownership {
        workers: 3,
        cancels: false,
        ..ownership()
    };
    let session = Ownership {
        runs: 2,
        cancels: false,
        ..ownership()
    };
    vec![
        Case::of(faults, NONE, None),
        Case::of(workers, NONE, None),
        Case::of(session, NONE, None),
        Case::of(
            Projection {
                writes: vec![1, 1, 1, 1],
                ..projection()
            },
            NONE,
            None,
        ),
        Case::of(
            Projection {
                writes: vec![2, 2, 1],
                faults: 2,
                ..projection()
            },
            NONE,
            None,
        ),
        Case::of(Stream { faults: 2, ..stream() }, NONE, None),
        Case::of(
            Stream {
                attempts: 3,
                pieces: 1,
                faults: 2,
                ..stream()
            },
            NONE,
            None,
        ),
    ]
}

/// Mutants, each with the property it must break.
pub fn caught() -> Vec<Case> {
    let mut cases = Vec::new();
    for (mutants, breaks) in ownership::Mutant::CAUGHT {
        cases.push(Case::of(Ownership { mutants, ..ownership() }, mutants, Some(breaks)));
    }
    for (mutants, breaks) in projection::Mutant::CAUGHT {
        cases.push(Case::of(
            Projection {
                mutants,
                ..projection()
            },
            mutants,
            Some(breaks),
        ));
    }
    for (mutants, breaks) in stream::Mutant::CAUGHT {
        cases.push(Case::of(Stream { mutants, ..stream() }, mutants, Some(breaks)));
    }
    cases
}

/// Guards that another one stands behind: without them all holds still.
pub fn spared() -> Vec<Case> {
    let mut cases = Vec::new();
    for mutants in ownership::Mutant::SPARED {
        cases.push(Case::of(Ownership { mutants, ..ownership() }, mutants, None));
    }
    for mutants in stream::Mutant::SPARED {
        cases.push(Case::of(Stream { mutants, ..stream() }, mutants, None));
    }
    cases
}

const NONE: &[ownership::Mutant] = &[];

fn ownership() -> Ownership {
    Ownership {
        workers: 2,
        runs: 1,
        faults: 2,
        attempts_max: 2,
        cancels: true,
        mutants: &[],
    }
}

fn projection() -> Projection {
    Projection {
        writes: vec![1, 1, 1],
        projectors: 2,
        faults: 1,
        mutants: &[],
    }
}

fn stream() -> Stream {
    Stream {
        attempts: 2,
        pieces: 2,
        inputs: 1,
        faults: 1,
        mutants: &[],
    }
}
