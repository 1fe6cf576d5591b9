//! The guards of the system, each of which can be taken away: what a simulator cannot see fail, it does not test.

/// Taken away in the simulated adapters, never in the rooms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Guard {
    /// An append of an older claim loses.
    Epoch,
    /// A run is claimed when its lease is over, and not before.
    Lease,
    /// The log is read by (generation, transaction, sequence) up to the oldest open transaction.
    Position,
    /// Overdue runs are found in the store.
    Redriver,
    /// Runs that wait in a line are found in the store.
    Lines,
    /// Deltas of a reply that will not come are taken back.
    StepReset,
    /// A request that comes twice happens once.
    IdempotencyKey,
    /// A stream goes on right behind the last delta that was seen.
    TailResume,
}

impl Guard {
    pub const ALL: [Self; 8] = [
        Self::Epoch,
        Self::Lease,
        Self::Position,
        Self::Redriver,
        Self::Lines,
        Self::StepReset,
        Self::IdempotencyKey,
        Self::TailResume,
    ];
}
