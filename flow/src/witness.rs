//! What the witnesses at the two ends of a connection ask each other.
//!
//! ```text
//! agent A (judge) --Inquiry--> collector --Question--> agent B (judge)
//!                <--Testimony--          <--Testimony--
//! ```
//!
//! An attempt is the same at both ends, whatever was translated on the way, by its TCP initial sequence number or SCTP initiate tag; a UDP
//! flow by its source address and port, or, if that was translated too, not at all. Times are the reader's own: whoever carries a message
//! between two nodes translates them.

use std::net::SocketAddr;
use std::sync::Arc;

use polproof_policy::{NamespacedName, Protocol, Uid};
use serde::{Deserialize, Serialize};

use crate::record::Instant;

/// At which end of a connection a witness sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Side {
    /// The pod is connected to.
    Destination,
    /// The pod connects.
    Source,
}

/// What is asked of the witness at the other end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Whose word is wanted: that of the source of the attempt, or that of its destination.
    pub side: Side,
    /// Transport.
    pub protocol: Protocol,
    /// ISN or initiate tag; 0 for UDP.
    pub tag: u32,
    /// Who connects, as the asker saw it.
    pub client: SocketAddr,
    /// To whom, as the asker saw it.
    pub server: SocketAddr,
    /// The pod that must have seen it, if the asker knows: else any pod of the node.
    pub pod: Option<Uid>,
    /// The asker's own pod.
    pub asker: Option<Uid>,
    /// First packet of the attempt.
    pub first: Instant,
    /// Last packet of the attempt: repetitions count.
    pub last: Instant,
}

/// Whom to ask.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Whom {
    /// The agent of a node.
    Node(Arc<str>),
    /// Every agent: the address names nobody.
    Everybody,
}

/// A question on its way to the collector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inquiry {
    /// The asker's number for it; comes back with the testimony.
    pub id: u64,
    /// Whom to ask.
    pub whom: Whom,
    /// What.
    pub question: Question,
}

/// What a witness says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Testimony {
    /// It crossed the eth0 of a pod of mine.
    Seen(Sighting),
    /// It did not, and I missed nothing.
    NotSeen(Absence),
    /// I cannot tell.
    Incomplete(Gap),
}

/// An attempt as the other witness saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sighting {
    /// Which pod's eth0, if it is identified.
    pub pod: Option<(NamespacedName, Uid)>,
    /// Who connects, as seen there.
    pub client: SocketAddr,
    /// To whom, as seen there.
    pub server: SocketAddr,
    /// First packet.
    pub first: Instant,
    /// What became of it there, by now.
    pub outcome: Seen,
}

/// What became of an attempt, as one witness saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Seen {
    /// SYN-ACK, INIT ACK, or a datagram back.
    Accepted,
    /// RST, ABORT, or ICMP port unreachable from the pod itself.
    Refused,
    /// An ICMP error came (at the source) or left (at the destination, where a filter of the pod speaks).
    Unreachable,
    /// Nothing, yet or for good.
    Unanswered,
}

/// A complete witness that did not see an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Absence {
    /// Another attempt that was delivered to that pod and answered, from a pod of the asker's node or the asker's own pod, and the nearest in time.
    pub control: Option<Control>,
}

/// What shows that the way was open at that time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Control {
    /// When it was delivered.
    pub at: Instant,
    /// Who connected.
    pub client: SocketAddr,
    /// To what.
    pub server: SocketAddr,
}

/// Why a witness cannot tell that it did not see an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Gap {
    /// No agent of that node is connected, or it is not known whose it is.
    NoAgent,
    /// It did not answer in time.
    TimedOut,
    /// More was asked than is answered.
    Overloaded,
    /// The pod is not on this node, or no namespace is identified as its.
    PodUnknown,
    /// Something else sits on the pod's eth0.
    HookShared,
    /// The programs were not attached all the time.
    NotAttached,
    /// Records were lost around it.
    RecordsLost,
    /// Packets that could not be read came around it.
    Unparsed,
    /// It is so long ago that it is forgotten, or something was seen that is it but for the time.
    TooOld,
    /// The witness samples, and this attempt is not of its class. So does the kernel, of UDP: a datagram may be hidden by another one of the
    /// last half minute (or what it is set to), or be one of those whose sender was translated.
    NotSampled,
}

impl Gap {
    /// Every reason, in the order of their numbers.
    pub const ALL: [Self; 10] = [
        Self::NoAgent,
        Self::TimedOut,
        Self::Overloaded,
        Self::PodUnknown,
        Self::HookShared,
        Self::NotAttached,
        Self::RecordsLost,
        Self::Unparsed,
        Self::TooOld,
        Self::NotSampled,
    ];
}
