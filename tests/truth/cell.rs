//! The cells of the table: what is tried, and what cannot be.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use polproof_policy::{Family, Protocol};

/// How the attempt gets there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Path {
    /// To the address of a pod on the same node.
    SameNode,
    /// To the address of a pod on another node.
    Across,
    /// To a Service with a backend on each node.
    Service,
    /// To a port of the own node, that leads to the other node; masqueraded.
    NodePort,
    /// To a Service with the source itself behind it; masqueraded.
    Hairpin,
}

/// In which state the destination is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum State {
    /// Something accepts.
    Open,
    /// Nothing listens.
    Closed,
    /// Something listens and has no room.
    FullBacklog,
    /// The pod itself drops it.
    Firewall,
    /// A proxy in the pod takes it.
    Sidecar,
}

/// What the policies say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Said {
    /// Both ends' policies admit it.
    Allowed,
    /// The destination's do not.
    DeniedIngress,
    /// The source's do not.
    DeniedEgress,
    /// Neither's do.
    DeniedBoth,
}

/// One cell of a group (an enforcer in a topology).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Cell {
    pub(crate) path: Path,
    pub(crate) state: State,
    pub(crate) said: Said,
    pub(crate) protocol: Protocol,
    pub(crate) family: Family,
}

impl Path {
    pub(crate) const ALL: [Self; 5] = [
        Self::SameNode,
        Self::Across,
        Self::Service,
        Self::NodePort,
        Self::Hairpin,
    ];

    const fn number(self) -> u16 {
        match self {
            Self::SameNode => 0,
            Self::Across => 1,
            Self::Service => 2,
            Self::NodePort => 3,
            Self::Hairpin => 4,
        }
    }
}

impl State {
    pub(crate) const ALL: [Self; 5] = [
        Self::Open,
        Self::Closed,
        Self::FullBacklog,
        Self::Firewall,
        Self::Sidecar,
    ];

    const fn number(self) -> u16 {
        match self {
            Self::Open => 0,
            Self::Closed => 1,
            Self::FullBacklog => 2,
            Self::Firewall => 3,
            Self::Sidecar => 4,
        }
    }

    /// The kind of pod that can be in it.
    pub(crate) const fn role(self) -> &'static str {
        match self {
            Self::Open | Self::Closed | Self::FullBacklog => "plain",
            Self::Firewall => "walled",
            Self::Sidecar => "meshed",
        }
    }
}

impl Said {
    pub(crate) const ALL: [Self; 4] = [
        Self::Allowed,
        Self::DeniedIngress,
        Self::DeniedEgress,
        Self::DeniedBoth,
    ];

    /// The role of the source about which that is said.
    pub(crate) const fn role(self) -> &'static str {
        match self {
            Self::Allowed => "ok",
            Self::DeniedIngress => "in",
            Self::DeniedEgress => "eg",
            Self::DeniedBoth => "both",
        }
    }
}

/// The protocols of the table.
pub(crate) const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
/// The first and the last port that cells use in pods.
pub(crate) const PORTS: (u16, u16) = (1000, 1099);
/// The first port that cells use at Services: few, since an enforcer's rules grow with them.
const SERVICE_PORTS: u16 = 2000;
/// The first port that cells use at nodes.
const NODE_PORTS: u16 = 30_000;

