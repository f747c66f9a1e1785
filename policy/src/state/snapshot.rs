//! The immutable half: persistent maps, and every question that can be asked of them.

use std::net::IpAddr;
use std::sync::Arc;

use super::pods::{UidHash, hash};
use super::store::Store;
use super::{IpOwner, RefusedPolicies};
use crate::evaluate::{Connection, Endpoint, Query, Verdict, evaluate, ingress_depends_on_source};
use crate::explain::{Explanation, explain};
use crate::model::{
    AdminPolicy, EndpointSlice, ForeignPolicy, Kind, Labels, Namespace, NamespacedName,
    NetworkPolicy, Node, Object, Pod, Protocol, Service, Uid,
};

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
            nodes: &self.store.nodes,
        }
    }

    /// The verdict with the walk that led to it.
    pub fn explain(&self, query: &Query<'_>) -> Explanation {
        explain(self, query)
    }

    /// Whether a rule may let ingress to this port through for one source and not for another: if not, who the source of a
    /// denied connection is does not matter, everybody is denied. False also for a pod of which no policy speaks, or that is
    /// not held.
    pub fn ingress_depends_on_source(&self, uid: &Uid, protocol: Protocol, port: u16) -> bool {
        self.store
            .pods
            .get(uid)
            .is_some_and(|entry| ingress_depends_on_source(entry, protocol, port))
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

    /// A policy by name.
    pub fn policy_named(&self, id: &NamespacedName) -> Option<&Arc<NetworkPolicy>> {
        self.store.policies.get(id)
    }

    /// This cluster as it is where refused policies do not exist: those of manifests, which the API server will not take.
    #[must_use]
    pub fn without_refused(&self) -> Self {
        let mut store = Store::clone(&self.store);
        store.refused = RefusedPolicies::default();
        Self {
            store: Arc::new(store),
        }
    }

    /// The policies that exist and were refused, by name; see [`State::set_refused_policies`](super::State::set_refused_policies).
    pub fn refused_policies(&self) -> impl Iterator<Item = NamespacedName> {
        self.store.refused.all()
    }

    /// A namespace by name, if its object is known.
    pub fn namespace(&self, name: &str) -> Option<&Arc<Namespace>> {
        self.store.namespaces.get(name)
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
        Kind::ALL
            .into_iter()
            .flat_map(|kind| self.store.objects(kind))
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
            _ => self.store.objects(kind).count(),
        }
    }
}
