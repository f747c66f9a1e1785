//! What the kernel saw, decoded.

use std::net::{IpAddr, SocketAddr};

use polproof_policy::Protocol;
use serde::{Deserialize, Serialize};

/// A moment on the node's CLOCK_MONOTONIC, in nanoseconds. Comparable within one boot of one node only.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Instant(pub u64);

impl Instant {
    /// Nanoseconds in a second.
    pub const SECOND: u64 = 1_000_000_000;

    /// This moment and a duration after it, saturating.
    pub const fn plus(self, nanos: u64) -> Self {
        Self(self.0.saturating_add(nanos))
    }
    /// This moment less a duration, saturating at the boot.
    pub const fn minus(self, nanos: u64) -> Self {
        Self(self.0.saturating_sub(nanos))
    }
    /// Nanoseconds since an earlier moment, 0 if it is later.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Cookie of a network namespace (`net->net_cookie`): never reused within a boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NetnsCookie(pub u64);

/// Which way a packet crossed the pod's eth0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Crossing {
    /// Into the pod.
    In,
    /// Out of the pod.
    Out,
}

/// What kind of packet it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Event {
    /// SYN without ACK.
    Syn {
        /// Initial sequence number: the attempt's identity, unchanged by NAT.
        isn: u32,
    },
    /// SYN with ACK.
    SynAck {
        /// Acknowledgement number: the attempt's ISN + 1.
        acknowledgement: u32,
    },
    /// RST.
    Rst {
        /// Sequence number.
        sequence: u32,
        /// Acknowledgement number; ISN + 1 for the refusal of a SYN.
        acknowledgement: u32,
        /// Whether the ACK flag was set.
        ack: bool,
        /// TTL or hop limit.
        ttl: u8,
    },
    /// ICMP destination unreachable; `Record` protocol, source and destination are those of the quoted packet.
    Unreachable {
        /// Who sent the error.
        reporter: IpAddr,
        /// ICMP type.
        icmp_type: u8,
        /// ICMP code.
        code: u8,
        /// Sequence number of the quoted segment: the ISN, if it was a SYN. Of a quoted SCTP INIT its initiate tag; 0 for UDP.
        quoted_sequence: u32,
    },
    /// SCTP INIT (RFC 9260, section 3.3.2).
    Init {
        /// Initiate tag: the attempt's identity, as the ISN is for TCP.
        tag: u32,
    },
    /// SCTP INIT ACK.
    InitAck {
        /// Verification tag: the initiate tag of the INIT that it answers.
        tag: u32,
    },
    /// SCTP ABORT.
    Abort {
        /// Verification tag: of the refusal of an INIT, the initiate tag of it.
        tag: u32,
    },
    /// A UDP datagram: the first of its tuple (both addresses, the lower port and whose it is, the crossing) for some time. While a tuple
    /// goes on, the kernel records one of its datagrams now and then, not each.
    Datagram,
}

/// One packet at one eth0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Record {
    /// When.
    pub at: Instant,
    /// In which pod's namespace.
    pub netns: NetnsCookie,
    /// Into or out of the pod.
    pub crossing: Crossing,
    /// Transport (of the quoted packet for [`Event::Unreachable`]).
    pub protocol: Protocol,
    /// Source address and port (of the quoted packet for [`Event::Unreachable`]).
    pub source: SocketAddr,
    /// Destination address and port (of the quoted packet for [`Event::Unreachable`]).
    pub destination: SocketAddr,
    /// What it was.
    pub event: Event,
}
