//! Who may talk to whom: the verdict for every pair of workloads and every port.
//!
//! ```text
//! Snapshot --rules--> what policies can tell apart --classes--> pods that look alike
//!                                                                  | halves: Snapshot::evaluate, once a look
//!                          ends (workloads, outside) --groups--> columns of cells --fold--> connections
//!                                                                          \--change--> what two states differ in
//! ```
//!
//! It refuses to know what a rule does: which pods and ports a policy can tell apart is read from the policies, and
//! the verdicts are the engine's. Nothing of the size of all pairs is kept; columns are made and forgotten.

mod change;
mod classes;
mod columns;
mod ends;
mod fold;
mod halves;
mod outside;
mod own_node;
mod ports;
mod rules;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use ipnet::IpNet;

use classes::Classes;
use columns::Rows;
use ports::Cells;

pub use change::{
    Change, Difference, Edit, Effect, OneSided, Policies, PolicyChange, PortChange, Responsible,
    compare,
};
pub use ends::{By, End, EndKind};
pub use fold::{Connection, Filter, Totals};
pub use outside::blocks;
pub use own_node::OwnNode;
pub use ports::{Access, CellId, Counts, PROTOCOLS, Ports, Segment};

use crate::ask::address;
use crate::model::Family;
use crate::state::Snapshot;

/// The families, in the order in which cells hold them.
pub const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What an end is.
    pub by: By,
    /// Blocks that cut the addresses outside, beside those of the policies; see [`blocks`].
    pub blocks: BTreeSet<IpNet>,
}

/// The verdict of a pair of ends, IPv4 and IPv6; `None` for a family that they do not share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cell {
    /// By [`FAMILIES`].
    pub families: [Option<CellId>; 2],
}

impl Cell {
    /// Whether there is a verdict at all.
    pub const fn is_some(&self) -> bool {
        let [v4, v6] = self.families;
        v4.is_some() || v6.is_some()
    }
}

/// Classes with their numbers of pods.
type Parts = Vec<(usize, u64)>;

/// Ends with the same verdicts towards all others, and among each other.
#[derive(Clone, Debug)]
struct Group {
    ends: Vec<usize>,
}

/// The connectivity of a cluster. Verdicts are found when they are asked for, and kept.
#[derive(Debug)]
pub struct Connectivity {
    snapshot: Snapshot,
    classes: Classes,
    cells: Cells,
    ends: Vec<End>,
    /// By end and family.
    parts: Vec<[Parts; 2]>,
    groups: Vec<Group>,
    group_of: Vec<usize>,
    rows: Rows,
}

impl Connectivity {
    /// Sorts the pods into ends and classes.
    pub fn of(snapshot: &Snapshot, options: &Options) -> Self {
        let mut classes = Classes::of(snapshot);
        let mut ends: Vec<End> = ends::of(snapshot, options.by);
        let families = families(snapshot, &ends, options);
        let mut parts: Vec<[Parts; 2]> = Vec::with_capacity(ends.len());
        for end in &ends {
            let mut of_end: [Parts; 2] = Default::default();
            for (family, parts) in families.iter().zip(&mut of_end) {
                let Some(family) = family else { continue };
                let mut counts: HashMap<usize, u64> = HashMap::new();
                for pod in &end.pods {
                    if let Some(ip) = address(pod, *family) {
                        let class = classes.pod(snapshot, pod, ip);
                        *counts.entry(class).or_default() += 1;
                    }
                }
                *parts = counts.into_iter().collect();
                parts.sort_unstable();
            }
            parts.push(of_end);
        }
        for family in families.into_iter().flatten() {
            for region in outside::regions(snapshot, options, family) {
                let class = classes.outside(region.address);
                ends.push(End::outside(region.net, region.except));
                let only = vec![(class, 1)];
                parts.push(match family {
                    Family::V4 => [only, Parts::new()],
                    Family::V6 => [Parts::new(), only],
                });
            }
        }
        let mut connectivity = Self {
            snapshot: snapshot.clone(),
            classes,
            cells: Cells::new(),
            ends,
            parts,
            groups: Vec::new(),
            group_of: Vec::new(),
            rows: Rows::default(),
        };
        connectivity.rows = Rows::of(&connectivity.classes);
        connectivity.group(|_, _| 0);
        connectivity
    }

    /// All ends: workloads by namespace and name, then what is outside. Their places are what other calls name them by.
    pub fn ends(&self) -> &[End] {
        &self.ends
    }

    /// The objects that it is about.
    pub const fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// How many groups of ends there are that differ in something.
    pub const fn group_count(&self) -> usize {
        self.groups.len()
    }

    /// What a cell's number stands for.
    pub fn ports(&self, id: CellId) -> Option<&Arc<Ports>> {
        self.cells.get(id)
    }

    /// The families of a cell, those with one verdict together.
    pub fn verdicts(&self, cell: &Cell) -> Vec<(Vec<Family>, Arc<Ports>)> {
        let mut found: Vec<(Vec<Family>, Arc<Ports>)> = Vec::new();
        let mut last = None;
        for (family, id) in FAMILIES.into_iter().zip(cell.families) {
            let Some(ports) = id.and_then(|id| self.ports(id)) else {
                continue;
            };
            match found.last_mut() {
                Some((families, _)) if last == id => families.push(family),
                _ => found.push((vec![family], Arc::clone(ports))),
            }
            last = id;
        }
        found
    }

    /// The verdict between two ends: between different pods, and where one is on the host's network between different
    /// nodes: pairs on one node count as if they were on two (see [`Self::own_node`]). `None` where there is no such pair: both outside, no family in common, or a
    /// single pod and itself.
    pub fn cell(&mut self, source: usize, destination: usize) -> Cell {
        let mut cell = Cell::default();
        for at in 0..2 {
            let found = self.part_cell(source, destination, at);
            if let Some(family) = cell.families.get_mut(at) {
                *family = found;
            }
        }
        cell
    }

