//! flannel: a network without policy enforcement; something chained to it may enforce.

use super::{Chain, Claim, Recognised, chained_engine};

pub(super) fn detect(chain: &Chain) -> Option<Recognised> {
    if !chain.has("flannel") {
        return None;
    }
    if let Some(engine) = chained_engine(chain) {
        return Some(Recognised {
            name: "flannel",
            claim: Claim::Depends,
            remedy: format!(
                "{engine} is chained to flannel: policies are enforced if its agent runs on this node, for pods created after it was chained"
            ),
        });
    }
    Some(Recognised {
        name: "flannel",
        claim: Claim::DoesNotEnforce,
        remedy: "flannel does not enforce NetworkPolicies by itself: set netpol.enabled=true in its chart (kube-network-policies), or install \
                 Calico (Canal), Cilium or kube-router for policies. On k3s its built-in controller enforces unless --disable-network-policy is set"
            .to_owned(),
    })
}
