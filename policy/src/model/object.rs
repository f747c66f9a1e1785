//! The kinds of objects that the state keeps, and what tells two objects apart.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    AdminPolicy, EndpointSlice, ForeignPolicy, Namespace, NamespacedName, NetworkPolicy, Node, Pod,
    Service, Uid,
};

/// A kind of object that the state keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Kind {
    /// core/v1 Pod.
    Pod,
    /// core/v1 Namespace.
    Namespace,
    /// core/v1 Node.
    Node,
    /// networking.k8s.io/v1 NetworkPolicy.
    NetworkPolicy,
    /// core/v1 Service.
    Service,
    /// discovery.k8s.io/v1 EndpointSlice.
    EndpointSlice,
    /// policy.networking.k8s.io/v1alpha1 AdminNetworkPolicy.
    AdminNetworkPolicy,
    /// policy.networking.k8s.io/v1alpha1 BaselineAdminNetworkPolicy.
    BaselineAdminNetworkPolicy,
    /// policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicy.
    ClusterNetworkPolicy,
    /// cilium.io CiliumNetworkPolicy.
    CiliumNetworkPolicy,
    /// cilium.io CiliumClusterwideNetworkPolicy.
    CiliumClusterwideNetworkPolicy,
    /// Calico's NetworkPolicy.
    CalicoNetworkPolicy,
    /// Calico's GlobalNetworkPolicy.
    CalicoGlobalNetworkPolicy,
}

impl Kind {
    /// Every kind. Those after EndpointSlice are served by some clusters only; where they are not, they are empty.
    pub const ALL: [Self; 13] = [
        Self::Namespace,
        Self::Node,
        Self::NetworkPolicy,
        Self::Pod,
        Self::Service,
        Self::EndpointSlice,
        Self::AdminNetworkPolicy,
        Self::BaselineAdminNetworkPolicy,
        Self::ClusterNetworkPolicy,
        Self::CiliumNetworkPolicy,
        Self::CiliumClusterwideNetworkPolicy,
        Self::CalicoNetworkPolicy,
        Self::CalicoGlobalNetworkPolicy,
    ];

    /// The name in the API, `metadata.kind`. Calico's namespaced kind is `NetworkPolicy`, too.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pod => "Pod",
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::NetworkPolicy | Self::CalicoNetworkPolicy => "NetworkPolicy",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::AdminNetworkPolicy => "AdminNetworkPolicy",
            Self::BaselineAdminNetworkPolicy => "BaselineAdminNetworkPolicy",
            Self::ClusterNetworkPolicy => "ClusterNetworkPolicy",
            Self::CiliumNetworkPolicy => "CiliumNetworkPolicy",
            Self::CiliumClusterwideNetworkPolicy => "CiliumClusterwideNetworkPolicy",
            Self::CalicoGlobalNetworkPolicy => "GlobalNetworkPolicy",
        }
    }
}

/// What identifies an object in the state: kind, namespace (empty for cluster-scoped kinds),
/// name and UID. A delete that names another UID than the one held does nothing: it is about
/// an earlier object of that name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key {
    /// The kind.
    pub kind: Kind,
    /// Namespace (empty if cluster-scoped) and name.
    pub id: NamespacedName,
    /// `metadata.uid`.
    pub uid: Uid,
}

/// An object of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Object {
    /// A Pod.
    Pod(Arc<Pod>),
    /// A Namespace.
    Namespace(Arc<Namespace>),
    /// A Node.
    Node(Arc<Node>),
    /// A NetworkPolicy.
    NetworkPolicy(Arc<NetworkPolicy>),
    /// A Service.
    Service(Arc<Service>),
    /// An EndpointSlice.
    EndpointSlice(Arc<EndpointSlice>),
    /// A policy of the admin or baseline tier.
    AdminPolicy(Arc<AdminPolicy>),
    /// A policy of a CNI's own API.
    ForeignPolicy(Arc<ForeignPolicy>),
}

impl Object {
    /// The key of this object.
    pub fn key(&self) -> Key {
        let (kind, id, uid) = match self {
            Self::Pod(o) => (Kind::Pod, o.id.clone(), &o.uid),
            Self::Namespace(o) => (
                Kind::Namespace,
                NamespacedName::new("", o.name.clone()),
                &o.uid,
            ),
            Self::Node(o) => (Kind::Node, NamespacedName::new("", o.name.clone()), &o.uid),
            Self::NetworkPolicy(o) => (Kind::NetworkPolicy, o.id.clone(), &o.uid),
            Self::Service(o) => (Kind::Service, o.id.clone(), &o.uid),
            Self::EndpointSlice(o) => (Kind::EndpointSlice, o.id.clone(), &o.uid),
            Self::AdminPolicy(o) => (
                o.kind.kind(),
                NamespacedName::new("", o.name.clone()),
                &o.uid,
            ),
            Self::ForeignPolicy(o) => (o.kind.kind(), o.id.clone(), &o.uid),
        };
        Key {
            kind,
            id,
            uid: uid.clone(),
        }
    }
}