impl Cell {
    /// Why there can be no such cell, if so.
    fn impossible(self) -> Option<&'static str> {
        match (self.state, self.protocol, self.path, self.said) {
            (State::FullBacklog, Protocol::Udp, ..) => Some("UDP has no backlog"),
            (State::FullBacklog, Protocol::Sctp, ..) => {
                Some("raw sockets, which stand for SCTP here, have no backlog")
            }
            (.., Path::Hairpin, said) if said != Said::DeniedBoth => {
                Some("one pod is on both ends: its own policies say one thing only")
            }
            _ => None,
        }
    }

    /// The port at the destination: tells path and state apart.
    pub(crate) const fn port(self) -> u16 {
        PORTS.0 + self.path.number() * 10 + self.state.number()
    }

    /// The port that is asked for.
    pub(crate) const fn asked_port(self) -> u16 {
        match self.path {
            Path::NodePort => NODE_PORTS + self.state.number(),
            Path::Service | Path::Hairpin => self.service_port(),
            Path::SameNode | Path::Across => self.port(),
        }
    }

    /// The port of the Service that leads there.
    pub(crate) const fn service_port(self) -> u16 {
        SERVICE_PORTS + self.state.number()
    }

    /// `namespace/pod` of the source.
    pub(crate) fn source(self) -> String {
        match self.path {
            Path::Hairpin => format!("t/{}-1", self.state.role()),
            _ => format!("t/from-{}", self.said.role()),
        }
    }

    /// Name of the Service on the way.
    pub(crate) fn service(self) -> Option<String> {
        service(self.path, self.state.role())
    }

    /// `namespace/pod` of whoever may be reached.
    pub(crate) fn destinations(self) -> Vec<String> {
        let role = self.state.role();
        let nodes: &[u8] = match self.path {
            Path::SameNode | Path::Hairpin => &[1],
            Path::Across | Path::NodePort => &[2],
            Path::Service => &[1, 2],
        };
        nodes
            .iter()
            .map(|node| format!("t/{role}-{node}"))
            .collect()
    }

    /// Which of an address pair is of its family.
    pub(crate) fn pick(self, pair: [IpAddr; 2]) -> IpAddr {
        let [v4, v6] = pair;
        match self.family {
            Family::V4 => v4,
            Family::V6 => v6,
        }
    }

    /// The address and port that is asked for, given where pods, Services and the source's node are.
    pub(crate) fn asked(self, places: &BTreeMap<String, [IpAddr; 2]>) -> Result<SocketAddr> {
        let place = match self.path {
            Path::SameNode | Path::Across => self.destinations().into_iter().next(),
            Path::Service | Path::Hairpin => self.service(),
            Path::NodePort => Some("node-1".to_owned()),
        };
        let place = place.unwrap_or_default();
        let pair = places
            .get(&place)
            .with_context(|| format!("nobody knows where {place} is"))?;
        Ok(SocketAddr::new(self.pick(*pair), self.asked_port()))
    }
}

/// Name of the Service that leads to the pods of a role.
pub(crate) fn service(path: Path, role: &str) -> Option<String> {
    match path {
        Path::SameNode | Path::Across => None,
        Path::Service => Some(format!("to-{role}")),
        Path::NodePort => Some(format!("node-{role}")),
        Path::Hairpin => Some(format!("self-{role}")),
    }
}

/// Every cell of a group, and how many there cannot be, by reason.
pub(crate) fn all() -> (Vec<Cell>, BTreeMap<&'static str, usize>) {
    let mut cells = Vec::new();
    let mut impossible = BTreeMap::new();
    for path in Path::ALL {
        for state in State::ALL {
            for said in Said::ALL {
                for protocol in PROTOCOLS {
                    for family in [Family::V4, Family::V6] {
                        let cell = Cell {
                            path,
                            state,
                            said,
                            protocol,
                            family,
                        };
                        match cell.impossible() {
                            None => cells.push(cell),
                            Some(why) => *impossible.entry(why).or_insert(0) += 1,
                        }
                    }
                }
            }
        }
    }
    (cells, impossible)
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SameNode => "same node",
            Self::Across => "across",
            Self::Service => "Service",
            Self::NodePort => "nodePort",
            Self::Hairpin => "hairpin",
        })
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Closed => "closed",
            Self::FullBacklog => "full backlog",
            Self::Firewall => "in-pod firewall",
            Self::Sidecar => "sidecar redirect",
        })
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allowed => "allowed",
            Self::DeniedIngress => "denied by ingress",
            Self::DeniedEgress => "denied by egress",
            Self::DeniedBoth => "denied by both",
        })
    }
}

/// `TCP` and so on.
pub(crate) const fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        Protocol::Sctp => "SCTP",
    }
}

/// `IPv4` or `IPv6`.
pub(crate) const fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} {}, {}, {}",
            protocol_name(self.protocol),
            family_name(self.family),
            self.path,
            self.state,
            self.said
        )
    }
}
