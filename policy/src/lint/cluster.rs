//! A cluster sorted for the lints.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use super::classes::Classes;
use super::dns::Dns;
use super::finding::{Posture, Summary};
use super::matching::{Matching, Namespaces};
use super::rules::{DIRECTIONS, RuleAt, is_default_deny, rules};
use super::{Input, Options, Refused};
use crate::ask::UNKNOWN_V4;
use crate::evaluate::{End, Endpoint, Isolation, Query, isolation_of};
use crate::model::{Direction, NamespacedName, NetworkPolicy, Peer, Pod, Protocol, Selector};
use crate::similar::NearMiss;
use crate::state::Snapshot;

/// What the lints look at.
pub(crate) struct Cluster<'a> {
    pub(super) classes: OnceCell<Classes<'a>>,
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
    /// The policies that select a living pod.
    selecting: BTreeSet<&'a NamespacedName>,
    dns: OnceCell<Dns>,
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
        Self {
            classes: OnceCell::new(),
            snapshot,
            refused: input.refused,
            options,
            governed,
            living,
            policies,
            selecting: selecting(snapshot, &all),
            matching: Matching::new(snapshot, namespaces.iter().cloned(), all),
            namespaces,
            dns: OnceCell::new(),
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

    /// The namespaces with governed pods and a policy of which none isolates every pod in this direction, with those pods;
    /// an option exempts some.
    pub(super) fn without_default_deny(
        &self,
        direction: Direction,
    ) -> impl Iterator<Item = (&Arc<str>, &[&'a Arc<Pod>])> {
        self.governed
            .iter()
            .filter(move |(namespace, _)| {
                self.policies.contains_key(*namespace)
                    && !self.has_default_deny(namespace, direction)
                    && !self.is_exempt(namespace)
            })
            .map(|(namespace, pods)| (namespace, pods.as_slice()))
    }

    /// The governed pods that no policy selects in this direction.
    pub(super) fn not_isolated(
        &self,
        pods: &[&'a Arc<Pod>],
        direction: Direction,
    ) -> impl Iterator<Item = &'a Arc<Pod>> {
        let open = move |pod: &&Arc<Pod>| self.isolating(pod, direction).is_empty();
        pods.iter().copied().filter(open)
    }

    /// Governed pods in groups whose egress verdicts cannot differ, but to the pods and the node that they are themselves.
    /// What holds for the first holds for all.
    pub(super) fn twins(&self) -> impl Iterator<Item = &[&'a Arc<Pod>]> {
        let classes = self.classes().iter();
        classes.filter_map(|(_, class)| class.governed.then_some(class.pods.as_slice()))
    }

    /// The DNS servers.
    pub(super) fn dns(&self) -> &Dns {
        self.dns.get_or_init(|| Dns::new(self))
    }

    /// Every rule of every policy as written, ineffective ones included.
    pub(super) fn rules(&self) -> impl Iterator<Item = RuleAt<'a>> {
        self.all_policies().flat_map(rules)
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

    /// Whether a policy selects a living pod, be it on the host network.
    pub(super) fn selects_some(&self, policy: &NetworkPolicy) -> bool {
        self.selecting.contains(&policy.id)
    }

    /// The first living pod, hostNetwork ones included, by namespace and name, that a peer of a policy in `namespace`
    /// selects; none for an ipBlock.
    pub(super) fn first_of(&self, peer: &Peer, namespace: &Arc<str>) -> Option<&'a Arc<Pod>> {
        self.matching.first(peer, namespace)
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
                let open = self.not_isolated(pods, direction).count();
                pods.len().saturating_sub(open)
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

/// The policies that select one of these pods. Each policy has an effective type, so those that isolate a pod in one
/// direction or the other are those that select it.
fn selecting<'a>(snapshot: &'a Snapshot, pods: &[&'a Arc<Pod>]) -> BTreeSet<&'a NamespacedName> {
    let mut seen: HashSet<*const Isolation> = HashSet::new();
    let mut selecting = BTreeSet::new();
    for pod in pods {
        let isolations = DIRECTIONS
            .into_iter()
            .filter_map(|direction| isolation(snapshot, pod, direction));
        for isolation in isolations {
            // Pods that the same policies isolate share what isolates them.
            if seen.insert(std::ptr::from_ref(isolation)) {
                selecting.extend(isolation.policies.iter().map(|policy| &policy.id));
            }
        }
    }
    selecting
}
