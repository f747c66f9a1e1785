//! Which changed policies made a verdict change.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{
    super::{Connectivity, End, address},
    PortChange,
};
use crate::evaluate::{Decision, DirectionVerdict, Endpoint, Query};
use crate::model::{
    AdminPolicy, Direction, Kind, Labels, NamespacedName, NetworkPolicy, Pod, Subject,
};
use crate::state::Snapshot;

/// What happened to a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Edit {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// Its spec is another.
    Changed,
}

/// A policy that changed, and in which direction that made the difference.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Responsible {
    /// Its place in [`Policies::changes`].
    pub policy: usize,
    /// Egress of the source or ingress of the destination.
    pub direction: Direction,
}

/// A policy that was added, removed or changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyChange {
    /// Its kind.
    pub kind: Kind,
    /// Namespace (empty if cluster-scoped) and name.
    pub id: NamespacedName,
    /// What happened to it.
    pub edit: Edit,
    before: Option<Version>,
    after: Option<Version>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Version {
    Namespaced(Arc<NetworkPolicy>),
    Admin(Arc<AdminPolicy>),
}

impl Version {
    /// Whether both mean the same: who wrote it, when and how is of no account.
    fn means(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Namespaced(one), Self::Namespaced(two)) => {
                one.pod_selector == two.pod_selector
                    && (one.isolates_ingress, one.isolates_egress)
                        == (two.isolates_ingress, two.isolates_egress)
                    && one.ingress == two.ingress
                    && one.egress == two.egress
            }
            (Self::Admin(one), Self::Admin(two)) => {
                (one.tier, one.priority) == (two.tier, two.priority)
                    && one.subject == two.subject
                    && one.ingress == two.ingress
                    && one.egress == two.egress
            }
            _ => false,
        }
    }

    /// Whether it says something of a pod in this direction.
    fn governs(&self, namespace: &Labels, pod: &Pod, direction: Direction) -> bool {
        match self {
            Self::Namespaced(policy) => {
                let isolates = match direction {
                    Direction::Ingress => policy.isolates_ingress,
                    Direction::Egress => policy.isolates_egress,
                };
                isolates
                    && policy.id.namespace == pod.id.namespace
                    && policy.pod_selector.matches(&pod.labels)
            }
            Self::Admin(policy) => {
                let rules = match direction {
                    Direction::Ingress => &policy.ingress,
                    Direction::Egress => &policy.egress,
                };
                !rules.is_empty()
                    && match &policy.subject {
                        Subject::Namespaces(of) => of.matches(namespace),
                        Subject::Pods { namespaces, pods } => {
                            namespaces.matches(namespace) && pods.matches(&pod.labels)
                        }
                    }
            }
        }
    }
}

/// All policies that were added, removed or changed, by kind and name.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    /// Them.
    pub changes: Vec<PolicyChange>,
}

