//! The compiled form of rules: selectors are numbers, ports are ranges, blocks are masks.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use smallvec::SmallVec;

use crate::model::{NetworkPolicy, Peer, Pod, PolicyPort, PortMatch, Protocol, Uid};

/// The number of a distinct (namespaces, pods) peer selector. Each pod carries the sorted
/// numbers of those that select it.
pub(crate) type GroupId = u32;

/// How far a rule (or a part of it) admits. The order counts: two parts that must both
/// admit do so as far as the lesser one does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Admits {
    /// In no reading of the API.
    No,
    /// In one reading that the API leaves open and not in the other.
    Open,
    /// In every reading.
    Sure,
}

/// A rule with the position of its policy in the [`Isolation`] that holds it.
#[derive(Clone, Debug)]
pub(crate) struct CompiledRule {
    pub(crate) policy: usize,
    pub(crate) rule: usize,
    pub(crate) ports: Ports,
    pub(crate) peers: Peers,
}

/// The ports of a rule.
#[derive(Clone, Debug)]
pub(crate) enum Ports {
    /// Every port of every protocol.
    Every,
    /// These.
    Some {
        numbers: SmallVec<[PortRange; 2]>,
        names: Arc<[(Protocol, Arc<str>)]>,
    },
}

/// Ports of one protocol, both ends included.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PortRange {
    protocol: Protocol,
    first: u16,
    last: u16,
}

/// The peers of a rule.
#[derive(Clone, Debug)]
pub(crate) enum Peers {
    /// Nodes, external addresses and all pods.
    Everyone,
    /// These.
    Some {
        /// Every pod of every namespace.
        any_pod: bool,
        groups: SmallVec<[GroupId; 4]>,
        blocks: Arc<[Block]>,
    },
}

/// An ipBlock.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    net: Net,
    except: Box<[Net]>,
}

#[derive(Clone, Copy, Debug)]
enum Net {
    V4 { network: u32, mask: u32 },
    V6 { network: u128, mask: u128 },
}

/// All rules of all policies that isolate a pod in one direction, in order of policy name and
/// rule index, in one piece of memory. Pods that the same policies isolate share it.
#[derive(Debug, Default)]
pub(crate) struct Isolation {
    pub(crate) policies: Box<[Arc<NetworkPolicy>]>,
    pub(crate) rules: Box<[CompiledRule]>,
}

/// A pod with all that a verdict needs of it, in one piece: verdicts spend their time waiting
/// for memory.
#[derive(Debug)]
pub(crate) struct PodEntry {
    pub(crate) uid: Uid,
    pub(crate) seen_as: SeenAs,
    /// Sorted. A hostNetwork pod has those that would select it if it were visible; a
    /// finished one none.
    pub(crate) groups: SmallVec<[GroupId; 12]>,
    pub(crate) ingress: Arc<Isolation>,
    pub(crate) egress: Arc<Isolation>,
    pub(crate) pod: Arc<Pod>,
}

/// What a pod is to the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SeenAs {
    /// A pod with a network of its own.
    Pod,
    /// A process on its node's network.
    Host,
    /// Finished: nothing any more.
    Nothing,
}

impl SeenAs {
    pub(crate) const fn of(pod: &Pod) -> Self {
        if pod.finished {
            Self::Nothing
        } else if pod.host_network {
            Self::Host
        } else {
            Self::Pod
        }
    }
}

impl PodEntry {
    /// Whether nothing that a verdict needs has changed.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.pod, &other.pod)
            && Arc::ptr_eq(&self.ingress, &other.ingress)
            && Arc::ptr_eq(&self.egress, &other.egress)
            && self.groups == other.groups
    }
}

impl Ports {
    pub(crate) fn compile(ports: &[PolicyPort]) -> Self {
        if ports.is_empty() {
            return Self::Every;
        }
        let mut numbers = SmallVec::new();
        let mut names = Vec::new();
        for port in ports {
            let protocol = port.protocol;
            match &port.port {
                PortMatch::Any => numbers.push(PortRange {
                    protocol,
                    first: 0,
                    last: u16::MAX,
                }),
                PortMatch::Range(first, last) => numbers.push(PortRange {
                    protocol,
                    first: *first,
                    last: *last,
                }),
                PortMatch::Named(name) => names.push((protocol, Arc::clone(name))),
            }
        }
        Self::Some {
            numbers,
            names: names.into(),
        }
    }

