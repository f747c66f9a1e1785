//! A cluster sorted for the lints.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::finding::{Posture, Summary};
use super::matching::{Matched, Matching, Namespaces};
use super::rules::is_default_deny;
use super::{Input, Options, Refused};
use crate::evaluate::{End, Endpoint, Isolation, Query, isolation_of};
use crate::model::{
    Direction, Family, NamespacedName, NetworkPolicy, Peer, Pod, Protocol, Selector,
};
use crate::similar::NearMiss;
use crate::state::Snapshot;

/// Where a pod without an address stands for IPv4: only an ipBlock of everything holds it.
pub(crate) const UNKNOWN_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 53));
/// Where a pod without an address stands for IPv6.
pub(crate) const UNKNOWN_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x53));

/// What the lints look at.
pub(crate) struct Cluster<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) refused: &'a [Refused],
    pub(crate) options: &'a Options,
    /// Living pods with a network of their own, by namespace and name; only namespaces that have some.
    pub(crate) governed: BTreeMap<Arc<str>, Vec<&'a Arc<Pod>>>,
    /// Living pods, hostNetwork ones included, by namespace and name; only namespaces that have some.
    pub(crate) living: BTreeMap<Arc<str>, Vec<&'a Arc<Pod>>>,
    /// NetworkPolicies by namespace and name; only namespaces that have some.
    pub(crate) policies: BTreeMap<Arc<str>, Vec<&'a Arc<NetworkPolicy>>>,
    /// Every namespace that there is: by its object, a living pod or a policy.
    pub(crate) namespaces: BTreeSet<Arc<str>>,
    matching: Matching<'a>,
    /// Living pods that the same policies select.
    alike: Vec<Vec<&'a Arc<Pod>>>,
    /// Which of `alike` a policy selects.
    selected: HashMap<NamespacedName, Vec<usize>>,
}

impl<'a> Cluster<'a> {
    pub(crate) fn new(input: Input<'a>, options: &'a Options) -> Self {
        let snapshot = input.snapshot;
        let all: Vec<&Arc<Pod>> = snapshot.pods().filter(|pod| !pod.finished).collect();
        let mut governed: BTreeMap<Arc<str>, Vec<&Arc<Pod>>> = BTreeMap::new();
        let mut living: BTreeMap<Arc<str>, Vec<&Arc<Pod>>> = BTreeMap::new();
        for pod in all.iter().copied() {
            let namespace = || Arc::clone(&pod.id.namespace);
            living.entry(namespace()).or_default().push(pod);
            if !pod.host_network {
                governed.entry(namespace()).or_default().push(pod);
            }
        }
        let mut policies: BTreeMap<Arc<str>, Vec<&Arc<NetworkPolicy>>> = BTreeMap::new();
        for policy in snapshot.policies() {
            let namespace = Arc::clone(&policy.id.namespace);
            policies.entry(namespace).or_default().push(policy);
        }
        let objects = snapshot.namespaces().map(|namespace| &namespace.name);
        let namespaces: BTreeSet<Arc<str>> = objects
            .chain(living.keys())
            .chain(policies.keys())
            .cloned()
            .collect();
        let (alike, selected) = selections(snapshot, &all);
        Self {
            snapshot,
            refused: input.refused,
            options,
            governed,
            living,
            policies,
            matching: Matching::new(snapshot, namespaces.iter().cloned(), all),
            namespaces,
            alike,
            selected,
        }
    }

    /// Whether an option takes NP001 to NP004 off a namespace.
    pub(crate) fn is_exempt(&self, namespace: &str) -> bool {
        let exempt = &self.options.exempt_namespaces;
        exempt.iter().any(|exempt| exempt == namespace)
    }

