//! What two states of a cluster differ in: which connections a change opens and closes, and which policies do it.

mod responsible;

use std::collections::{BTreeMap, HashMap};

use super::{Access, Cell, Connectivity, End, FAMILIES};
use crate::model::{Direction, Family, Protocol};

pub use responsible::{Edit, Policies, PolicyChange, Responsible};

/// Ports whose verdict changed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PortChange {
    /// For which families.
    pub families: Vec<Family>,
    /// The protocol.
    pub protocol: Protocol,
    /// The first port.
    pub first: u16,
    /// The last port.
    pub last: u16,
    /// What held.
    pub before: Access,
    /// What holds.
    pub after: Access,
}

/// What a change of a verdict comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Effect {
    /// It is allowed now, for all or more pods, and was denied.
    Opened,
    /// It is denied now, for all or more pods, and was allowed.
    Closed,
    /// The API leaves it open now, and did not before.
    BecameUnknown,
    /// It is allowed or denied now, and the API left it open before.
    BecameKnown,
}

impl PortChange {
    /// What it comes to.
    pub fn effect(&self) -> Effect {
        let share = |access: &Access| match access {
            Access::Allow => (1, 0, 0, 1),
            Access::Deny => (0, 1, 0, 1),
            Access::Unknown(_) => (0, 0, 1, 1),
            Access::Mixed(of) => (of.allow, of.deny, of.unknown, of.total()),
        };
        let (before, after) = (share(&self.before), share(&self.after));
        // Fractions, compared without division.
        let more = |one: (u64, u64), two: (u64, u64)| {
            u128::from(one.0) * u128::from(two.1) > u128::from(two.0) * u128::from(one.1)
        };
        let unknown = (before.2, before.3);
        if more((after.2, after.3), unknown) {
            Effect::BecameUnknown
        } else if more(unknown, (after.2, after.3)) {
            Effect::BecameKnown
        } else if more((after.0, after.3), (before.0, before.3)) {
            Effect::Opened
        } else {
            Effect::Closed
        }
    }

    /// Whether something that was denied for sure may be let through now.
    pub fn loosens(&self) -> bool {
        openness(&self.after) > openness(&self.before) || self.effect() == Effect::Opened
    }

    /// Whether something that was allowed for sure may be blocked now.
    pub fn tightens(&self) -> bool {
        openness(&self.after) < openness(&self.before) || self.effect() == Effect::Closed
    }
}

const fn openness(access: &Access) -> u8 {
    match access {
        Access::Deny => 0,
        Access::Unknown(_) | Access::Mixed(_) => 1,
        Access::Allow => 2,
    }
}

/// Every one of these sources to every one of these destinations, both there before and after.
#[derive(Clone, Debug)]
pub struct Change {
    /// Ends of the later state, ascending.
    pub sources: Vec<usize>,
    /// Ends of the later state, ascending.
    pub destinations: Vec<usize>,
    /// What changed.
    pub ports: Vec<PortChange>,
    /// The policies that did it. Empty: the pods or their namespaces changed, not the policies.
    pub responsible: Vec<Responsible>,
    /// How many pairs of different ends, or ends among themselves, these are.
    pub pairs: u64,
}

/// An end that is on one side only.
#[derive(Clone, Debug)]
pub struct OneSided {
    /// Its place among the ends of its side.
    pub end: usize,
    /// How many workloads may connect to it, on some port.
    pub from: u64,
    /// How many workloads it may connect to, on some port.
    pub to: u64,
    /// Whether some address outside may connect to it.
    pub from_outside: bool,
    /// Whether it may connect to some address outside.
    pub to_outside: bool,
}

/// The result.
#[derive(Debug, Default)]
pub struct Difference {
    /// Between ends that are on both sides.
    pub changes: Vec<Change>,
    /// Ends that are new.
    pub new: Vec<OneSided>,
    /// Ends that are gone.
    pub gone: Vec<OneSided>,
    /// How many ends are on both sides.
    pub common: usize,
    /// Policies that were added, removed or changed.
    pub policies: Policies,
}

type Name = (super::EndKind, String, String, String, Option<ipnet::IpNet>);

fn name(end: &End) -> Name {
    (
        end.kind,
        end.namespace.to_string(),
        end.owner.to_string(),
        end.name.to_string(),
        end.block,
    )
}

