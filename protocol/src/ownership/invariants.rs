//! What must be true of a run in every state: the invariants by their numbers.

use super::{decide::Fact, store::Run};

pub fn contiguous(run: &Run) -> bool {
    let expected = 1..=run.version;
    run.log.iter().map(|(version, _)| *version).eq(expected)
}

pub fn fenced(run: &Run) -> bool {
    let mut last = None;
    let grows = run.facts().all(|fact| match fact {
        Fact::Claimed { epoch, .. } => last.replace(epoch) < Some(epoch),
        _ => true,
    });
    grows && last <= Some(run.epoch) && !run.late_write
}

/// The ledger: requested, then one of replied, failed, orphaned; and no call that is not in it.
pub fn accounted(run: &Run) -> bool {
    let mut open = None;
    let mut requested = 0;
    for fact in run.facts() {
        match fact {
            Fact::CallRequested(attempt) if open.is_none() && attempt == requested + 1 => {
                open = Some(attempt);
                requested = attempt;
            }
            Fact::Replied(attempt) | Fact::CallFailed(attempt) | Fact::Orphaned(attempt) if open == Some(attempt) => {
                open = None;
            }
            Fact::CallRequested(_) | Fact::Replied(_) | Fact::CallFailed(_) | Fact::Orphaned(_) => return false,
            end if end.is_terminal() && open.is_some() => return false,
            _ => {}
        }
    }
    let calls = run.calls.iter().zip(1..);
    calls
        .into_iter()
        .all(|(calls, attempt)| *calls <= u8::from(attempt <= requested))
}

pub fn bounded(run: &Run) -> bool {
    let count = |which: fn(&Fact) -> bool| run.facts().filter(which).count();
    let failed = count(|fact| matches!(fact, Fact::CallFailed(_)));
    let calls: usize = run.calls.iter().map(|calls| usize::from(*calls)).sum();
    count(|fact| matches!(fact, Fact::Replied(_))) <= 1 && calls <= 1 + failed + usize::from(run.lapses)
}
