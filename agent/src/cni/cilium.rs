//! Cilium, as the network or chained to another one (except flannel, which says so itself).

use super::{Chain, Claim, Recognised};

pub(super) fn detect(chain: &Chain) -> Option<Recognised> {
    if !chain.has("cilium-cni") || chain.has("flannel") {
        return None;
    }
    let alone = chain
        .plugins
        .first()
        .is_some_and(|p| p.kind == "cilium-cni");
    let switches = "enable-policy is not \"never\", enable-k8s-networkpolicy is not false and policy-audit-mode is off in ConfigMap cilium-config";
    Some(Recognised {
        name: if alone { "Cilium" } else { "Cilium (chained)" },
        claim: if alone {
            Claim::Enforces
        } else {
            Claim::Depends
        },
        remedy: if alone {
            format!("nothing, as long as {switches}")
        } else {
            format!(
                "pods created before Cilium was chained are not covered: restart them; and check that {switches}"
            )
        },
    })
}
