//! The immutable half: persistent maps, and every question that can be asked of them.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::claims::Claims;
use super::pods::{Pods, UidHash, hash};
use super::{IpOwner, RefusedPolicies};
use crate::evaluate::{
    Connection, End, Endpoint, PodEntry, Query, SeenAs, Verdict, evaluate, isolation_of,
};
use crate::explain::{Explanation, explain};
use crate::model::{
    AdminPolicy, Direction, EndpointSlice, Family, ForeignPolicy, Kind, Labels, Namespace,
    NamespacedName, NetworkPolicy, Node, Object, Pod, Protocol, Service, Uid,
};

/// The label that every namespace has, whatever its object says.
pub(crate) const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

type ByName<V> = imbl::OrdMap<NamespacedName, V>;

/// Everything that is known at one moment. Cloning shares structure.
#[derive(Clone, Debug, Default)]
pub(crate) struct Store {
    pub(super) version: u64,
    pub(super) pods: Pods,
    pub(super) pod_names: ByName<Uid>,
    pub(super) policies: ByName<Arc<NetworkPolicy>>,
    pub(crate) refused: RefusedPolicies,
    pub(super) services: ByName<Arc<Service>>,
    pub(super) slices: ByName<Arc<EndpointSlice>>,
    pub(super) admin_policies: imbl::OrdMap<(Kind, Arc<str>), Arc<AdminPolicy>>,
    pub(super) foreign_policies: imbl::OrdMap<(Kind, NamespacedName), Arc<ForeignPolicy>>,
    pub(super) namespaces: imbl::OrdMap<Arc<str>, Arc<Namespace>>,
    pub(super) nodes: imbl::OrdMap<Arc<str>, Arc<Node>>,
    /// Living pods with a network of their own.
    pub(super) pod_ips: Claims<IpAddr, Uid>,
    pub(super) node_ips: Claims<IpAddr, Arc<str>>,
    pub(super) service_ips: Claims<IpAddr, NamespacedName>,
    pub(super) pod_cidrs: Claims<IpNet, Arc<str>>,
    /// How many claims of pod CIDRs there are of each length.
    pub(super) pod_cidr_lengths: imbl::OrdMap<(Family, u8), usize>,
}

impl Store {
    /// A namespace's labels as selectors see them, also if its object is not known (yet).
    pub(crate) fn namespace_labels(&self, name: &Arc<str>) -> Labels {
        let mut labels = match self.namespaces.get(name) {
            Some(namespace) => namespace.labels.clone(),
            None => Labels::new(),
        };
        labels.insert(Arc::from(NAMESPACE_NAME_LABEL), Arc::clone(name));
        labels
    }

    /// The namespaces that hold pods, by name; their objects need not be known.
    pub(super) fn namespaces_of_pods(&self) -> impl Iterator<Item = &Arc<str>> {
        let mut last: Option<&Arc<str>> = None;
        self.pod_names.keys().filter_map(move |id| {
            let new = last != Some(&id.namespace);
            last = Some(&id.namespace);
            new.then_some(&id.namespace)
        })
    }

    /// The pods of a namespace, by name.
    pub(super) fn pods_in(&self, namespace: &Arc<str>) -> impl Iterator<Item = &Arc<PodEntry>> {
        let first = NamespacedName::new(Arc::clone(namespace), "");
        let namespace = Arc::clone(namespace);
        self.pod_names
            .range(first..)
            .take_while(move |(id, _)| id.namespace == namespace)
            .filter_map(|(_, uid)| self.pods.get(uid))
    }

    fn in_pod_cidr(&self, ip: IpAddr) -> bool {
        let family = Family::of(ip);
        self.pod_cidr_lengths
            .keys()
            .filter(|(of, _)| *of == family)
            .any(|(_, length)| {
                IpNet::new(ip, *length).is_ok_and(|net| !self.pod_cidrs.of(&net.trunc()).is_empty())
            })
    }