/// Compares two states; both must have been made with the same `by` and with the blocks of both. `progress` hears of
/// the destinations done and of all.
pub fn compare(
    before: &mut Connectivity,
    after: &mut Connectivity,
    mut progress: impl FnMut(usize, usize),
) -> Difference {
    let policies = Policies::between(before.snapshot(), after.snapshot());
    let places: HashMap<Name, usize> = after
        .ends
        .iter()
        .enumerate()
        .map(|(at, end)| (name(end), at))
        .collect();
    // By place before: the place after.
    let common: Vec<Option<usize>> = before
        .ends
        .iter()
        .map(|end| places.get(&name(end)).copied())
        .collect();
    let mut earlier: Vec<Option<usize>> = vec![None; after.ends.len()];
    for (at, place) in common.iter().enumerate() {
        if let Some(of) = place.and_then(|place| earlier.get_mut(place)) {
            *of = Some(at);
        }
    }
    // By place after: the policies that changed for it. Ends are only alike if these are the same.
    let touched: Vec<Vec<(usize, Direction)>> = after
        .ends
        .iter()
        .zip(&earlier)
        .map(|(end, earlier)| {
            let before_it = earlier.and_then(|at| before.ends.get(at));
            policies.touching(
                before_it.map(|end| (before.snapshot(), end)),
                (after.snapshot(), end),
            )
        })
        .collect();
    let mut marks: HashMap<&[(usize, Direction)], u64> = HashMap::new();
    let mark_of: Vec<u64> = touched
        .iter()
        .zip(&earlier)
        .map(|(touched, earlier)| {
            let next = marks.len() as u64 + 1;
            let mark = *marks.entry(touched.as_slice()).or_insert(next);
            if earlier.is_some() { mark } else { 0 }
        })
        .collect();
    after.group(|at, _| mark_of.get(at).copied().unwrap_or_default());
    let groups_after = after.group_of.clone();
    before.group(|at, _| {
        let place = common.get(at).copied().flatten();
        let group = place.and_then(|place| groups_after.get(place));
        group.map_or(0, |group| *group as u64 + 1)
    });

    // By group before: a pair of ends that stands for it, and the group after.
    let standing: Vec<Option<(usize, usize, usize)>> = before
        .groups
        .iter()
        .map(|group| {
            let first = *group.ends.first()?;
            let place = common.get(first).copied().flatten()?;
            Some((first, place, *groups_after.get(place)?))
        })
        .collect();
    let wanted_before: Vec<bool> = standing.iter().map(Option::is_some).collect();
    let mut wanted_after = vec![false; after.groups.len()];
    for (.., group) in standing.iter().flatten() {
        if let Some(wanted) = wanted_after.get_mut(*group) {
            *wanted = true;
        }
    }
    let mut folded: BTreeMap<(Vec<usize>, usize), Vec<usize>> = BTreeMap::new();
    let mut kinds: Vec<(Vec<PortChange>, Vec<Responsible>)> = Vec::new();
    let mut kind_ids: HashMap<(Vec<PortChange>, Vec<Responsible>), usize> = HashMap::new();
    let mut differing: HashMap<(Cell, Cell), Vec<PortChange>, foldhash::fast::RandomState> =
        HashMap::default();
    // Nearly all pairs are as they were, and most of these are the same two cells: denied before and after.
    let mut unchanged: Option<(Cell, Cell)> = None;
    let order = before.by_governing();
    for (done, destination) in order.iter().enumerate() {
        progress(done, order.len());
        let Some((to_before, to_after, group)) = standing.get(*destination).copied().flatten()
        else {
            continue;
        };
        let old = before.column(*destination, &wanted_before);
        let new = after.column(group, &wanted_after);
        let mut by_kind: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (source, (was, standing)) in old.iter().zip(&standing).enumerate() {
            let Some((from_before, from_after, group)) = *standing else {
                continue;
            };
            let Some(is) = new.get(group).filter(|is| is.is_some() && was.is_some()) else {
                continue;
            };
            if unchanged == Some((*was, *is)) {
                continue;
            }
            let changed = differing
                .entry((*was, *is))
                .or_insert_with(|| difference(before, after, was, is));
            let Some(first) = changed.first() else {
                unchanged = Some((*was, *is));
                continue;
            };
            let responsible = policies.responsible(
                responsible::Pair {
                    before: (before, from_before, to_before),
                    after: (after, from_after, to_after),
                },
                touched.get(from_after).map_or(&[], Vec::as_slice),
                touched.get(to_after).map_or(&[], Vec::as_slice),
                first,
            );
            let kind = (changed.clone(), responsible);
            let next = kinds.len();
            let id = *kind_ids.entry(kind.clone()).or_insert(next);
            if id == next {
                kinds.push(kind);
            }
            by_kind.entry(id).or_default().push(source);
        }
        for (kind, sources) in by_kind {
            folded
                .entry((sources, kind))
                .or_default()
                .push(*destination);
        }
    }
    progress(order.len(), order.len());

    let place = |ends: Vec<usize>| {
        let mut ends: Vec<usize> = ends
            .into_iter()
            .filter_map(|end| common.get(end).copied().flatten())
            .collect();
        ends.sort_unstable();
        ends
    };
    let mut changes: Vec<Change> = folded
        .into_iter()
        .filter_map(|((sources, kind), destinations)| {
            let (ports, responsible) = kinds.get(kind)?.clone();
            let sources = place(before.members(&sources));
            let destinations = place(before.members(&destinations));
            let itself = sources
                .iter()
                .filter(|end| destinations.binary_search(end).is_ok())
                .filter(|end| after.ends.get(**end).is_some_and(|end| !end.has_others()))
                .count();
            let pairs = sources.len().saturating_mul(destinations.len());
            Some(Change {
                pairs: pairs.saturating_sub(itself) as u64,
                sources,
                destinations,
                ports,
                responsible,
            })
        })
        .collect();
    changes.sort_by(|one, two| {
        (&one.destinations, &one.sources).cmp(&(&two.destinations, &two.sources))
    });
    let gone: Vec<bool> = common.iter().map(Option::is_none).collect();
    let new: Vec<bool> = earlier.iter().map(Option::is_none).collect();
    Difference {
        changes,
        gone: one_sided(before, &gone),
        new: one_sided(after, &new),
        common: common.iter().flatten().count(),
        policies,
    }
}

