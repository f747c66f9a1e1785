//! All pairs, with those that are alike told once.

use std::collections::HashMap;

use super::ports::Access;
use super::{Cell, Connectivity};

/// Which pairs are wanted; an empty list wants every end.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// By end: may be a source.
    pub sources: Vec<bool>,
    /// By end: may be a destination.
    pub destinations: Vec<bool>,
    /// By end: one of the two must be among these.
    pub either: Vec<bool>,
}

impl Filter {
    fn mark(&self, end: usize) -> [bool; 3] {
        [&self.sources, &self.destinations, &self.either]
            .map(|of| of.is_empty() || of.get(end).copied().unwrap_or_default())
    }
}

/// Every one of these sources to every one of these destinations. An end that is in both: its pods among each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Ends, ascending.
    pub sources: Vec<usize>,
    /// Ends, ascending.
    pub destinations: Vec<usize>,
    /// Their verdict.
    pub cell: Cell,
}

/// Pairs of different ends by what is allowed between them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// All that were looked at.
    pub pairs: u64,
    /// Every port.
    pub all: u64,
    /// Some ports.
    pub some: u64,
    /// None for sure, and some left open by the API.
    pub unknown: u64,
    /// None.
    pub none: u64,
}

/// What a value comes to, for [`Totals`].
#[derive(Clone, Copy)]
enum Sum {
    All,
    Some,
    Unknown,
    None,
}

impl Connectivity {
    /// The connections between the wanted ends whose verdicts `keep` wants. `progress` hears of the destinations done
    /// and of all.
    pub fn fold(
        &mut self,
        filter: &Filter,
        keep: impl Fn(&super::Ports) -> bool,
        mut progress: impl FnMut(usize, usize),
    ) -> (Vec<Connection>, Totals) {
        self.group(|end, _| {
            let marks = filter.mark(end);
            marks.iter().fold(0, |sum, mark| 2 * sum + u64::from(*mark))
        });
        let marks: Vec<([bool; 3], usize)> = self
            .groups
            .iter()
            .map(|group| match group.ends.first() {
                Some(end) => (filter.mark(*end), group.ends.len()),
                None => ([false; 3], 0),
            })
            .collect();
        let wanted: Vec<bool> = marks.iter().map(|([source, ..], _)| *source).collect();
        // By cell: whether it is wanted, and what it comes to.
        let mut kept: Vec<Option<(bool, Sum)>> = Vec::new();
        let mut totals = Totals::default();
        // By what is allowed to whom: who it is allowed towards.
        let mut folded: HashMap<(Cell, Vec<usize>), Vec<usize>> = HashMap::new();
        let order = self.by_governing();
        for (done, destination) in order.iter().enumerate() {
            progress(done, order.len());
            let Some(([_, is_destination, either], size)) = marks.get(*destination).copied() else {
                continue;
            };
            if !is_destination {
                continue;
            }
            let column = self.column(*destination, &wanted);
            let mut by_cell: HashMap<Cell, Vec<usize>> = HashMap::new();
            // Neighbours often have the same cell.
            let mut run: (Cell, Vec<usize>) = Default::default();
            for (source, (cell, ([is_source, _, or], sources))) in
                column.iter().zip(&marks).enumerate()
            {
                if !(*is_source && (either || *or) && cell.is_some()) {
                    continue;
                }
                let mut keeps = false;
                let mut sum: Option<Sum> = None;
                for id in cell.families.iter().flatten() {
                    let known = kept.get(id.place()).copied().flatten();
                    let (keep, of) = match known {
                        Some(known) => known,
                        None => {
                            let Some(ports) = self.cells.get(*id) else {
                                continue;
                            };
                            let found = (keep(ports), summed(ports));
                            kept.resize(kept.len().max(id.place() + 1), None);
                            if let Some(place) = kept.get_mut(id.place()) {
                                *place = Some(found);
                            }
                            found
                        }
                    };
                    keeps |= keep;
                    sum = Some(sum.map_or(of, |before| together(before, of)));
                }
                let pairs = if source == *destination {
                    size.saturating_mul(size.saturating_sub(1))
                } else {
                    size.saturating_mul(*sources)
                } as u64;
                totals.add(sum, pairs);
                if !keeps {
                    continue;
                }
                if run.0 != *cell {
                    let (before, sources) = std::mem::take(&mut run);
                    if !sources.is_empty() {
                        by_cell.insert(before, sources);
                    }
                    run = (*cell, by_cell.remove(cell).unwrap_or_default());
                }
                run.1.push(source);
            }
            if !run.1.is_empty() {
                by_cell.insert(run.0, run.1);
            }
            for fold in by_cell {
                folded.entry(fold).or_default().push(*destination);
            }
        }
        progress(order.len(), order.len());
        let mut connections: Vec<Connection> = folded
            .into_iter()
            .map(|((cell, sources), destinations)| Connection {
                sources: self.members(&sources),
                destinations: self.members(&destinations),
                cell,
            })
            .collect();
        connections.sort_by(|one, two| {
            let key = |of: &Connection| {
                (
                    of.destinations.first().copied(),
                    of.sources.first().copied(),
                )
            };
            key(one)
                .cmp(&key(two))
                .then_with(|| one.cell.cmp(&two.cell))
        });
        (connections, totals)
    }

    /// Groups in an order in which what was found for one serves the next.
    pub(super) fn by_governing(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.groups.len()).collect();
        order.sort_by_key(|group| {
            let end = self.groups.get(*group).and_then(|of| of.ends.first());
            let parts = end.and_then(|end| self.parts.get(*end));
            let class = parts.and_then(|parts| parts.iter().flatten().next());
            class
                .and_then(|(class, _)| self.classes.classes.get(*class))
                .map(|class| class.ingress)
        });
        order
    }

    /// The ends of groups, ascending.
    pub(super) fn members(&self, groups: &[usize]) -> Vec<usize> {
        let groups = groups.iter().filter_map(|group| self.groups.get(*group));
        let mut ends: Vec<usize> = groups.flat_map(|group| &group.ends).copied().collect();
        ends.sort_unstable();
        ends
    }
}

impl Totals {
    const fn add(&mut self, sum: Option<Sum>, pairs: u64) {
        let Some(sum) = sum else { return };
        self.pairs = self.pairs.saturating_add(pairs);
        let of = match sum {
            Sum::All => &mut self.all,
            Sum::Some => &mut self.some,
            Sum::Unknown => &mut self.unknown,
            Sum::None => &mut self.none,
        };
        *of = of.saturating_add(pairs);
    }
}

fn summed(ports: &super::Ports) -> Sum {
    match ports.uniform() {
        Some(Access::Allow) => Sum::All,
        Some(Access::Deny) => Sum::None,
        _ if ports.any(Access::any_allowed) => Sum::Some,
        _ if ports.any(Access::any_unknown) => Sum::Unknown,
        _ => Sum::None,
    }
}

const fn together(one: Sum, two: Sum) -> Sum {
    match (one, two) {
        (Sum::All, Sum::All) => Sum::All,
        (Sum::None, Sum::None) => Sum::None,
        (Sum::Unknown, Sum::Unknown | Sum::None) | (Sum::None, Sum::Unknown) => Sum::Unknown,
        _ => Sum::Some,
    }
}
