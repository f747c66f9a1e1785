//! What an emulation is made of: where packets are stopped and how, what is remembered of connections, and what is wrong with it.

use std::time::Duration;

use polproof_policy::{Direction, Family, Protocol};

use super::How;

/// Where packets are stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// A chain and ipsets that FORWARD or POSTROUTING jumps to.
    Iptables(Hook, Stop),
    /// A table of nftables.
    Nft(Hook, Stop),
    /// Programs on the host's end of each pod's veth: its egress leads to the pod, its ingress comes from it.
    Programs(Attach),
}

/// The hook of netfilter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// filter FORWARD.
    Forward,
    /// mangle POSTROUTING, where engines that decide by NFQUEUE sit. It only drops.
    Postrouting,
}

/// What happens to what is denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Nothing is said.
    Drop,
    /// TCP is answered by a RST; the rest is dropped.
    TcpReset,
    /// ICMP 3/13.
    AdminProhibited,
    /// ICMP 3/3.
    PortUnreachable,
}

/// How programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attach {
    /// Filters of a clsact qdisc.
    Clsact,
    /// tcx links.
    Tcx,
    /// tcx links; what is allowed goes straight into the pod by `bpf_redirect_peer`, past the host's stack and the host's
    /// end of the veth.
    RedirectPeer,
}

/// What is remembered of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// What was allowed once goes on.
    Kept,
    /// The memory is emptied at every change: old connections are judged again.
    Flushed,
    /// There is none: each packet is judged for itself, replies too.
    PerPacket,
}

/// What is wrong with an enforcer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Only that direction of the policies is enforced.
    OnlyDirection(Direction),
    /// Only that node has an agent.
    OnlyNode(&'static str),
    /// Only that family is enforced.
    OnlyFamily(Family),
    /// Only that protocol is enforced.
    OnlyProtocol(Protocol),
    /// A new pod is closed to and for everybody at first, then open, then as it should be.
    NewPod {
        /// Closed for that long.
        closed: Duration,
        /// Then open for that long.
        open: Duration,
    },
    /// While the agent is dead a pod that it does not know is cut off; else such a pod is open.
    DeadCutsOff,
    /// Stops to take notice after its first load.
    Stale,
    /// Rules are for interface names that no pod has.
    Inert,
    /// The jump to its chain stands behind an ACCEPT of the pod network.
    BehindAccept,
    /// ipBlock peers never match the address of a pod.
    IpBlocksMissPods,
    /// A policy with a named port is refused as a whole.
    NamedPortsRefused,
    /// Pods of a namespace and node whose names differ only behind the last "-" share the rules of the first.
    SharedRules,
    /// What a policy denied stays denied after its end.
    DeniesStay,
    /// The kernel's limit for ICMP errors is left in force: after about six there is silence.
    IcmpLimited,
}

impl Mechanism {
    /// What the source of a denied packet gets.
    pub(super) fn how(self, protocol: Protocol, limited: bool) -> How {
        match self {
            Self::Programs(_) => How::Silence,
            Self::Iptables(_, stop) | Self::Nft(_, stop) => match stop {
                Stop::TcpReset if protocol == Protocol::Tcp => How::TcpReset,
                Stop::Drop | Stop::TcpReset => How::Silence,
                Stop::AdminProhibited => How::IcmpAdminProhibited,
                Stop::PortUnreachable if limited => How::IcmpThenSilence,
                Stop::PortUnreachable => How::IcmpPortUnreachable,
            },
        }
    }
}
