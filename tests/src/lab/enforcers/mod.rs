//! Emulations of the ways in which CNIs enforce NetworkPolicies, fail to, and misbehave.
//!
//! ```text
//! manifests --naive reference--> Says (what one node believes) --faults--> Plan --mechanism--> kernel
//!                                   '------------- fate(case) says what becomes of one attempt
//! ```
//!
//! What is allowed is computed by the naive reference and never by the engine under test. An enforcer is a mechanism
//! (iptables, nft, programs on the host's end of a veth) and a list of faults, so a new combination is one line of
//! [`catalogue`]. Each can say beforehand what it does to a packet ([`Enforcer::fate`]): the oracle of
//! the truth table, itself checked against real packets.
//!
//! A node decides what its own pods may send and what they may receive; nothing here is decided on behalf of another node's pod.

mod catalogue;
mod conntrack;
mod emulation;
mod icmp;
mod iptables;
mod kind;
mod netlink;
mod nft;
mod none;
mod oracle;
mod plan;
mod programs;
mod services;
mod view;

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::Result;
use polproof_policy::Protocol;
use serde_json::Value;

use crate::netns::Netns;

pub use catalogue::{Drill, Entry, catalogue, named};
pub use emulation::Emulation;
pub use kind::{Attach, Fault, Hook, Mechanism, Memory, Stop};
pub use none::None;
pub use view::object;

/// What Calico and kube-router do in their iptables modes, made simple.
pub type IptablesDrop = Emulation;

/// What an enforcer gets to see.
#[derive(Debug)]
pub struct World<'a> {
    /// Each node's name and namespace.
    pub nodes: Vec<(&'a str, &'a Netns)>,
    /// Every object of the cluster, as written.
    pub objects: Vec<Value>,
    /// Addresses outside of the cluster that the lab's traffic may go to or come from.
    pub outside: Vec<IpAddr>,
    /// Every pod that is plugged in, one without an object too.
    pub seats: Vec<Seat<'a>>,
}

/// Where a pod is plugged in.
#[derive(Clone, Debug)]
pub struct Seat<'a> {
    /// The node.
    pub node: &'a str,
    /// The host's end of its eth0, in the node's namespace.
    pub veth: String,
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
}

/// Something that makes NetworkPolicies true on every node, or does not.
pub trait Enforcer: std::fmt::Debug {
    /// Its name.
    fn name(&self) -> &'static str;

    /// Makes the nodes enforce what the objects say now. To be called after every change, and when a pod was plugged in, before
    /// anything is sent to it that a scenario judges.
    ///
    /// # Errors
    /// When the rules cannot be computed or loaded.
    fn enforce(&mut self, world: &World<'_>) -> Result<()>;

    /// Takes away all that it installed.
    ///
    /// # Errors
    /// When something of it stays.
    fn withdraw(&mut self, world: &World<'_>) -> Result<()>;

    /// Something befalls it.
    ///
    /// # Errors
    /// When what it then does to the nodes fails.
    fn happen(&mut self, event: &Event, world: &World<'_>) -> Result<()>;

    /// What becomes of an attempt under the rules in force: the truth, whatever the policies say.
    fn fate(&self, case: &Case) -> Fate;
}

/// What may befall an enforcer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Its agent ends, on one node or on all: what is loaded stays, what changes is not noticed.
    Died(Option<String>),
    /// Its agents are back, and learn all that they missed.
    Restarted,
    /// It is replaced by another version of itself: everything is open for that long.
    Upgraded(Duration),
}

/// One attempt to connect, or a packet of a connection that is there. Addresses say who it is.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// The protocol.
    pub protocol: Protocol,
    /// The client's own address and port. Per-packet enforcers judge replies by the port; any ephemeral one is as good as another
    /// unless policies tell them apart.
    pub source: SocketAddr,
    /// What the client connects to: a Service, a node's port, or the destination itself.
    pub asked: SocketAddr,
    /// Who is to answer, after all rewriting.
    pub destination: SocketAddr,
    /// The source as it arrives: another than the client's own where a node masquerades (then it is an address of that node).
    pub shown: IpAddr,
    /// From when to when the client sends packets of this attempt, retransmissions included.
    pub sent: (Instant, Instant),
    /// When the connection was opened, if it is an old one.
    pub opened: Option<Instant>,
}

impl Case {
    /// A new attempt from an address straight to another one, at any time from now on until all that changes by itself has changed.
    pub fn direct(protocol: Protocol, source: IpAddr, destination: SocketAddr) -> Self {
        let now = Instant::now();
        Self {
            protocol,
            source: SocketAddr::new(source, 40_000),
            asked: destination,
            destination,
            shown: source,
            sent: (now, now),
            opened: Option::None,
        }
    }

    /// The same, to a Service or a node's port that is rewritten to the destination.
    #[must_use]
    pub const fn asking(self, asked: SocketAddr) -> Self {
        Self { asked, ..self }
    }

    /// The same, masqueraded on the way to this address of a node.
    #[must_use]
    pub const fn shown_as(self, shown: IpAddr) -> Self {
        Self { shown, ..self }
    }

    /// The same, its packets sent in that time.
    #[must_use]
    pub const fn sent(self, from: Instant, to: Instant) -> Self {
        Self {
            sent: (from, to),
            ..self
        }
    }

    /// A packet of a connection that was opened then.
    #[must_use]
    pub const fn of_connection_opened(self, at: Instant) -> Self {
        Self {
            opened: Some(at),
            ..self
        }
    }
}

/// What becomes of an attempt on the way. What the destination does with it is another matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fate {
    /// It gets to the destination's eth0, and the answer back.
    Passes,
    /// It does not get to the destination's eth0.
    Dies(How),
    /// It gets to the destination's eth0; what that answers gets lost in silence.
    ReplyDies,
    /// Too near to a change for anybody to know.
    Either,
}

/// What the source gets in return.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum How {
    /// Nothing.
    Silence,
    /// A RST in the name of the destination.
    TcpReset,
    /// ICMP 3/13, ICMPv6 1/1.
    IcmpAdminProhibited,
    /// ICMP 3/3, ICMPv6 1/4.
    IcmpPortUnreachable,
    /// ICMP port unreachable at first and nothing after a few of them.
    IcmpThenSilence,
}
