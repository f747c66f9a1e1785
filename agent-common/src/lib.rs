//! The ABI between the BPF programs and the agent: records, map shapes, counters.
//!
//! Both sides compile this crate. Any change of a layout or a number here bumps
//! [`ABI_VERSION`], which is part of the name of the pin directory: an agent never reads
//! records that another layout wrote.
//!
//! It refuses to hold logic: no parsing, no allocation, no `std`.
#![no_std]

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Version of everything in this crate.
pub const ABI_VERSION: u32 = 2;

/// Name of the ring buffer map that carries [`PacketRecord`]s.
pub const RECORDS_MAP: &str = "RECORDS";
/// Name of the per-CPU array with one [`CpuState`].
pub const COUNTERS_MAP: &str = "COUNTERS";
/// Name of the map of one `u64` behind the programs' global of that section: what the datagram filter's hash is mixed with.
/// Another value makes the filter forget.
pub const SEED_MAP: &str = ".data.seed";

/// Stands in the programs as what `r0` is set to, in the one instruction that the agent turns into a call of the kernel's
/// function `bpf_cast_to_kern_ctx`, where there is one. The function takes a program's context and returns the packet itself.
pub const CONTEXT_CAST_MARK: u32 = 0x5c3a_91e7;

/// [`PacketRecord::kind`]: a TCP SYN without ACK.
pub const KIND_TCP_SYN: u8 = 1;
/// A TCP SYN with ACK.
pub const KIND_TCP_SYN_ACK: u8 = 2;
/// A TCP RST.
pub const KIND_TCP_RST: u8 = 3;
/// An ICMP or ICMPv6 destination unreachable that quotes a packet of TCP, UDP or SCTP.
pub const KIND_UNREACHABLE: u8 = 4;
/// An SCTP INIT.
pub const KIND_SCTP_INIT: u8 = 5;
/// An SCTP INIT ACK.
pub const KIND_SCTP_INIT_ACK: u8 = 6;
/// An SCTP ABORT.
pub const KIND_SCTP_ABORT: u8 = 7;
/// A UDP datagram whose tuple was not written down for [`DATAGRAM_WINDOW_SECONDS`].
pub const KIND_DATAGRAM: u8 = 8;
/// A notice, no packet: headers could not be walked. Only the time, the namespace, the CPU and the direction
/// are set. At most one in [`NOTICE_INTERVAL_MS`] from each CPU: it stands for that long.
pub const KIND_UNPARSED: u8 = 9;
/// A notice like [`KIND_UNPARSED`]: datagrams are left out, since there are too many new tuples.
pub const KIND_SAMPLED: u8 = 10;

/// [`PacketRecord::direction`]: into the pod (eth0 ingress).
pub const DIRECTION_IN: u8 = 1;
/// Out of the pod (eth0 egress).
pub const DIRECTION_OUT: u8 = 2;

/// [`PacketRecord::protocol`]: IANA's number of TCP.
pub const PROTOCOL_TCP: u8 = 6;
/// Of UDP.
pub const PROTOCOL_UDP: u8 = 17;
/// Of SCTP.
pub const PROTOCOL_SCTP: u8 = 132;

/// A tuple of datagrams that goes on is written down again after this time, unless the agent sets a shorter one.
pub const DATAGRAM_WINDOW_SECONDS: u32 = 30;
/// At least this long between two notices of a kind from one CPU.
pub const NOTICE_INTERVAL_MS: u32 = 100;
/// Datagram records that a CPU may write in a second.
pub const DATAGRAMS_PER_SECOND: u32 = 2_000;
/// Datagram records that a CPU may write at once after a quiet time. Below half of it only one tuple of
/// [`DATAGRAM_SAMPLE`] is written down, chosen by its source address and port, the same at both ends.
pub const DATAGRAM_BURST: u32 = 4_000;
/// See [`DATAGRAM_BURST`]; a power of two.
pub const DATAGRAM_SAMPLE: u32 = 16;