    fn part_cell(&mut self, source: usize, destination: usize, at: usize) -> Option<CellId> {
        let from = self.parts.get(source)?.get(at)?.clone();
        let to = self.parts.get(destination)?.get(at)?.clone();
        if self.is_outside(source) && self.is_outside(destination) {
            return None;
        }
        let mut weighted = Vec::with_capacity(from.len().saturating_mul(to.len()));
        for (a, left) in &from {
            for (b, right) in &to {
                let pairs = pairs(source == destination && a == b, *left, *right);
                if pairs > 0 || self.has_twin(source, destination, &from, &to) {
                    let id = self.class_cell(*a, *b)?;
                    weighted.push((id, pairs.max(1)));
                }
            }
        }
        self.cells.sum(&weighted)
    }

    /// A workload of one pod may have another tomorrow, and their verdict is asked for; a pod by itself may not.
    fn has_twin(&self, source: usize, destination: usize, from: &Parts, to: &Parts) -> bool {
        let single = |parts: &Parts| matches!(parts.as_slice(), [(_, 1)]);
        source == destination
            && single(from)
            && single(to)
            && self.ends.get(source).is_some_and(End::has_replicas)
    }

    fn class_cell(&mut self, a: usize, b: usize) -> Option<CellId> {
        self.classes
            .both(&self.snapshot, &mut self.cells, a, b, false)
    }

    fn is_outside(&self, end: usize) -> bool {
        self.ends
            .get(end)
            .is_some_and(|end| end.kind == EndKind::Outside)
    }

    /// Puts ends together whose verdicts are the same, and whose mark is.
    fn group(&mut self, mut mark: impl FnMut(usize, &End) -> u64) {
        let mut known: HashMap<(Option<usize>, Option<usize>, u64), usize> = HashMap::new();
        self.groups.clear();
        self.group_of.clear();
        for (at, (end, [v4, v6])) in self.ends.iter().zip(&self.parts).enumerate() {
            let only = |parts: &Parts| match parts.as_slice() {
                [] => Some(None),
                [(class, _)] => Some(Some(*class)),
                _ => None,
            };
            let next = self.groups.len();
            let group = match (only(v4), only(v6)) {
                (Some(v4), Some(v6)) => *known.entry((v4, v6, mark(at, end))).or_insert(next),
                // Pods that differ: the counts are this end's own.
                _ => next,
            };
            match self.groups.get_mut(group) {
                Some(group) => group.ends.push(at),
                None => self.groups.push(Group { ends: vec![at] }),
            }
            self.group_of.push(group);
        }
    }

    /// The verdicts of the wanted groups towards one, by group.
    fn column(&mut self, destination: usize, wanted: &[bool]) -> Vec<Cell> {
        let mut column = vec![Cell::default(); self.groups.len()];
        let Some(to) = self
            .groups
            .get(destination)
            .and_then(|of| of.ends.first())
            .copied()
        else {
            return column;
        };
        for at in 0..2 {
            let Some(parts) = self.parts.get(to).and_then(|of| of.get(at)).cloned() else {
                continue;
            };
            let by_class: Vec<Vec<Option<CellId>>> = parts
                .iter()
                .map(|(class, _)| self.class_column(*class))
                .collect();
            if by_class.is_empty() {
                continue;
            }
            let mut weighted: Vec<(CellId, u64)> = Vec::new();
            for (group, wanted) in (0..self.groups.len()).zip(wanted) {
                let Some(of) = self.groups.get(group).filter(|_| *wanted) else {
                    continue;
                };
                let (Some(from), several) = (of.ends.first().copied(), of.ends.len() > 1) else {
                    continue;
                };
                let Some(sources) = self.parts.get(from).and_then(|of| of.get(at)) else {
                    continue;
                };
                let found = if group == destination && !several {
                    self.part_cell(from, to, at)
                } else if let ([(a, _)], [only]) = (sources.as_slice(), by_class.as_slice()) {
                    only.get(*a).copied().flatten()
                } else {
                    weighted.clear();
                    for (a, left) in sources {
                        for ((_, right), cells) in parts.iter().zip(&by_class) {
                            let id = cells.get(*a).copied().flatten();
                            weighted.extend(id.map(|id| (id, left.saturating_mul(*right))));
                        }
                    }
                    self.cells.sum(&weighted)
                };
                if let Some(family) = column.get_mut(group).and_then(|of| of.families.get_mut(at)) {
                    *family = found;
                }
            }
        }
        column
    }
}

const fn pairs(same: bool, left: u64, right: u64) -> u64 {
    if same {
        left.saturating_mul(right.saturating_sub(1))
    } else {
        left.saturating_mul(right)
    }
}

/// The families that pods have; those that policies speak of if pods have no addresses at all.
fn families(snapshot: &Snapshot, ends: &[End], options: &Options) -> [Option<Family>; 2] {
    let addresses = || {
        ends.iter()
            .flat_map(|end| &end.pods)
            .flat_map(|pod| &pod.ips)
    };
    let without = ends
        .iter()
        .flat_map(|end| &end.pods)
        .any(|pod| pod.ips.is_empty());
    let v6_named = || {
        let mut named = blocks(snapshot);
        named.extend(&options.blocks);
        named.iter().any(|net| Family::of(net.addr()) == Family::V6)
    };
    let v6 = addresses().any(|ip| Family::of(ip.to_canonical()) == Family::V6)
        || (without && v6_named());
    let v4 = !v6 || without || addresses().any(|ip| Family::of(ip.to_canonical()) == Family::V4);
    [v4.then_some(Family::V4), v6.then_some(Family::V6)]
}
