//! Policies of a CNI's own API: recognised, counted and named, never evaluated.

use serde::{Deserialize, Serialize};

use super::{Kind, NamespacedName, Selector, Uid};

/// Which API kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ForeignKind {
    /// cilium.io CiliumNetworkPolicy.
    CiliumNetworkPolicy,
    /// cilium.io CiliumClusterwideNetworkPolicy.
    CiliumClusterwideNetworkPolicy,
    /// crd.projectcalico.org or projectcalico.org NetworkPolicy.
    CalicoNetworkPolicy,
    /// crd.projectcalico.org or projectcalico.org GlobalNetworkPolicy.
    CalicoGlobalNetworkPolicy,
}

impl ForeignKind {
    /// Its kind in the state.
    pub const fn kind(self) -> Kind {
        match self {
            Self::CiliumNetworkPolicy => Kind::CiliumNetworkPolicy,
            Self::CiliumClusterwideNetworkPolicy => Kind::CiliumClusterwideNetworkPolicy,
            Self::CalicoNetworkPolicy => Kind::CalicoNetworkPolicy,
            Self::CalicoGlobalNetworkPolicy => Kind::CalicoGlobalNetworkPolicy,
        }
    }
}

/// The pods that a foreign policy may select: never fewer than it does. Where its selector says more than a Kubernetes one can,
/// the wider answer stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignScope {
    /// Its own namespace only, for a namespaced kind.
    pub own_namespace: bool,
    /// Namespaces, as far as it can be said; `None` is every one.
    pub namespaces: Option<Selector>,
    /// Pods, as far as it can be said; `None` is every one.
    pub pods: Option<Selector>,
}

/// What a foreign policy may do to a connection in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignEffect {
    /// It may let through what NetworkPolicies deny.
    pub may_admit: bool,
    /// It may block what NetworkPolicies allow.
    pub may_block: bool,
}

/// A policy of a CNI's own API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignPolicy {
    /// The kind.
    pub kind: ForeignKind,
    /// Namespace (empty if cluster-scoped) and name.
    pub id: NamespacedName,
    /// `metadata.uid`.
    pub uid: Uid,
    /// Whom it may select.
    pub scope: ForeignScope,
    /// What it may do to ingress.
    pub ingress: ForeignEffect,
    /// What it may do to egress.
    pub egress: ForeignEffect,
}
