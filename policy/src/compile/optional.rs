//! The policy kinds that only some clusters serve: which there are, and their conversion from JSON.

use std::sync::Arc;

use super::path::Path;
use super::{Refusal, admin, foreign};
use crate::model::{ForeignKind, Kind, Object};

/// Where a kind is served.
#[derive(Debug)]
pub struct OptionalKind {
    /// In the state.
    pub kind: Kind,
    /// API groups and versions that we can read, the preferred one first; each is served or not.
    pub apis: &'static [(&'static str, &'static str)],
    /// Its name in paths and RBAC rules.
    pub plural: &'static str,
    /// Whether it lies in a namespace.
    pub namespaced: bool,
}

const NETWORK_POLICY_API: &str = "policy.networking.k8s.io";
const CALICO: &[(&str, &str)] = &[("crd.projectcalico.org", "v1"), ("projectcalico.org", "v3")];

/// Every optional kind.
pub const OPTIONAL_KINDS: [OptionalKind; 7] = [
    OptionalKind {
        kind: Kind::AdminNetworkPolicy,
        apis: &[(NETWORK_POLICY_API, "v1alpha1")],
        plural: "adminnetworkpolicies",
        namespaced: false,
    },
    OptionalKind {
        kind: Kind::BaselineAdminNetworkPolicy,
        apis: &[(NETWORK_POLICY_API, "v1alpha1")],
        plural: "baselineadminnetworkpolicies",
        namespaced: false,
    },
    OptionalKind {
        kind: Kind::ClusterNetworkPolicy,
        apis: &[(NETWORK_POLICY_API, "v1alpha2")],
        plural: "clusternetworkpolicies",
        namespaced: false,
    },
    OptionalKind {
        kind: Kind::CiliumNetworkPolicy,
        apis: &[("cilium.io", "v2")],
        plural: "ciliumnetworkpolicies",
        namespaced: true,
    },
    OptionalKind {
        kind: Kind::CiliumClusterwideNetworkPolicy,
        apis: &[("cilium.io", "v2")],
        plural: "ciliumclusterwidenetworkpolicies",
        namespaced: false,
    },
    OptionalKind {
        kind: Kind::CalicoNetworkPolicy,
        apis: CALICO,
        plural: "networkpolicies",
        namespaced: true,
    },
    OptionalKind {
        kind: Kind::CalicoGlobalNetworkPolicy,
        apis: CALICO,
        plural: "globalnetworkpolicies",
        namespaced: false,
    },
];

/// Converts an object of an optional kind. Fields that we do not know are passed over, also beside one that we know: a server
/// that does not know them prunes them, and every other implementation reads such an object without them. But a peer in which we
/// know no field is [`AdminPeer::Unrecognised`](crate::model::AdminPeer::Unrecognised). Slips in manifests are found by
/// [`known_fields`](super::known_fields).
///
/// # Errors
/// What the API server would refuse by the kind's schema and validation rules.
pub fn optional(kind: Kind, value: &serde_json::Value) -> Result<Object, Refusal> {
    let admin =
        |api| admin::admin_policy(api, value).map(|policy| Object::AdminPolicy(Arc::new(policy)));
    let foreign = |kind| {
        foreign::foreign_policy(kind, value).map(|policy| Object::ForeignPolicy(Arc::new(policy)))
    };
    match kind {
        Kind::AdminNetworkPolicy => admin(&admin::ADMIN),
        Kind::BaselineAdminNetworkPolicy => admin(&admin::BASELINE),
        Kind::ClusterNetworkPolicy => admin(&admin::CLUSTER),
        Kind::CiliumNetworkPolicy => foreign(ForeignKind::CiliumNetworkPolicy),
        Kind::CiliumClusterwideNetworkPolicy => {
            foreign(ForeignKind::CiliumClusterwideNetworkPolicy)
        }
        Kind::CalicoNetworkPolicy => foreign(ForeignKind::CalicoNetworkPolicy),
        Kind::CalicoGlobalNetworkPolicy => foreign(ForeignKind::CalicoGlobalNetworkPolicy),
        Kind::Pod
        | Kind::Namespace
        | Kind::Node
        | Kind::NetworkPolicy
        | Kind::Service
        | Kind::EndpointSlice => Err(Path::of(kind.name()).field("kind").refuse(
            "every cluster serves this kind",
            "convert it by its own function",
        )),
    }
}
