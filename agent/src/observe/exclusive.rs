//! Is the pod's eth0 ours alone? Another program on the same hook may drop a packet before or after ours, or end
//! the chain: what we saw would then prove nothing.

use aya::programs::{SchedClassifier, TcAttachType};
use polproof_flow::netns::Hook;

use super::netlink::{self, ETHERNET, Interface};

/// What we have on an interface, to tell it from others'.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ours {
    pub(super) ingress: u32,
    pub(super) egress: u32,
}

/// Asks for everything else on the interface, in the calling thread's namespace: tcx on both hooks, classic filters of
/// clsact, XDP. A question that fails is an answer too: not exclusive.
pub(super) fn check(name: &str, interface: &Interface, ours: Ours) -> Hook {
    let mut others = Vec::new();
    if interface.hardware != ETHERNET {
        others.push(format!(
            "{name} is no Ethernet device (type {}): its packets cannot be parsed",
            interface.hardware
        ));
    }
    if let Some(id) = interface.xdp {
        others.push(format!("XDP program {id}"));
    }
    for (attach, direction, own) in [
        (TcAttachType::Ingress, "ingress", ours.ingress),
        (TcAttachType::Egress, "egress", ours.egress),
    ] {
        match SchedClassifier::query_tcx(name, attach) {
            Ok((_, programs)) => {
                if !programs.iter().any(|program| program.id() == own) {
                    others.push(format!(
                        "polproof's own program is missing on tcx {direction}"
                    ));
                }
                for program in programs.iter().filter(|program| program.id() != own) {
                    others.push(format!(
                        "tcx {direction} program {} ({})",
                        program.id(),
                        program.name_as_str().unwrap_or("unnamed")
                    ));
                }
            }
            Err(error) => others.push(format!("tcx {direction} cannot be asked: {error}")),
        }
    }
    match netlink::filters(interface.index) {
        Ok(filters) => others.extend(filters),
        Err(error) => others.push(error.to_string()),
    }
    if others.is_empty() {
        Hook::Exclusive
    } else {
        Hook::Shared(others.join("; "))
    }
}
