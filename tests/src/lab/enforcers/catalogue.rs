//! Every enforcer of the lab by name, and which product behaves so.

use std::time::Duration;

use polproof_policy::{Direction, Family, Protocol};

use super::kind::{Attach, Fault, Hook, Mechanism, Memory, Stop};
use super::{Emulation, Enforcer, Event, None};

/// One enforcer of the catalogue.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Its name.
    pub name: &'static str,
    /// What it does, in a line.
    pub does: &'static str,
    /// Which real product behaves so.
    pub like: &'static str,
    /// What it is made of; `none` of nothing.
    parts: Option<(Mechanism, Memory, &'static [Fault])>,
    /// What must befall it for its nature to show.
    pub drill: Option<Drill>,
}

/// An event of the catalogue; see [`Event`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drill {
    /// [`Event::Died`], on all nodes.
    Died,
    /// [`Event::Upgraded`].
    Upgraded(Duration),
}

impl Drill {
    /// The event.
    pub const fn event(self) -> Event {
        match self {
            Self::Died => Event::Died(Option::None),
            Self::Upgraded(open) => Event::Upgraded(open),
        }
    }
}

impl Entry {
    /// A fresh one, that has installed nothing.
    pub fn make(&self) -> Box<dyn Enforcer> {
        match self.parts {
            Option::None => Box::new(None),
            Some((mechanism, memory, faults)) => {
                Box::new(Emulation::new(self.name, mechanism, memory, faults))
            }
        }
    }

    /// What is wrong with it.
    pub const fn faults(&self) -> &'static [Fault] {
        match self.parts {
            Some((_, _, faults)) => faults,
            Option::None => &[],
        }
    }

    /// Whether it judges every packet for itself, replies too.
    pub fn is_stateless(&self) -> bool {
        matches!(self.parts, Some((_, PerPacket, _)))
    }

    /// Why it cannot be made here, in words, if so.
    pub fn missing(&self) -> Option<String> {
        let (mechanism, ..) = self.parts?;
        let (program, package) = match mechanism {
            Mechanism::Iptables(..) => ("ipset", "ipset"),
            Mechanism::Nft(..) => ("nft", "nftables"),
            Mechanism::Programs(_) => return Option::None,
        };
        let there = std::env::var_os("PATH").is_some_and(|path| {
            std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
        });
        (!there).then(|| format!("the program {program}: install {package}"))
    }

    const fn new(name: &'static str, does: &'static str, like: &'static str) -> Self {
        Self {
            name,
            does,
            like,
            parts: Option::None,
            drill: Option::None,
        }
    }

    const fn of(self, mechanism: Mechanism, memory: Memory, faults: &'static [Fault]) -> Self {
        Self {
            parts: Some((mechanism, memory, faults)),
            ..self
        }
    }

    const fn drilled(self, drill: Drill) -> Self {
        Self {
            drill: Some(drill),
            ..self
        }
    }
}

const IPTABLES: Mechanism = Mechanism::Iptables(Hook::Forward, Stop::Drop);
const NFT: Mechanism = Mechanism::Nft(Hook::Forward, Stop::Drop);
const CLSACT: Mechanism = Mechanism::Programs(Attach::Clsact);
const TCX: Mechanism = Mechanism::Programs(Attach::Tcx);

/// All enforcers of the lab.
pub const fn catalogue() -> &'static [Entry] {
    ALL
}

/// The enforcer of that name.
pub fn named(name: &str) -> Option<&'static Entry> {
    ALL.iter().find(|entry| entry.name == name)
}

use Fault as F;
use Memory::{Flushed, Kept, PerPacket};

