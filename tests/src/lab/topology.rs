//! How pods are joined to their node, and nodes to each other.

/// A way of wiring that CNIs use. Every one carries IPv4 and IPv6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Topology {
    /// A bridge on each node and routes between the nodes: flannel's host-gw.
    #[default]
    Bridge,
    /// A route for each pod, whose address is all of its network: Calico.
    Routed,
    /// A bridge on each node and a tunnel between them: flannel's vxlan.
    Vxlan,
}

impl Topology {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Bridge, Self::Routed, Self::Vxlan];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Routed => "routed",
            Self::Vxlan => "vxlan",
        }
    }
}

impl std::fmt::Display for Topology {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