/// A pair of ends in both states: (state, source, destination).
#[derive(Clone, Copy)]
pub(super) struct Pair<'a> {
    pub(super) before: (&'a Connectivity, usize, usize),
    pub(super) after: (&'a Connectivity, usize, usize),
}

const DIRECTIONS: [Direction; 2] = [Direction::Egress, Direction::Ingress];

fn versions(snapshot: &Snapshot) -> BTreeMap<(Kind, NamespacedName), Version> {
    let namespaced = snapshot.policies().map(|policy| {
        let version = Version::Namespaced(Arc::clone(policy));
        ((Kind::NetworkPolicy, policy.id.clone()), version)
    });
    let admin = snapshot.admin_policies().map(|policy| {
        let id = NamespacedName::new("", Arc::clone(&policy.name));
        let version = Version::Admin(Arc::clone(policy));
        ((policy.kind.kind(), id), version)
    });
    namespaced.chain(admin).collect()
}

impl Policies {
    pub(super) fn between(before: &Snapshot, after: &Snapshot) -> Self {
        let (mut old, new) = (versions(before), versions(after));
        let mut changes = Vec::new();
        for ((kind, id), after) in new {
            let before = old.remove(&(kind, id.clone()));
            let edit = match &before {
                None => Edit::Added,
                Some(before) if before.means(&after) => continue,
                Some(_) => Edit::Changed,
            };
            changes.push(PolicyChange {
                kind,
                id,
                edit,
                before,
                after: Some(after),
            });
        }
        changes.extend(old.into_iter().map(|((kind, id), before)| PolicyChange {
            kind,
            id,
            edit: Edit::Removed,
            before: Some(before),
            after: None,
        }));
        changes.sort_by(|one, two| (one.kind, &one.id).cmp(&(two.kind, &two.id)));
        Self { changes }
    }

    /// The changed policies that govern some pod of an end, before or after.
    pub(super) fn touching(
        &self,
        before: Option<(&Snapshot, &End)>,
        after: (&Snapshot, &End),
    ) -> Vec<(usize, Direction)> {
        let mut found = Vec::new();
        let labels = [before, Some(after)].map(|side| {
            side.map(|(snapshot, end)| (snapshot.namespace_labels(&end.namespace), end))
        });
        for (at, change) in self.changes.iter().enumerate() {
            for direction in DIRECTIONS {
                let governs =
                    labels
                        .iter()
                        .zip([&change.before, &change.after])
                        .any(|(side, version)| {
                            let (Some((labels, end)), Some(version)) = (side, version) else {
                                return false;
                            };
                            end.pods
                                .iter()
                                .any(|pod| version.governs(labels, pod, direction))
                        });
                if governs {
                    found.push((at, direction));
                }
            }
        }
        found
    }

    /// Those that made a port's verdict change, as far as the engine's reasons name them; else all that changed for
    /// the end whose half of the verdict did.
    pub(super) fn responsible(
        &self,
        pair: Pair<'_>,
        source: &[(usize, Direction)],
        destination: &[(usize, Direction)],
        change: &PortChange,
    ) -> Vec<Responsible> {
        let old = Asked::of(pair.before, change);
        let new = Asked::of(pair.after, change);
        let mut found = Vec::new();
        for direction in DIRECTIONS {
            let touched = match direction {
                Direction::Egress => source,
                Direction::Ingress => destination,
            };
            let candidates: Vec<usize> = touched
                .iter()
                .filter(|(_, of)| *of == direction)
                .map(|(at, _)| *at)
                .collect();
            let (Some(old), Some(new)) = (&old, &new) else {
                found.extend(candidates.iter().map(|policy| (*policy, direction)));
                continue;
            };
            let was = old.verdict(direction);
            let is = new.verdict(direction);
            if was.expectation == is.expectation && old.is_whole && new.is_whole {
                continue;
            }
            // What decides now, or decided before, if it is one that changed.
            let deciding = |verdict: &DirectionVerdict<'_>| self.deciding(verdict, &candidates);
            let named = if change.loosens() {
                deciding(&is).or_else(|| deciding(&was))
            } else {
                deciding(&was).or_else(|| deciding(&is))
            };
            match named {
                Some(policy) if old.is_whole && new.is_whole => found.push((policy, direction)),
                _ => found.extend(candidates.iter().map(|policy| (*policy, direction))),
            }
        }
        let mut found: Vec<Responsible> = found
            .into_iter()
            .map(|(policy, direction)| Responsible { policy, direction })
            .collect();
        found.sort();
        found.dedup();
        found
    }

    fn deciding(&self, verdict: &DirectionVerdict<'_>, candidates: &[usize]) -> Option<usize> {
        let is = |kind: Kind, id: &NamespacedName| {
            let changes = candidates.iter().copied();
            changes
                .filter_map(|at| Some((at, self.changes.get(at)?)))
                .find(|(_, of)| of.kind == kind && of.id == *id)
                .map(|(at, _)| at)
        };
        match &verdict.decision {
            Decision::Rule(of) => is(Kind::NetworkPolicy, &of.policy.id),
            Decision::Admin(of) => {
                let id = NamespacedName::new("", Arc::clone(&of.policy.name));
                is(of.policy.kind.kind(), &id)
            }
            Decision::NotGoverned | Decision::NotIsolated | Decision::Exempt | Decision::NoRule => {
                None
            }
        }
    }
}

/// One pair of pods that stands for two ends.
struct Asked<'a> {
    verdict: crate::evaluate::Verdict<'a>,
    /// Whether all pods of both ends are like it.
    is_whole: bool,
}

impl<'a> Asked<'a> {
    fn of(
        (state, source, destination): (&'a Connectivity, usize, usize),
        change: &PortChange,
    ) -> Option<Self> {
        let family = *change.families.first()?;
        let (from, to) = (state.ends().get(source)?, state.ends().get(destination)?);
        let one = |end: &End, at: usize| {
            let pods = end.pods.iter();
            let pod = pods
                .filter_map(|pod| Some((Some(Arc::clone(pod)), address(pod, family)?)))
                .nth(at);
            pod.or_else(|| Some((None, state.outside_address(end)?)))
        };
        let (pod_from, source_ip) = one(from, 0)?;
        let (pod_to, destination_ip) = one(to, usize::from(source == destination))?;
        let verdict = state.snapshot().evaluate(&Query {
            source: pod_from
                .as_deref()
                .map_or(Endpoint::External, Endpoint::Pod),
            source_ip,
            destination: pod_to.as_deref().map_or(Endpoint::External, Endpoint::Pod),
            destination_ip,
            protocol: change.protocol,
            port: change.first,
        });
        Some(Self {
            verdict,
            is_whole: state.is_uniform(source) && state.is_uniform(destination),
        })
    }

    const fn verdict(&self, direction: Direction) -> DirectionVerdict<'a> {
        match direction {
            Direction::Egress => self.verdict.egress,
            Direction::Ingress => self.verdict.ingress,
        }
    }
}

impl Connectivity {
    /// An address of an end outside.
    fn outside_address(&self, end: &End) -> Option<std::net::IpAddr> {
        let at = self
            .ends
            .iter()
            .position(|of| of.block.is_some() && of.block == end.block)?;
        let (class, _) = self.parts.get(at)?.iter().flatten().next()?;
        let class = self.classes.classes.get(*class)?;
        // The class may hold other regions, too, which look the same to every policy.
        Some(class.members.first()?.ip)
    }

    /// Whether all pods of an end are alike.
    fn is_uniform(&self, end: usize) -> bool {
        self.parts
            .get(end)
            .is_some_and(|parts| parts.iter().all(|of| of.len() <= 1))
    }
}