    /// Every NetworkPolicy, by namespace and name.
    pub(crate) fn all_policies(&self) -> impl Iterator<Item = &'a Arc<NetworkPolicy>> {
        self.policies.values().flatten().copied()
    }

    /// Every living pod with a network of its own, by namespace and name.
    pub(crate) fn all_governed(&self) -> impl Iterator<Item = &'a Arc<Pod>> {
        self.governed.values().flatten().copied()
    }

    /// The policies that select a living pod and have the direction among their effective types, by name. The engine knows
    /// them without a search; hostNetwork pods have those that would isolate them.
    pub(crate) fn isolating(&self, pod: &Pod, direction: Direction) -> &'a [Arc<NetworkPolicy>] {
        isolation(self.snapshot, pod, direction).map_or(&[], |isolation| &isolation.policies)
    }

    /// The living pods that a policy selects, hostNetwork ones included; in no order to rely on but always the same.
    pub(crate) fn selected(&self, policy: &NetworkPolicy) -> impl Iterator<Item = &'a Arc<Pod>> {
        let groups = self.selected.get(&policy.id).into_iter().flatten();
        groups
            .filter_map(|group| self.alike.get(*group))
            .flatten()
            .copied()
    }

    /// The living pods that a peer of a policy in `namespace` selects, hostNetwork ones included, by namespace and name;
    /// none for an ipBlock.
    pub(crate) fn matching(&self, peer: &Peer, namespace: &Arc<str>) -> Matched<'a> {
        self.matching.peer(peer, namespace)
    }

    /// The namespaces that a selector selects, by name.
    pub(crate) fn matching_namespaces(&self, selector: &Selector) -> Namespaces {
        self.matching.namespaces(selector)
    }

    /// What a selector that matches no pod of these namespaces probably means.
    pub(crate) fn pod_near_miss(
        &self,
        selector: &Selector,
        namespaces: &[Arc<str>],
    ) -> Option<NearMiss> {
        self.matching.pod_near_miss(selector, namespaces)
    }

    /// What a selector that matches no namespace probably means.
    pub(crate) fn namespace_near_miss(&self, selector: &Selector) -> Option<NearMiss> {
        self.matching.namespace_near_miss(selector)
    }

    pub(super) fn summary(&self) -> Summary {
        let mut other_policies = BTreeMap::new();
        let admin = self.snapshot.admin_policies().map(|of| of.kind.kind());
        let foreign = self.snapshot.foreign_policies().map(|of| of.kind.kind());
        for kind in admin.chain(foreign) {
            let count: &mut usize = other_policies.entry(kind.name()).or_default();
            *count = count.saturating_add(1);
        }
        Summary {
            network_policies: self.policies.values().map(Vec::len).sum(),
            namespaces_with_policies: self.policies.len(),
            namespaces: self.namespaces.len(),
            governed_pods: self.governed.values().map(Vec::len).sum(),
            other_policies,
            refused: self.refused.len(),
        }
    }

    /// How far each namespace is covered.
    pub(super) fn posture(&self) -> Vec<Posture> {
        let posture = |namespace: &Arc<str>| {
            let pods = self.governed.get(namespace).map_or(&[][..], Vec::as_slice);
            let covered = |direction| {
                let isolated = |pod: &&&Arc<Pod>| !self.isolating(pod, direction).is_empty();
                pods.iter().filter(isolated).count()
            };
            Posture {
                namespace: Arc::clone(namespace),
                policies: self.policies.get(namespace).map_or(0, Vec::len),
                governed_pods: pods.len(),
                default_deny_ingress: self.has_default_deny(namespace, Direction::Ingress),
                default_deny_egress: self.has_default_deny(namespace, Direction::Egress),
                covered_ingress: covered(Direction::Ingress),
                covered_egress: covered(Direction::Egress),
            }
        };
        self.namespaces.iter().map(posture).collect()
    }

    /// Whether a policy isolates every pod of a namespace in a direction.
    pub(super) fn has_default_deny(&self, namespace: &str, direction: Direction) -> bool {
        let policies = self.policies.get(namespace).into_iter().flatten();
        policies
            .into_iter()
            .any(|policy| is_default_deny(policy, direction))
    }
}

/// The first address of a pod of a family. Without any address it stands at an unknown one of either family.
pub(crate) fn address(pod: &Pod, family: Family) -> Option<IpAddr> {
    if pod.ips.is_empty() {
        return Some(match family {
            Family::V4 => UNKNOWN_V4,
            Family::V6 => UNKNOWN_V6,
        });
    }
    let mut of_family = pod.ips.iter().filter(|ip| Family::of(**ip) == family);
    of_family.next().copied()
}

fn isolation<'s>(snapshot: &'s Snapshot, pod: &Pod, direction: Direction) -> Option<&'s Isolation> {
    let connection = snapshot.connection(&Query {
        source: Endpoint::Pod(pod),
        source_ip: UNKNOWN_V4,
        destination: Endpoint::External,
        destination_ip: UNKNOWN_V4,
        protocol: Protocol::Tcp,
        port: 1,
    });
    match connection.source {
        End::Pod(entry) | End::Host(entry) => Some(isolation_of(direction, entry)),
        End::Node(_) | End::External => None,
    }
}

type Selections<'a> = (Vec<Vec<&'a Arc<Pod>>>, HashMap<NamespacedName, Vec<usize>>);

/// Pods that the same policies select, and which of these groups each policy selects. Each policy has an effective
/// type, so those that isolate a pod in one direction or the other are those that select it.
fn selections<'a>(snapshot: &'a Snapshot, pods: &[&'a Arc<Pod>]) -> Selections<'a> {
    let mut alike: Vec<Vec<&Arc<Pod>>> = Vec::new();
    let mut numbers: HashMap<(*const Isolation, *const Isolation), usize> = HashMap::new();
    let mut selected: HashMap<NamespacedName, Vec<usize>> = HashMap::new();
    for pod in pods.iter().copied() {
        let of = |direction| isolation(snapshot, pod, direction);
        let (Some(ingress), Some(egress)) = (of(Direction::Ingress), of(Direction::Egress)) else {
            continue;
        };
        // Pods that the same policies isolate share what isolates them.
        let key = (std::ptr::from_ref(ingress), std::ptr::from_ref(egress));
        let number = *numbers.entry(key).or_insert_with(|| {
            let number = alike.len();
            alike.push(Vec::new());
            let policies = ingress.policies.iter().chain(&egress.policies);
            for policy in policies {
                let groups = selected.entry(policy.id.clone()).or_default();
                if groups.last() != Some(&number) {
                    groups.push(number);
                }
            }
            number
        });
        if let Some(group) = alike.get_mut(number) {
            group.push(pod);
        }
    }
    (alike, selected)
}
