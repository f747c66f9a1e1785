//! How many policies there are beside NetworkPolicies, for people who ask what was taken into account.

use polproof_policy::Kind;
use polproof_policy::compile::OPTIONAL_KINDS;

use crate::View;

/// The policies of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyCount {
    /// The kind, as people call it.
    pub kind: &'static str,
    /// How many there are; never 0.
    pub count: u64,
    /// Whether verdicts take them into account; else they are recognised only, and what they may admit accuses nobody.
    pub evaluated: bool,
}

impl View {
    /// The kinds of policies that there are beside NetworkPolicy.
    pub fn other_policies(&self) -> impl Iterator<Item = PolicyCount> {
        OPTIONAL_KINDS.iter().filter_map(|optional| {
            let count = self.snapshot.count(optional.kind) as u64;
            (count > 0).then_some(PolicyCount {
                kind: spoken(optional.kind),
                count,
                evaluated: evaluated(optional.kind),
            })
        })
    }
}

/// The kind as people call it: two of Calico's are called like others.
pub const fn spoken(kind: Kind) -> &'static str {
    match kind {
        Kind::CalicoNetworkPolicy => "Calico NetworkPolicy",
        Kind::CalicoGlobalNetworkPolicy => "Calico GlobalNetworkPolicy",
        _ => kind.name(),
    }
}

const fn evaluated(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::NetworkPolicy
            | Kind::AdminNetworkPolicy
            | Kind::BaselineAdminNetworkPolicy
            | Kind::ClusterNetworkPolicy
    )
}
