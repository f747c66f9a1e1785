//! All that is known at one moment, in persistent maps: a copy shares what did not change.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::RefusedPolicies;
use super::claims::Claims;
use super::pods::{Pods, UidHash};
use crate::evaluate::{End, Endpoint, PodEntry, SeenAs};
use crate::model::NAMESPACE_NAME_LABEL;
use crate::model::{
    AdminPolicy, EndpointSlice, Family, ForeignPolicy, Kind, Labels, Namespace, NamespacedName,
    NetworkPolicy, Node, Object, Protocol, Service, Uid,
};

type ByName<V> = imbl::OrdMap<NamespacedName, V>;

/// Of several kinds, by kind and name.
type ByKind<V> = imbl::OrdMap<(Kind, NamespacedName), V>;

fn of_kind<V>(held: &ByKind<V>, kind: Kind) -> impl Iterator<Item = &V> {
    held.range((kind, NamespacedName::new("", ""))..)
        .take_while(move |((of, _), _)| *of == kind)
        .map(|(_, held)| held)
}

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
    pub(super) admin_policies: ByKind<Arc<AdminPolicy>>,
    pub(super) foreign_policies: ByKind<Arc<ForeignPolicy>>,
    pub(super) namespaces: imbl::OrdMap<Arc<str>, Arc<Namespace>>,
    pub(super) nodes: imbl::OrdMap<Arc<str>, Arc<Node>>,
    /// Living pods with a network of their own.
    pub(super) pod_ips: Claims<IpAddr, Uid>,
    pub(super) node_ips: Claims<IpAddr, Arc<str>>,
    pub(super) service_ips: Claims<IpAddr, NamespacedName>,
    /// The Services that have a node port.
    pub(super) node_ports: Claims<(Protocol, u16), NamespacedName>,
    /// The EndpointSlices of a Service.
    pub(super) service_slices: Claims<NamespacedName, NamespacedName>,
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

    /// The objects of a kind, by name.
    pub(super) fn objects(&self, kind: Kind) -> Box<dyn Iterator<Item = Object> + '_> {
        match kind {
            Kind::Pod => Box::new(
                self.pod_names
                    .values()
                    .filter_map(|uid| self.pods.get(uid))
                    .map(|entry| Object::Pod(Arc::clone(&entry.pod))),
            ),
            Kind::Namespace => Box::new(self.namespaces.values().cloned().map(Object::Namespace)),
            Kind::Node => Box::new(self.nodes.values().cloned().map(Object::Node)),
            Kind::NetworkPolicy => {
                Box::new(self.policies.values().cloned().map(Object::NetworkPolicy))
            }
            Kind::Service => Box::new(self.services.values().cloned().map(Object::Service)),
            Kind::EndpointSlice => {
                Box::new(self.slices.values().cloned().map(Object::EndpointSlice))
            }
            Kind::AdminNetworkPolicy
            | Kind::BaselineAdminNetworkPolicy
            | Kind::ClusterNetworkPolicy => Box::new(
                of_kind(&self.admin_policies, kind)
                    .cloned()
                    .map(Object::AdminPolicy),
            ),
            Kind::CiliumNetworkPolicy
            | Kind::CiliumClusterwideNetworkPolicy
            | Kind::CalicoNetworkPolicy
            | Kind::CalicoGlobalNetworkPolicy => Box::new(
                of_kind(&self.foreign_policies, kind)
                    .cloned()
                    .map(Object::ForeignPolicy),
            ),
        }
    }

    /// The UID of the object held under a name.
    pub(super) fn held(&self, kind: Kind, id: &NamespacedName) -> Option<&Uid> {
        match kind {
            Kind::Pod => self.pod_names.get(id),
            Kind::Namespace => self.namespaces.get(&id.name).map(|held| &held.uid),
            Kind::Node => self.nodes.get(&id.name).map(|held| &held.uid),
            Kind::NetworkPolicy => self.policies.get(id).map(|held| &held.uid),
            Kind::Service => self.services.get(id).map(|held| &held.uid),
            Kind::EndpointSlice => self.slices.get(id).map(|held| &held.uid),
            Kind::AdminNetworkPolicy
            | Kind::BaselineAdminNetworkPolicy
            | Kind::ClusterNetworkPolicy => {
                let held = self.admin_policies.get(&(kind, id.clone()));
                held.map(|held| &held.uid)
            }
            Kind::CiliumNetworkPolicy
            | Kind::CiliumClusterwideNetworkPolicy
            | Kind::CalicoNetworkPolicy
            | Kind::CalicoGlobalNetworkPolicy => {
                let held = self.foreign_policies.get(&(kind, id.clone()));
                held.map(|held| &held.uid)
            }
        }
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

    pub(super) fn in_pod_cidr(&self, ip: IpAddr) -> bool {
        let family = Family::of(ip);
        self.pod_cidr_lengths
            .keys()
            .filter(|(of, _)| *of == family)
            .any(|(_, length)| {
                IpNet::new(ip, *length).is_ok_and(|net| !self.pod_cidrs.of(&net.trunc()).is_empty())
            })
    }

    pub(super) fn end<'q>(&self, endpoint: Endpoint<'q>, hash: Option<UidHash>) -> End<'_, 'q> {
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
