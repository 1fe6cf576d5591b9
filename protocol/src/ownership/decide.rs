//! The run's rules as far as ownership needs them: one model call, tried again, cancelled. Stands for
//! `src/run/{decide,state,next}.rs`; `tests/rules.rs` holds the two against each other.

/// An event, without what does not matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fact {
    Requested,
    /// `run.started` or `run.resumed`. The worker and the try are what makes two such events' hashes differ.
    Claimed {
        epoch: u8,
        worker: u8,
        again: bool,
    },
    CallRequested(u8),
    Replied(u8),
    CallFailed(u8),
    Orphaned(u8),
    CancelRequested,
    Completed,
    Cancelled,
    Failed,
}

impl Fact {
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Cancelled | Self::Failed)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Call {
    #[default]
    Idle,
    Open(u8),
    Backoff(u8),
}

/// The fold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct View {
    pub claimed: bool,
    pub call: Call,
    pub cancel: bool,
    pub ended: bool,
}

impl View {
    pub fn fold(facts: impl IntoIterator<Item = Fact>) -> Self {
        facts.into_iter().fold(Self::default(), Self::evolve)
    }

    fn evolve(mut self, fact: Fact) -> Self {
        match fact {
            Fact::Requested => {}
            Fact::Claimed { .. } => self.claimed = true,
            Fact::CallRequested(attempt) => self.call = Call::Open(attempt),
            Fact::Replied(_) | Fact::Orphaned(_) => self.call = Call::Idle,
            Fact::CallFailed(attempt) => self.call = Call::Backoff(attempt),
            Fact::CancelRequested => self.cancel = true,
            Fact::Completed | Fact::Cancelled | Fact::Failed => {
                self.ended = true;
                self.call = Call::Idle;
            }
        }
        self
    }

    pub fn after(self, facts: &[Fact]) -> Self {
        facts.iter().copied().fold(self, Self::evolve)
    }
}

/// What may be decided, and how many tries of a call a run has.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    pub attempts_max: u8,
    /// Mutant: a call whose outcome a crash took is asked for again without a word.
    pub orphan_recorded: bool,
}

impl Rules {
    /// A worker that won a claim. Nothing, if the run has ended.
    pub fn advance(self, view: View, claimed: Fact) -> Option<Vec<Fact>> {
        if view.ended {
            return None;
        }
        let mut facts = vec![claimed];
        if view.cancel {
            facts.extend(self.orphan(view));
            facts.push(Fact::Cancelled);
            return Some(facts);
        }
        let next = match view.call {
            Call::Idle => 1,
            Call::Open(attempt) | Call::Backoff(attempt) => attempt + 1,
        };
        facts.extend(self.orphan(view));
        facts.push(self.call(next));
        Some(facts)
    }

    fn call(self, attempt: u8) -> Fact {
        if attempt > self.attempts_max {
            Fact::Failed
        } else {
            Fact::CallRequested(attempt)
        }
    }

    fn orphan(self, view: View) -> Option<Fact> {
        match view.call {
            Call::Open(attempt) if self.orphan_recorded => Some(Fact::Orphaned(attempt)),
            _ => None,
        }
    }

    pub fn reply(self, view: View, attempt: u8) -> Option<Vec<Fact>> {
        let end = if view.cancel { Fact::Cancelled } else { Fact::Completed };
        (!view.ended && view.call == Call::Open(attempt)).then(|| vec![Fact::Replied(attempt), end])
    }

    pub fn failure(self, view: View, attempt: u8) -> Option<Vec<Fact>> {
        if view.ended || view.call != Call::Open(attempt) {
            return None;
        }
        let mut facts = vec![Fact::CallFailed(attempt)];
        if view.cancel {
            facts.push(Fact::Cancelled);
        } else if attempt >= self.attempts_max {
            facts.push(Fact::Failed);
        }
        Some(facts)
    }

    pub fn confirm_cancel(self, view: View) -> Option<Vec<Fact>> {
        if view.ended || !view.cancel {
            return None;
        }
        Some(self.orphan(view).into_iter().chain([Fact::Cancelled]).collect())
    }

    /// The gateway's: with no worker at work nobody needs to let go.
    pub fn cancel(self, view: View) -> Option<Vec<Fact>> {
        if view.ended || view.cancel {
            return None;
        }
        let end = (!view.claimed).then_some(Fact::Cancelled);
        Some([Fact::CancelRequested].into_iter().chain(end).collect())
    }
}