    fn end<'q>(&self, endpoint: Endpoint<'q>, hash: Option<UidHash>) -> End<'_, 'q> {
        let (Endpoint::Pod(pod), Some(hash)) = (endpoint, hash) else {
            return match endpoint {
                Endpoint::Node(node) => End::Node(node),
                Endpoint::Pod(_) | Endpoint::External => End::External,
            };
        };
        match self.pods.get_hashed(hash, &pod.uid) {
            Some(entry) => match entry.seen_as {
                SeenAs::Pod => End::Pod(entry),
                SeenAs::Host => End::Host(entry),
                SeenAs::Nothing => End::External,
            },
            None => End::External,
        }
    }
}

fn uid_hash(endpoint: Endpoint<'_>) -> Option<UidHash> {
    match endpoint {
        Endpoint::Pod(pod) => Some(hash(&pod.uid)),
        Endpoint::Node(_) | Endpoint::External => None,
    }
}

/// An immutable state of the cluster. Cheap to clone and to keep (structure is shared).
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub(crate) store: Arc<Store>,
}

impl Snapshot {
    /// Grows with every change of the state it came from.
    pub fn version(&self) -> u64 {
        self.store.version
    }

    /// The verdict for a connection; no allocation, no lock.
    pub fn evaluate(&self, query: &Query<'_>) -> Verdict<'_> {
        evaluate(&self.connection(query))
    }

    pub(crate) fn connection<'q>(&self, query: &Query<'q>) -> Connection<'_, 'q> {
        let (source, destination) = (uid_hash(query.source), uid_hash(query.destination));
        Connection {
            source: self.store.end(query.source, source),
            source_ip: query.source_ip.to_canonical(),
            destination: self.store.end(query.destination, destination),
            destination_ip: query.destination_ip.to_canonical(),
            protocol: query.protocol,
            port: query.port,
            refused: &self.store.refused,
        }
    }

    /// The verdict with the walk that led to it.
    pub fn explain(&self, query: &Query<'_>) -> Explanation {
        explain(self, query)
    }

    /// Whether an isolating policy of the pod has an ingress rule for this port: if not, who the source is does not
    /// matter, everybody is denied. False also for a pod that nothing isolates, or that is not held.
    pub fn ingress_depends_on_source(&self, uid: &Uid, protocol: Protocol, port: u16) -> bool {
        self.store.pods.get(uid).is_some_and(|entry| {
            isolation_of(Direction::Ingress, entry)
                .rules
                .iter()
                .any(|rule| {
                    rule.ports.admit_number(protocol, port)
                        || rule.ports.admit_name(protocol, port, &entry.pod)
                })
        })
    }

    /// The owner of an address. Pods on the host network and finished ones own none. A node's
    /// address stays the node's if a Service has it as external address.
    pub fn owner(&self, ip: IpAddr) -> IpOwner {
        let ip = ip.to_canonical();
        let store = &*self.store;
        let pods = store.pod_ips.of(&ip);
        let nodes = store.node_ips.of(&ip);
        match (pods, nodes) {
            ([], []) => {}
            ([uid], []) => {
                return match store.pods.get(uid) {
                    Some(entry) => IpOwner::Pod(Arc::clone(&entry.pod)),
                    None => IpOwner::Nobody,
                };
            }
            ([], [node]) => return IpOwner::Node(Arc::clone(node)),
            _ => return IpOwner::Ambiguous,
        }
        if let Some(service) = store.service_ips.of(&ip).first() {
            return IpOwner::Service(service.clone());
        }
        if store.in_pod_cidr(ip) {
            IpOwner::UnknownInPodCidr
        } else {
            IpOwner::Nobody
        }
    }

    /// A pod by UID.
    pub fn pod(&self, uid: &Uid) -> Option<&Arc<Pod>> {
        self.store.pods.get(uid).map(|entry| &entry.pod)
    }

    /// A pod by name.
    pub fn pod_named(&self, id: &NamespacedName) -> Option<&Arc<Pod>> {
        self.store.pod_names.get(id).and_then(|uid| self.pod(uid))
    }

    /// All pods, by name.
    pub fn pods(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.store
            .pod_names
            .values()
            .filter_map(|uid| self.pod(uid))
    }

