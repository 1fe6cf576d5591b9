//! What a projector reads, and what becomes of it.

use super::{Mutant, Position, Projection, Projector, State};

/// Events in a page.
const PAGE: usize = 2;

impl Projection {
    /// Is the place after the checkpoint?
    pub(super) fn after(&self, place: Position, checkpoint: Position) -> bool {
        self.key(place) > self.key(checkpoint)
    }

    pub(super) fn key(&self, place: Position) -> (u8, u8) {
        let bare = self.lacks(Mutant::BareSequence) || self.lacks(Mutant::SequenceBelowTheMark);
        if bare { (place.seq, 0) } else { (place.txid, place.seq) }
    }

    /// A statement of a reader: one snapshot.
    pub(super) fn log(&self, state: &State, after: Position) -> Vec<Position> {
        let open = state
            .writers
            .iter()
            .filter(|writer| writer.ended.is_none())
            .filter_map(|writer| writer.txid);
        let unmarked = self.lacks(Mutant::BareSequence) || self.lacks(Mutant::TupleWithoutTheMark);
        let mark = if unmarked {
            u8::MAX
        } else {
            open.min().unwrap_or(state.next_txid)
        };
        let mut found: Vec<_> = state.committed().collect();
        found.retain(|place| self.after(*place, after) && place.txid < mark);
        found.sort_unstable_by_key(|place| self.key(*place));
        found.truncate(PAGE);
        found
    }

    pub(super) fn apply(&self, state: &mut State, at: usize, heard: bool) {
        let State {
            projectors,
            checkpoint,
            rows,
            ..
        } = state;
        let projector = &mut projectors[at];
        let Some(end) = projector.page.last().copied() else {
            return;
        };
        if *checkpoint != projector.position && !projector.half && !self.lacks(Mutant::CheckpointNotCompared) {
            // Overtaken: on from where the other is.
            *projector = Projector {
                position: *checkpoint,
                ..Projector::default()
            };
            return;
        }
        let (first, second) = if self.lacks(Mutant::CheckpointAfterTheRows) {
            (!projector.half, projector.half)
        } else if self.lacks(Mutant::CheckpointBeforeTheRows) {
            (projector.half, !projector.half)
        } else {
            (true, true)
        };
        if first {
            rows.extend(&projector.page);
        }
        if second {
            *checkpoint = end;
        }
        projector.half = first != second && !projector.half;
        if projector.half {
            return;
        }
        let ahead = std::mem::take(&mut projector.ahead);
        *projector = match heard {
            true => Projector {
                position: end,
                page: ahead,
                ..Projector::default()
            },
            false => Projector {
                position: projector.position,
                ..Projector::default()
            },
        };
    }
}