/// One packet, as the BPF program saw it. All integers are in host byte order; addresses are in
/// network order, IPv4 in the first four bytes with the rest zero.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PacketRecord {
    /// `bpf_ktime_get_ns`: CLOCK_MONOTONIC in nanoseconds.
    pub ktime_ns: u64,
    /// Cookie of the network namespace of the device.
    pub netns_cookie: u64,
    /// Per-CPU sequence number, from 1, of every record that was to be written: a gap is a
    /// loss.
    pub cpu_sequence: u64,
    /// TCP sequence number; for [`KIND_UNREACHABLE`] that of the quoted segment. SCTP: the initiate tag of an INIT, quoted or not
    /// (0 if the quotation ends before it), else the verification tag. 0 for UDP.
    pub sequence: u32,
    /// TCP acknowledgement number; else 0.
    pub acknowledgement: u32,
    /// Source address; for ICMP that of the *quoted* packet.
    pub source: [u8; 16],
    /// Destination address; for ICMP that of the *quoted* packet.
    pub destination: [u8; 16],
    /// For ICMP the outer source, who sent the error; else zero.
    pub reporter: [u8; 16],
    /// Source port; for ICMP that of the quoted segment.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// CPU that wrote the record.
    pub cpu: u16,
    /// One of the `KIND_*`.
    pub kind: u8,
    /// One of the `DIRECTION_*`.
    pub direction: u8,
    /// 4 or 6; 0 for a notice.
    pub ip_version: u8,
    /// TTL or hop limit of the (outer) packet.
    pub ttl: u8,
    /// TCP flags byte; else 0.
    pub tcp_flags: u8,
    /// ICMP type; else 0.
    pub icmp_type: u8,
    /// ICMP code; else 0.
    pub icmp_code: u8,
    /// One of the `PROTOCOL_*`, for ICMP that of the quoted packet; 0 for a notice.
    pub protocol: u8,
    /// Zero.
    pub reserved: [u8; 2],
}

/// Index into [`CpuState::counters`].
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Records that were to be written (the last `cpu_sequence` of the CPU).
    Sequence = 0,
    /// Records lost because the ring was full.
    RingFull = 1,
    /// Packets whose headers could not be walked (truncated, too many extension headers).
    Unparsed = 2,
    /// Non-first fragments, which carry no ports.
    Fragment = 3,
    /// Records lost because the namespace cookie could not be read.
    NoCookie = 4,
    /// Datagrams of tuples not written down lately that were left out, since there were too many.
    DatagramsSampled = 5,
    /// Packets into a pod that are addressed to another device (flooded by a bridge): the pod's stack drops them.
    OtherHost = 6,
    /// ICMP and ICMPv6, without neighbour and multicast listener discovery.
    Icmp = 7,
    /// Tunnels: IP in IP, GRE, EtherIP, L2TP.
    Tunnel = 8,
    /// IPsec: ESP, and AH over IPv4 (over IPv6 it is stepped over).
    Ipsec = 9,
    /// Every other protocol over IP.
    OtherIp = 10,
    /// Frames that are neither IPv4, IPv6 nor ARP.
    OtherFrame = 11,
}

/// How many [`Counter`]s there are.
pub const COUNTERS: usize = 12;

/// What each CPU keeps: the value of [`COUNTERS_MAP`].
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct CpuState {
    /// One for each [`Counter`].
    pub counters: [u64; COUNTERS],
    /// Datagram records that may still be written.
    pub budget: u32,
    /// When the budget was last added to. This and the other times are the lower half of `jiffies`.
    pub budget_at: u32,
    /// When the last [`KIND_UNPARSED`] was written.
    pub unparsed_at: u32,
    /// When the last [`KIND_SAMPLED`] was written.
    pub sampled_at: u32,
}

/// [`CpuState`] as words, the counters first.
pub const CPU_STATE_WORDS: usize = size_of::<CpuState>() / size_of::<u64>();
