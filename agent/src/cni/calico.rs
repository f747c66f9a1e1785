//! Calico, alone or for policies only (Canal). Chained to flannel, `flannel` says so.

use super::{Chain, Claim, Recognised};

pub(super) fn detect(chain: &Chain) -> Option<Recognised> {
    if !chain.has("calico") || chain.has("flannel") {
        return None;
    }
    let name = if chain.name.as_deref() == Some("canal") {
        "Canal"
    } else {
        "Calico"
    };
    Some(Recognised {
        name,
        claim: Claim::Enforces,
        remedy: "nothing, as long as calico-node runs on this node and wired the pods itself (interfaces cali*)".to_owned(),
    })
}