    pub(crate) fn admit_number(&self, protocol: Protocol, port: u16) -> bool {
        match self {
            Self::Every => true,
            Self::Some { numbers, .. } => numbers.iter().any(|range| {
                range.protocol == protocol && range.first <= port && port <= range.last
            }),
        }
    }

    /// Whether one of the names means this port on the pod.
    pub(crate) fn admit_name(&self, protocol: Protocol, port: u16, on: &Pod) -> bool {
        match self {
            Self::Every => true,
            Self::Some { names, .. } => names.iter().any(|(of, name)| {
                *of == protocol
                    && on.ports.iter().any(|declared| {
                        declared.number == port
                            && declared.protocol == protocol
                            && declared.name.as_ref() == Some(name)
                    })
            }),
        }
    }
}

impl Peers {
    /// `group` gives the number of a selector peer that is not simply every pod.
    pub(crate) fn compile(peers: &[Peer], mut group: impl FnMut(&Peer) -> Option<GroupId>) -> Self {
        if peers.is_empty() {
            return Self::Everyone;
        }
        let mut any_pod = false;
        let mut groups = SmallVec::new();
        let mut blocks = Vec::new();
        for peer in peers {
            match peer {
                Peer::IpBlock { cidr, except } => blocks.push(Block {
                    net: Net::from(*cidr),
                    except: except.iter().map(|net| Net::from(*net)).collect(),
                }),
                Peer::Pods { .. } if selects_every_pod(peer) => any_pod = true,
                Peer::Pods { .. } => groups.extend(group(peer)),
            }
        }
        Self::Some {
            any_pod,
            groups,
            blocks: blocks.into(),
        }
    }

    pub(crate) fn select(&self, entry: &PodEntry) -> bool {
        match self {
            Self::Everyone => true,
            Self::Some {
                any_pod, groups, ..
            } => {
                *any_pod
                    || groups
                        .iter()
                        .any(|group| entry.groups.binary_search(group).is_ok())
            }
        }
    }

    pub(crate) fn contain(&self, ip: IpAddr) -> bool {
        match self {
            Self::Everyone => true,
            Self::Some { blocks, .. } => blocks.iter().any(|block| block.contains(ip)),
        }
    }
}

/// `namespaceSelector: {}` without a restriction on pods.
fn selects_every_pod(peer: &Peer) -> bool {
    match peer {
        Peer::Pods {
            namespaces: Some(namespaces),
            pods,
        } => namespaces.is_empty() && pods.as_ref().is_none_or(|pods| pods.is_empty()),
        Peer::Pods {
            namespaces: None, ..
        }
        | Peer::IpBlock { .. } => false,
    }
}

impl Block {
    fn contains(&self, ip: IpAddr) -> bool {
        self.net.contains(ip) && !self.except.iter().any(|net| net.contains(ip))
    }
}

impl Net {
    const fn contains(self, ip: IpAddr) -> bool {
        match (self, ip) {
            (Self::V4 { network, mask }, IpAddr::V4(ip)) => ip.to_bits() & mask == network,
            (Self::V6 { network, mask }, IpAddr::V6(ip)) => ip.to_bits() & mask == network,
            (Self::V4 { .. }, IpAddr::V6(_)) | (Self::V6 { .. }, IpAddr::V4(_)) => false,
        }
    }
}

impl From<IpNet> for Net {
    fn from(net: IpNet) -> Self {
        match net {
            IpNet::V4(net) => Self::V4 {
                network: net.network().to_bits(),
                mask: net.netmask().to_bits(),
            },
            IpNet::V6(net) => Self::V6 {
                network: net.network().to_bits(),
                mask: net.netmask().to_bits(),
            },
        }
    }
}
