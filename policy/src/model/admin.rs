//! The admin and baseline tiers: AdminNetworkPolicy and BaselineAdminNetworkPolicy
//! (policy.networking.k8s.io/v1alpha1), ClusterNetworkPolicy (v1alpha2).

use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Kind, PortMatch, Protocol, Selector, Uid};

/// Which API kind an [`AdminPolicy`] was written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum AdminKind {
    /// v1alpha1 AdminNetworkPolicy: always the admin tier.
    AdminNetworkPolicy,
    /// v1alpha1 BaselineAdminNetworkPolicy: always the baseline tier; one in a cluster, named `default`.
    BaselineAdminNetworkPolicy,
    /// v1alpha2 ClusterNetworkPolicy: names its tier.
    ClusterNetworkPolicy,
}

impl AdminKind {
    /// Its kind in the state.
    pub const fn kind(self) -> Kind {
        match self {
            Self::AdminNetworkPolicy => Kind::AdminNetworkPolicy,
            Self::BaselineAdminNetworkPolicy => Kind::BaselineAdminNetworkPolicy,
            Self::ClusterNetworkPolicy => Kind::ClusterNetworkPolicy,
        }
    }
}

/// Before or after networking.k8s.io/v1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Tier {
    /// Evaluated before NetworkPolicy.
    Admin,
    /// Evaluated where no NetworkPolicy isolates the pod.
    Baseline,
}

/// What a rule does with what it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Action {
    /// `Allow` (v1alpha1), `Accept` (v1alpha2).
    Allow,
    /// `Deny`.
    Deny,
    /// `Pass`: the rest of the tier is skipped.
    Pass,
}

/// `spec.subject`: the pods that a policy is about. hostNetwork pods never are.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Subject {
    /// `namespaces`: every pod of these.
    Namespaces(Selector),
    /// `pods`.
    Pods {
        /// `namespaceSelector`.
        namespaces: Selector,
        /// `podSelector`.
        pods: Selector,
    },
}

/// One entry of `from` or `to`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum AdminPeer {
    /// `namespaces`: every pod of these.
    Namespaces(Selector),
    /// `pods`.
    Pods {
        /// `namespaceSelector`.
        namespaces: Selector,
        /// `podSelector`.
        pods: Selector,
    },
    /// `nodes` (egress): the nodes' own addresses.
    Nodes(Selector),
    /// `networks` (egress).
    Networks(Vec<IpNet>),
    /// `domainNames` (egress, with `Allow` only): `example.com`, `*.example.com`.
    DomainNames(Vec<Arc<str>>),
    /// A peer with no field that we know, as a newer API may have: the rule [fails closed](AdminRule::fails_closed).
    Unrecognised,
}

/// One entry of `ports` (v1alpha1) or `protocols` (v1alpha2).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum AdminPort {
    /// Ports of one protocol: a number, a range, or every port of it. Never [`PortMatch::Named`].
    Of(Protocol, PortMatch),
    /// A name, resolved on the destination pod, whatever its protocol.
    Named(Arc<str>),
}

/// One rule; the first that matches decides within its policy.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AdminRule {
    /// `name`, if any.
    pub name: Option<Arc<str>>,
    /// `action`.
    pub action: Action,
    /// `from` or `to`; never empty.
    pub peers: Vec<AdminPeer>,
    /// `ports` or `protocols`; empty means every port of every protocol.
    pub ports: Vec<AdminPort>,
}

impl AdminRule {
    /// Whether one of its peers has no field that we know. Whatever its other peers are, it then matches nothing if it allows,
    /// and else denies everybody on its ports.
    pub fn fails_closed(&self) -> bool {
        self.peers.contains(&AdminPeer::Unrecognised)
    }
}

/// An admin or baseline policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminPolicy {
    /// As what it was written.
    pub kind: AdminKind,
    /// `metadata.name`.
    pub name: Arc<str>,
    /// `metadata.uid`.
    pub uid: Uid,
    /// `metadata.generation`, 0 where the source has none.
    pub generation: i64,
    /// The tier.
    pub tier: Tier,
    /// `spec.priority`, 0..=1000; the lower number goes first. 0 for a BaselineAdminNetworkPolicy, which has none.
    pub priority: u16,
    /// `spec.subject`.
    pub subject: Subject,
    /// `spec.ingress`, in order.
    pub ingress: Vec<AdminRule>,
    /// `spec.egress`, in order.
    pub egress: Vec<AdminRule>,
    /// Annotations `polproof.io/...`.
    pub annotations: super::Annotations,
}