const ALL: &[Entry] = &[
    Entry::new(
        "none",
        "enforces nothing",
        "flannel; AWS VPC CNI and Azure CNI by default",
    ),
    // Mechanisms.
    Entry::new(
        "iptables-drop",
        "drops in FORWARD by ipsets",
        "Calico (iptables), Azure NPM, Weave Net",
    )
    .of(IPTABLES, Kept, &[]),
    Entry::new(
        "nft-drop",
        "drops in a forward chain of nftables",
        "Calico (nftables)",
    )
    .of(NFT, Kept, &[]),
    Entry::new(
        "reject-reset",
        "answers denied TCP with a RST in the destination's name",
        "Antrea's Reject",
    )
    .of(
        Mechanism::Iptables(Hook::Forward, Stop::TcpReset),
        Kept,
        &[],
    ),
    Entry::new(
        "reject-admin",
        "answers with ICMP administratively prohibited",
        "Cilium with policy-deny-response: icmp",
    )
    .of(
        Mechanism::Iptables(Hook::Forward, Stop::AdminProhibited),
        Kept,
        &[],
    ),
    Entry::new(
        "reject-port",
        "answers each denied packet with ICMP port unreachable",
        "kube-router, Calico with iptablesFilterDenyAction: Reject, where the limit for ICMP is lifted",
    )
    .of(
        Mechanism::Iptables(Hook::Forward, Stop::PortUnreachable),
        Kept,
        &[],
    ),
    Entry::new(
        "reject-limited",
        "answers with ICMP port unreachable until the kernel's limit, then is silent",
        "kube-router, k3s",
    )
    .of(
        Mechanism::Iptables(Hook::Forward, Stop::PortUnreachable),
        Kept,
        &[F::IcmpLimited],
    ),
    Entry::new(
        "nft-reject-reset",
        "answers with a RST from nftables",
        "rules of one's own beside a CNI",
    )
    .of(Mechanism::Nft(Hook::Forward, Stop::TcpReset), Kept, &[]),
    Entry::new(
        "nft-reject-admin",
        "answers with ICMP administratively prohibited from nftables",
        "rules of one's own beside a CNI",
    )
    .of(
        Mechanism::Nft(Hook::Forward, Stop::AdminProhibited),
        Kept,
        &[],
    ),
    Entry::new(
        "nft-reject-port",
        "answers with ICMP port unreachable from nftables until the kernel's limit",
        "kube-router (nftables)",
    )
    .of(
        Mechanism::Nft(Hook::Forward, Stop::PortUnreachable),
        Kept,
        &[F::IcmpLimited],
    ),
    Entry::new(
        "postrouting-drop",
        "drops in mangle POSTROUTING",
        "engines that decide by NFQUEUE, iptables",
    )
    .of(
        Mechanism::Iptables(Hook::Postrouting, Stop::Drop),
        Kept,
        &[],
    ),
    Entry::new(
        "nft-postrouting-drop",
        "drops in a postrouting chain of nftables",
        "kube-network-policies, kindnet (by NFQUEUE)",
    )
    .of(Mechanism::Nft(Hook::Postrouting, Stop::Drop), Kept, &[]),
    Entry::new(
        "clsact-drop",
        "drops on both ways of the host's veth, by clsact",
        "AWS VPC CNI (strict), Calico eBPF",
    )
    .of(CLSACT, Kept, &[]),
    Entry::new(
        "clsact-to-pod",
        "drops on the egress of the host's veth only",
        "AWS VPC CNI with ingress policies",
    )
    .of(CLSACT, Kept, &[F::OnlyDirection(Direction::Ingress)]),
    Entry::new(
        "clsact-from-pod",
        "drops on the ingress of the host's veth only",
        "AWS VPC CNI with egress policies",
    )
    .of(CLSACT, Kept, &[F::OnlyDirection(Direction::Egress)]),
    Entry::new(
        "tcx-drop",
        "drops on both ways of the host's veth, by tcx",
        "Cilium (legacy host routing)",
    )
    .of(TCX, Kept, &[]),
    Entry::new(
        "tcx-to-pod",
        "drops on the egress of the host's veth only, by tcx",
        "Cilium with ingress policies",
    )
    .of(TCX, Kept, &[F::OnlyDirection(Direction::Ingress)]),
    Entry::new(
        "tcx-from-pod",
        "drops on the ingress of the host's veth only, by tcx",
        "Cilium with egress policies",
    )
    .of(TCX, Kept, &[F::OnlyDirection(Direction::Egress)]),
    Entry::new(
        "redirect-peer",
        "drops by tcx; what is allowed goes by bpf_redirect_peer",
        "Cilium (eBPF host routing)",
    )
    .of(Mechanism::Programs(Attach::RedirectPeer), Kept, &[]),
    // Memory.
    Entry::new(
        "iptables-per-packet",
        "judges every packet, replies too",
        "stateless network ACLs",
    )
    .of(IPTABLES, PerPacket, &[]),
    Entry::new(
        "tcx-per-packet",
        "judges every packet on the host's veth, replies too",
        "stateless network ACLs",
    )
    .of(TCX, PerPacket, &[]),
    Entry::new(
        "iptables-flush",
        "forgets all connections at every change",
        "any engine, and `conntrack -F` at every change",
    )
    .of(IPTABLES, Flushed, &[]),
    Entry::new(
        "tcx-flush",
        "cuts old connections that a change denies",
        "Cilium; AWS VPC CNI for a pod's first policy",
    )
    .of(TCX, Flushed, &[]),
    // Half of it.
    Entry::new(
        "ingress-only",
        "ignores egress policies",
        "an engine that is told of ingress only",
    )
    .of(IPTABLES, Kept, &[F::OnlyDirection(Direction::Ingress)]),
    Entry::new(
        "egress-only",
        "ignores ingress policies",
        "an engine that is told of egress only",
    )
    .of(IPTABLES, Kept, &[F::OnlyDirection(Direction::Egress)]),
    Entry::new(
        "one-node",
        "is there on the first node only",
        "a DaemonSet that does not tolerate a taint",
    )
    .of(IPTABLES, Kept, &[F::OnlyNode("node-1")]),
    Entry::new(
        "v4-only",
        "ignores IPv6",
        "an engine whose IPv6 is switched off in a dual-stack cluster",
    )
    .of(IPTABLES, Kept, &[F::OnlyFamily(Family::V4)]),
    Entry::new(
        "v6-only",
        "ignores IPv4",
        "AWS VPC CNI: the IPv4 egress interface of IPv6 pods",
    )
    .of(IPTABLES, Kept, &[F::OnlyFamily(Family::V6)]),
    Entry::new(
        "tcp-only",
        "ignores UDP and SCTP",
        "an engine that knows connections only",
    )
    .of(IPTABLES, Kept, &[F::OnlyProtocol(Protocol::Tcp)]),
    Entry::new("udp-only", "ignores TCP", "the opposite of tcp-only; no product is known").of(
        IPTABLES,
        Kept,
        &[F::OnlyProtocol(Protocol::Udp)],
    ),
    // Not at all.
    Entry::new(
        "inert",
        "healthy, its rules go by interface names that no pod has",
        "Calico's felix with pods wired by another CNI",
    )
    .of(IPTABLES, Kept, &[F::Inert]),
    Entry::new(
        "behind-accept",
        "its jump stands behind an ACCEPT of the pod network",
        "any iptables engine behind FLANNEL-FWD",
    )
    .of(IPTABLES, Kept, &[F::BehindAccept]),
    Entry::new(
        "stale",
        "takes no notice of anything after its first load",
        "kube-router or felix cut off from the API server",
    )
    .of(IPTABLES, Kept, &[F::Stale]),
    Entry::new(
        "tcx-frozen",
        "the same with programs: new pods have none",
        "AWS VPC CNI with --enable-network-policy=false set later",
    )
    .of(CLSACT, Kept, &[F::Stale]),
    // New pods.
    Entry::new(
        "lagging",
        "a new pod is open for 3 s",
        "slow engines under load",
    )
    .of(
        NFT,
        Kept,
        &[F::NewPod {
            closed: Duration::ZERO,
            open: Duration::from_secs(3),
        }],
    ),
    Entry::new(
        "lagging-ipset",
        "a new pod is open for 3 to 4 s",
        "slow engines under load",
    )
    .of(
        IPTABLES,
        Kept,
        &[F::NewPod {
            closed: Duration::ZERO,
            open: Duration::from_secs(3),
        }],
    ),
    Entry::new(
        "new-pod-open",
        "a new pod is open for its first 100 ms",
        "kube-router, k3s; Antrea for ingress",
    )
    .of(
        NFT,
        Kept,
        &[F::NewPod {
            closed: Duration::ZERO,
            open: Duration::from_millis(100),
        }],
    ),
    Entry::new(
        "new-pod-late",
        "a new pod is closed for 0.6 s and then open for 1.2 s",
        "AWS VPC CNI (standard mode)",
    )
    .of(
        CLSACT,
        Kept,
        &[F::NewPod {
            closed: Duration::from_millis(600),
            open: Duration::from_millis(1200),
        }],
    ),
    Entry::new(
        "dead-cuts-off",
        "dead; a new pod is cut off",
        "Calico's felix",
    )
    .of(IPTABLES, Kept, &[F::DeadCutsOff])
    .drilled(Drill::Died),
    Entry::new(
        "dead-leaves-open",
        "dead; a new pod is wide open",
        "kube-router, k3s",
    )
    .of(
        Mechanism::Nft(Hook::Forward, Stop::PortUnreachable),
        Kept,
        &[],
    )
    .drilled(Drill::Died),
    // Wrong rules.
    Entry::new(
        "ipblock-misses-pods",
        "ipBlock never matches the address of a pod",
        "Cilium",
    )
    .of(TCX, Kept, &[F::IpBlocksMissPods]),
    Entry::new(
        "named-ports-refused",
        "refuses policies with named ports as a whole",
        "Weave Net",
    )
    .of(IPTABLES, Kept, &[F::NamedPortsRefused]),
    Entry::new(
        "shared-rules",
        "pods whose names differ behind the last - share one set of rules",
        "AWS VPC CNI",
    )
    .of(CLSACT, Kept, &[F::SharedRules]),
    Entry::new(
        "denies-stay",
        "a deny stays after its policy is gone",
        "AWS VPC CNI after a restart",
    )
    .of(CLSACT, Kept, &[F::DeniesStay]),
    Entry::new(
        "upgrade",
        "all is open for 5 s while it is upgraded",
        "AWS VPC CNI; Antrea's switch daemon",
    )
    .of(CLSACT, Kept, &[])
    .drilled(Drill::Upgraded(Duration::from_secs(5))),
];