impl End {
    /// Whether there is another pod of it for each, or may be.
    fn has_others(&self) -> bool {
        self.pods.len() > 1 || self.has_replicas()
    }
}

/// Where two cells differ, families together where they do so alike.
fn difference(
    before: &Connectivity,
    after: &Connectivity,
    was: &Cell,
    is: &Cell,
) -> Vec<PortChange> {
    let mut changes: Vec<PortChange> = Vec::new();
    for ((family, was), is) in FAMILIES.into_iter().zip(was.families).zip(is.families) {
        let was = was.and_then(|id| before.ports(id));
        let is = is.and_then(|id| after.ports(id));
        let (Some(was), Some(is)) = (was, is) else {
            continue;
        };
        let mut of_family: Vec<PortChange> = Vec::new();
        for (protocol, first, last, before, after) in was.beside(is) {
            if !differs(before, after) {
                continue;
            }
            match of_family.last_mut() {
                Some(run)
                    if run.protocol == protocol
                        && run.last.checked_add(1) == Some(first)
                        && run.before == before
                        && run.after == after =>
                {
                    run.last = last;
                }
                _ => of_family.push(PortChange {
                    families: vec![family],
                    protocol,
                    first,
                    last,
                    before,
                    after,
                }),
            }
        }
        for change in of_family {
            let same = changes.iter_mut().find(|of| {
                (of.protocol, of.first, of.last) == (change.protocol, change.first, change.last)
                    && of.before == change.before
                    && of.after == change.after
            });
            match same {
                Some(of) => of.families.push(family),
                None => changes.push(change),
            }
        }
    }
    changes
}

/// Counts are compared only if they count the same number of pairs: more pods of a workload are no change.
fn differs(before: Access, after: Access) -> bool {
    match (before, after) {
        (Access::Mixed(one), Access::Mixed(two)) => one.total() == two.total() && one != two,
        (one, two) => one != two,
    }
}

fn one_sided(of: &mut Connectivity, wanted: &[bool]) -> Vec<OneSided> {
    let mut found: BTreeMap<usize, OneSided> = BTreeMap::new();
    for (end, _) in wanted.iter().enumerate().filter(|(_, wanted)| **wanted) {
        if !of.is_outside(end) {
            let none = OneSided {
                end,
                from: 0,
                to: 0,
                from_outside: false,
                to_outside: false,
            };
            found.insert(end, none);
        }
    }
    if found.is_empty() {
        return Vec::new();
    }
    let is = |end: usize| wanted.get(end).copied().unwrap_or_default();
    let filter = super::Filter {
        either: (0..of.ends.len()).map(is).collect(),
        ..Default::default()
    };
    let (connections, _) = of.fold(&filter, |ports| ports.any(Access::any_allowed), |_, _| {});
    for connection in &connections {
        for (these, others, inward) in [
            (&connection.destinations, &connection.sources, true),
            (&connection.sources, &connection.destinations, false),
        ] {
            let outside = others.iter().filter(|end| of.is_outside(**end)).count();
            let inside = others.len().saturating_sub(outside);
            for end in these {
                let Some(of_end) = found.get_mut(end) else {
                    continue;
                };
                let itself = usize::from(others.binary_search(end).is_ok());
                let inside = inside.saturating_sub(itself) as u64;
                if inward {
                    of_end.from = of_end.from.saturating_add(inside);
                    of_end.from_outside |= outside > 0;
                } else {
                    of_end.to = of_end.to.saturating_add(inside);
                    of_end.to_outside |= outside > 0;
                }
            }
        }
    }
    found.into_values().collect()
}
