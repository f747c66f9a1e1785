//! NP110: two admin policies of one priority.

use std::collections::BTreeMap;

use super::catalog::Lint;
use super::cluster::Cluster;
use super::finding::{Findings, Severity};
use crate::model::{AdminKind, AdminPolicy, NamespacedName, Tier};

pub(super) const LINT: Lint = Lint {
    id: "NP110",
    title: "two admin policies of one priority",
    severity: Severity::Medium,
    references: &["network-policy-api: undefined order", "NIST CM-6"],
    help: "The order of two policies of one priority is not defined: where both match and disagree, what is enforced may \
           differ between implementations and from day to day. Give each its own priority. Suppress this where their subjects \
           can have no pod in common.",
    check,
};

fn check(cluster: &Cluster<'_>, findings: &mut Findings) {
    // Policies come by name, so the first of a priority is the one that the later ones clash with.
    let mut first: BTreeMap<(AdminKind, Tier, u16), &AdminPolicy> = BTreeMap::new();
    for policy in cluster.snapshot.admin_policies() {
        if policy.kind == AdminKind::BaselineAdminNetworkPolicy {
            continue;
        }
        let key = (policy.kind, policy.tier, policy.priority);
        let Some(earlier) = first.get(&key) else {
            first.insert(key, policy);
            continue;
        };
        let kind = policy.kind.kind();
        let found = findings.add(
            &*policy.name,
            (kind, NamespacedName::new("", policy.name.clone())),
            format!(
                "the {} has priority {}, as {} has: which of the two goes first is not defined",
                kind.name(),
                policy.priority,
                earlier.name
            ),
        );
        if let Some(found) = found {
            found.policies = vec![earlier.name.to_string()];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::admin_samples::{audited, policy};
    use crate::model::{AdminKind, Tier};

    #[test]
    fn equal_priorities_of_one_kind_and_tier_are_found_at_the_later_name() {
        let anp = AdminKind::AdminNetworkPolicy;
        let cnp = AdminKind::ClusterNetworkPolicy;
        let found = audited(
            "NP110",
            vec![
                policy(anp, "a", Tier::Admin, 5),
                policy(anp, "b", Tier::Admin, 5),
                policy(anp, "c", Tier::Admin, 5),
                policy(anp, "d", Tier::Admin, 6),
                policy(cnp, "e", Tier::Admin, 5),
                policy(cnp, "f", Tier::Baseline, 5),
                policy(cnp, "g", Tier::Baseline, 5),
                policy(
                    AdminKind::BaselineAdminNetworkPolicy,
                    "default",
                    Tier::Baseline,
                    0,
                ),
                policy(cnp, "h", Tier::Baseline, 0),
            ],
        );
        assert_eq!(found, ["b", "c", "g"]);
    }
}
