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
pub const ABI_VERSION: u32 = 1;

/// Name of the ring buffer map that carries [`PacketRecord`]s.
pub const RECORDS_MAP: &str = "RECORDS";
/// Name of the per-CPU array of [`Counter`] values.
pub const COUNTERS_MAP: &str = "COUNTERS";

/// [`PacketRecord::kind`]: a TCP SYN without ACK.
pub const KIND_TCP_SYN: u8 = 1;
/// A TCP SYN with ACK.
pub const KIND_TCP_SYN_ACK: u8 = 2;
/// A TCP RST.
pub const KIND_TCP_RST: u8 = 3;
/// An ICMP or ICMPv6 destination unreachable that quotes a TCP segment.
pub const KIND_ICMP_TCP: u8 = 4;

/// [`PacketRecord::direction`]: into the pod (eth0 ingress).
pub const DIRECTION_IN: u8 = 1;
/// Out of the pod (eth0 egress).
pub const DIRECTION_OUT: u8 = 2;

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
    /// TCP sequence number; for [`KIND_ICMP_TCP`] that of the quoted segment.
    pub sequence: u32,
    /// TCP acknowledgement number; 0 for ICMP.
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
    /// 4 or 6.
    pub ip_version: u8,
    /// TTL or hop limit of the (outer) packet.
    pub ttl: u8,
    /// TCP flags byte; 0 for ICMP.
    pub tcp_flags: u8,
    /// ICMP type; 0 for TCP.
    pub icmp_type: u8,
    /// ICMP code; 0 for TCP.
    pub icmp_code: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

/// Index into [`COUNTERS_MAP`]: a per-CPU array of `u64`.
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
    /// The namespace cookie could not be read.
    NoCookie = 4,
}

/// Entries of [`COUNTERS_MAP`].
pub const COUNTERS: u32 = 5;
