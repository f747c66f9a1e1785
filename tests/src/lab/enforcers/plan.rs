//! What one node is to do with the packets of one family, whatever does it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Instant;

use polproof_policy::{Direction, Family, Protocol};

use super::kind::Fault;
use super::view::View;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) family: Family,
    /// Addresses of the node itself: always allowed.
    pub(super) own: BTreeSet<IpAddr>,
    /// Local pods.
    pub(super) pods: Vec<IpAddr>,
    /// Pods that are closed until then, whatever the guards say.
    pub(super) closed: Vec<(IpAddr, Instant)>,
    /// Pods whose guards are off until then.
    pub(super) open: Vec<(IpAddr, Instant)>,
    /// What is denied.
    pub(super) guards: Vec<Guard>,
    /// The node's pod network, if pods in it that are none of `pods` are cut off.
    pub(super) cut_off: Vec<String>,
}

/// New connections that are denied to one pod, in one direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Guard {
    pub(super) pod: IpAddr,
    pub(super) direction: Direction,
    pub(super) protocol: Protocol,
    /// Destination ports, both included.
    pub(super) ports: (u16, u16),
    pub(super) denied: Peers,
}

/// Addresses at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Peers {
    /// These.
    Only(BTreeSet<IpAddr>),
    /// All but these.
    AllBut(BTreeSet<IpAddr>),
}

impl Plan {
    /// What the node does when it believes `view`.
    pub(super) fn compute(view: &View, node: &str, family: Family, faults: &[Fault]) -> Self {
        let mut plan = Self {
            family,
            own: view
                .own
                .get(node)
                .into_iter()
                .flatten()
                .copied()
                .filter(|ip| Family::of(*ip) == family)
                .collect(),
            pods: view.local(node, family).map(|(_, ip)| ip).collect(),
            closed: Vec::new(),
            open: Vec::new(),
            guards: Vec::new(),
            cut_off: Vec::new(),
        };
        if faults.contains(&Fault::DeadCutsOff) {
            let cidrs = view
                .nodes
                .iter()
                .filter(|other| &*other.name == node)
                .flat_map(|node| &node.pod_cidrs)
                .filter(|cidr| Family::of(cidr.addr()) == family);
            plan.cut_off = cidrs.map(ToString::to_string).collect();
        }
        for (pod, ip) in view.local(node, family) {
            for direction in [Direction::Egress, Direction::Ingress] {
                if !view.isolates(pod, ip, direction) {
                    continue;
                }
                for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
                    if !faults
                        .iter()
                        .any(|fault| fault.spares(node, direction, family, protocol))
                    {
                        plan.guard(view, ip, direction, protocol);
                    }
                }
            }
        }
        plan
    }

    fn guard(&mut self, view: &View, pod: IpAddr, direction: Direction, protocol: Protocol) {
        let mut lots: Vec<(u16, u16, Peers)> = Vec::new();
        for (first, last) in view.ranges() {
            let allowed = |peer| view.allows(direction, pod, peer, protocol, first);
            let denied = if allowed(View::elsewhere(self.family)) {
                Peers::Only(view.known(self.family).filter(|ip| !allowed(*ip)).collect())
            } else {
                Peers::AllBut(view.known(self.family).filter(|ip| allowed(*ip)).collect())
            };
            match lots.last_mut() {
                Some((_, end, before)) if *before == denied => *end = last,
                _ => lots.push((first, last, denied)),
            }
        }
        for (first, last, denied) in lots {
            if !matches!(&denied, Peers::Only(peers) if peers.is_empty()) {
                self.guards.push(Guard {
                    pod,
                    direction,
                    protocol,
                    ports: (first, last),
                    denied,
                });
            }
        }
    }
}

impl Fault {
    /// Whether it leaves such packets alone on that node.
    pub(super) fn spares(
        self,
        node: &str,
        direction: Direction,
        family: Family,
        protocol: Protocol,
    ) -> bool {
        match self {
            Self::OnlyDirection(only) => only != direction,
            Self::OnlyNode(only) => only != node,
            Self::OnlyFamily(only) => only != family,
            Self::OnlyProtocol(only) => only != protocol,
            _ => false,
        }
    }
}
