//! Verdicts by the column: of all classes towards one.
//!
//! Which of a pod's rules can tell something of a peer is found for all peers at once, from lists of who is selected by
//! what: a bit for each thing that rules ask. Peers with the same bits have the same half of the verdict.

use std::collections::HashMap;

use super::Connectivity;
use super::classes::{Classes, Seen};
use super::ports::{CellId, Cells};
use super::rules::Atom;
use crate::model::{Direction, Family};

/// Halves by peer; `None` where it is not known, or nobody is there to ask about.
type Row = Vec<Option<CellId>>;

/// What is kept of halves: 64 MiB each way.
const KEPT: usize = 8 << 20;

/// Halves that are used again and again.
#[derive(Debug, Default)]
pub(super) struct Rows {
    /// By family and number of what governs. Destinations come in this order, so few are wanted at a time.
    ingress: HashMap<(Family, usize), Row>,
    ingress_kept: usize,
    /// Wanted for every destination.
    egress: HashMap<(Family, usize), Row>,
    egress_kept: usize,
    /// Peers by what selects them.
    holders: HashMap<Atom, Vec<usize>>,
}

impl Rows {
    pub(super) fn of(classes: &Classes) -> Self {
        let mut rows = Self::default();
        for (at, peer) in classes.peers.iter().enumerate() {
            for atom in &peer.atoms {
                rows.holders.entry(*atom).or_default().push(at);
            }
        }
        rows
    }
}

impl Connectivity {
    /// The verdicts of all classes towards one, by class; `None` where nobody is another one.
    pub(super) fn class_column(&mut self, b: usize) -> Vec<Option<CellId>> {
        let mut column = vec![None; self.classes.classes.len()];
        let Some(to) = self.classes.classes.get(b) else {
            return column;
        };
        let (family, seen, peer, governed) = (to.family, to.seen, to.peer, to.ingress);
        let single = to.members.len() < 2;
        let mut row = match self.rows.ingress.remove(&(family, governed)) {
            Some(row) => row,
            None => {
                let row = self.row(Direction::Ingress, b);
                self.rows.ingress_kept = self.rows.ingress_kept.saturating_add(row.len());
                row
            }
        };
        let mut by_egress: Row = vec![None; self.classes.egress.len()];
        for (a, found) in column.iter_mut().enumerate() {
            let Some(from) = self.classes.classes.get(a) else {
                continue;
            };
            let outside = from.seen == Seen::External && seen == Seen::External;
            if from.family != family || outside || (a == b && single) {
                continue;
            }
            let (from_peer, from_egress) = (from.peer, from.egress);
            let Some(known) = row.get_mut(from_peer) else {
                continue;
            };
            if known.is_none() {
                *known = self.half(Direction::Ingress, a, b);
            }
            let Some(ingress) = *known else { continue };
            if ingress == Cells::DENY {
                *found = Some(ingress);
                continue;
            }
            let Some(known) = by_egress.get_mut(from_egress) else {
                continue;
            };
            if known.is_none() {
                *known = self.egress(a, b, family, from_egress, peer);
            }
            if let Some(egress) = *known {
                *found = Some(self.cells.and(egress, ingress));
            }
        }
        if self.rows.ingress_kept > KEPT {
            self.rows.ingress.clear();
            self.rows.ingress_kept = row.len();
        }
        self.rows.ingress.insert((family, governed), row);
        column
    }

    fn half(&mut self, direction: Direction, a: usize, b: usize) -> Option<CellId> {
        self.classes
            .half(&self.snapshot, &mut self.cells, direction, a, b, false)
    }

    fn egress(
        &mut self,
        a: usize,
        b: usize,
        family: Family,
        governed: usize,
        peer: usize,
    ) -> Option<CellId> {
        let key = (family, governed);
        let room = self.rows.egress_kept < KEPT;
        if room && !self.rows.egress.contains_key(&key) {
            let row = self.row(Direction::Egress, a);
            self.rows.egress_kept = self.rows.egress_kept.saturating_add(row.len());
            self.rows.egress.insert(key, row);
        }
        let kept = self.rows.egress.get(&key);
        match kept.and_then(|row| row.get(peer)).copied().flatten() {
            Some(known) => Some(known),
            None => self.half(Direction::Egress, a, b),
        }
    }

    /// The halves of all peers with the class that governs.
    fn row(&mut self, direction: Direction, governing: usize) -> Row {
        let mut row = vec![None; self.classes.peers.len()];
        let Some(class) = self.classes.classes.get(governing) else {
            return row;
        };
        let (family, seen) = (class.family, class.seen);
        let single = class.members.len() < 2;
        let governed = match direction {
            Direction::Egress => self.classes.egress.get(class.egress),
            Direction::Ingress => self.classes.ingress.get(class.ingress),
        };
        let Some(governed) = governed else { return row };
        let named = direction == Direction::Egress && !governed.reach.names.is_empty();
        // A bit for each thing that is asked; without enough bits, each peer is looked at by itself when it is wanted.
        if governed.atoms.len() > 64 {
            return row;
        }
        let mut bits: Vec<u64> = vec![0; row.len()];
        for (bit, atom) in governed.atoms.iter().enumerate() {
            for peer in self.rows.holders.get(atom).into_iter().flatten() {
                if let Some(bits) = bits.get_mut(*peer) {
                    *bits |= 1 << bit;
                }
            }
        }
        let mut known: HashMap<(u64, Seen, u32), CellId> = HashMap::new();
        let mut last: Option<((u64, Seen, u32), CellId)> = None;
        for other in 0..self.classes.classes.len() {
            let Some(class) = self.classes.classes.get(other) else {
                continue;
            };
            let outside = class.seen == Seen::External && seen == Seen::External;
            if class.family != family || outside || (other == governing && single) {
                continue;
            }
            let at = class.peer;
            let (Some(bits), Some(peer)) = (bits.get(at), self.classes.peers.get(at)) else {
                continue;
            };
            let profile = if named { peer.profile } else { 0 };
            let key = (*bits, peer.seen, profile);
            if row.get(at).is_none_or(Option::is_some) {
                continue;
            }
            let alike = match last {
                Some((of, id)) if of == key => Some(id),
                _ => known.get(&key).copied(),
            };
            let found = alike.or_else(|| {
                let (a, b) = match direction {
                    Direction::Egress => (governing, other),
                    Direction::Ingress => (other, governing),
                };
                let id = self.half(direction, a, b)?;
                known.insert(key, id);
                Some(id)
            });
            if let (Some(id), Some(place)) = (found, row.get_mut(at)) {
                *place = Some(id);
                last = Some((key, id));
            }
        }
        row
    }
}
