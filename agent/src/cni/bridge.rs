//! Chains that no other detector knows: the reference plugins `bridge` and `ptp`, and everything else.

use super::{Chain, Claim, Recognised, chained_engine};

/// Reference plugins that move packets and enforce nothing.
const PLAIN: &[&str] = &["bridge", "ptp", "host-device", "ipvlan", "macvlan", "vlan"];

pub(super) fn detect(chain: &Chain) -> Option<Recognised> {
    let first = chain.plugins.first()?;
    if first.kind == "loopback" {
        return None;
    }
    if PLAIN.contains(&first.kind.as_str()) {
        // kindnet is `ptp` too, and its daemon enforces since kind 0.24; kube-router is `bridge`.
        let outside = ["kindnet", "kubernetes", "kubenet", "kuberouter"];
        let daemon = chain
            .name
            .as_deref()
            .is_some_and(|n| outside.iter().any(|o| n.eq_ignore_ascii_case(o)));
        let depends = daemon || chained_engine(chain).is_some();
        return Some(Recognised {
            name: "bridge or ptp",
            claim: if depends {
                Claim::Depends
            } else {
                Claim::DoesNotEnforce
            },
            remedy: "the plugin itself enforces nothing: a policy engine must run beside it (kindnet, kube-router and kube-network-policies do \
                     this by a DaemonSet); check that its pod runs on this node"
                .to_owned(),
        });
    }
    Some(Recognised {
        name: "unknown CNI",
        claim: Claim::Depends,
        remedy: format!(
            "plugin type {:?} is not known to this agent; what is enforced is seen from the traffic",
            first.kind
        ),
    })
}