    /// All policies, by name.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<NetworkPolicy>> {
        self.store.policies.values()
    }

    /// The policies that exist and were refused, by name; see [`State::set_refused_policies`](super::State::set_refused_policies).
    pub fn refused_policies(&self) -> impl Iterator<Item = NamespacedName> {
        self.store.refused.all()
    }

    /// All namespaces, by name.
    pub fn namespaces(&self) -> impl Iterator<Item = &Arc<Namespace>> {
        self.store.namespaces.values()
    }

    /// All nodes, by name.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.store.nodes.values()
    }

    /// All Services, by name.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.store.services.values()
    }

    /// All EndpointSlices, by name.
    pub fn endpoint_slices(&self) -> impl Iterator<Item = &Arc<EndpointSlice>> {
        self.store.slices.values()
    }

    /// All policies of the admin and baseline tiers, by kind and name.
    pub fn admin_policies(&self) -> impl Iterator<Item = &Arc<AdminPolicy>> {
        self.store.admin_policies.values()
    }

    /// All policies of CNIs' own APIs, by kind and name.
    pub fn foreign_policies(&self) -> impl Iterator<Item = &Arc<ForeignPolicy>> {
        self.store.foreign_policies.values()
    }

    /// The labels of a namespace as selectors see them: `kubernetes.io/metadata.name` is always its name. The namespace's
    /// object need not be known.
    pub fn namespace_labels(&self, name: &Arc<str>) -> Labels {
        self.store.namespace_labels(name)
    }

    /// The policies of CNIs' own APIs that may select a pod: they are not evaluated, and may change what happens to it.
    pub fn foreign_policies_of<'s>(
        &'s self,
        pod: &'s Pod,
    ) -> impl Iterator<Item = &'s Arc<ForeignPolicy>> {
        self.foreign_policies().filter(move |policy| {
            let scope = &policy.scope;
            (!scope.own_namespace || policy.id.namespace == pod.id.namespace)
                && scope.pods.as_ref().is_none_or(|of| of.matches(&pod.labels))
                && scope
                    .namespaces
                    .as_ref()
                    .is_none_or(|of| of.matches(&self.namespace_labels(&pod.id.namespace)))
        })
    }

    /// Every object, kind by kind in the order of [`Kind::ALL`], for keeping a snapshot on
    /// disk; `State::reset` of each kind restores it, together with [`Self::refused_policies`].
    pub fn objects(&self) -> impl Iterator<Item = Object> {
        let store = &*self.store;
        let namespaces = store.namespaces.values().cloned().map(Object::Namespace);
        let nodes = store.nodes.values().cloned().map(Object::Node);
        let policies = self.policies().cloned().map(Object::NetworkPolicy);
        let pods = self.pods().cloned().map(Object::Pod);
        let services = store.services.values().cloned().map(Object::Service);
        let slices = store.slices.values().cloned().map(Object::EndpointSlice);
        namespaces
            .chain(nodes)
            .chain(policies)
            .chain(pods)
            .chain(services)
            .chain(slices)
            .chain(self.admin_policies().cloned().map(Object::AdminPolicy))
            .chain(self.foreign_policies().cloned().map(Object::ForeignPolicy))
    }

    /// How many objects of a kind there are.
    pub fn count(&self, kind: Kind) -> usize {
        match kind {
            Kind::Pod => self.store.pod_names.len(),
            Kind::Namespace => self.store.namespaces.len(),
            Kind::Node => self.store.nodes.len(),
            Kind::NetworkPolicy => self.store.policies.len(),
            Kind::Service => self.store.services.len(),
            Kind::EndpointSlice => self.store.slices.len(),
            Kind::AdminNetworkPolicy
            | Kind::BaselineAdminNetworkPolicy
            | Kind::ClusterNetworkPolicy => {
                let held = self.admin_policies();
                held.filter(|held| held.kind.kind() == kind).count()
            }
            Kind::CiliumNetworkPolicy
            | Kind::CiliumClusterwideNetworkPolicy
            | Kind::CalicoNetworkPolicy
            | Kind::CalicoGlobalNetworkPolicy => {
                let held = self.foreign_policies();
                held.filter(|held| held.kind.kind() == kind).count()
            }
        }
    }
}
