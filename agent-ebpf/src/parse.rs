//! From a packet to a record.
//!
//! [`may_matter`] runs for every packet and is a handful of loads; [`examine`] runs for the few that remain, and reads
//! through `bpf_skb_load_bytes`, which works wherever in the packet's pages the headers lie.

use aya_ebpf::programs::TcContext;
use polproof_agent_common::{Counter, KIND_ICMP_TCP, KIND_TCP_RST, KIND_TCP_SYN, KIND_TCP_SYN_ACK};

use crate::maps::{count, count_unparsed, submit};

const ETHERNET: usize = 14;
const IPV4: usize = 20;
const IPV6: usize = 40;
const TCP: usize = 20;

/// `skb->protocol` is in network order.
const PROTOCOL_IPV4: u32 = 0x0800_u16.to_be() as u32;
const PROTOCOL_IPV6: u32 = 0x86dd_u16.to_be() as u32;

const IPPROTO_HOP_BY_HOP: u8 = 0;
const IPPROTO_ICMP: u8 = 1;
const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;
const IPPROTO_ROUTING: u8 = 43;
const IPPROTO_FRAGMENT: u8 = 44;
const IPPROTO_AUTHENTICATION: u8 = 51;
const IPPROTO_ICMPV6: u8 = 58;
const IPPROTO_DESTINATION: u8 = 60;
const IPPROTO_MOBILITY: u8 = 135;
const IPPROTO_HIP: u8 = 139;
const IPPROTO_SHIM6: u8 = 140;

const FLAG_SYN: u8 = 0x02;
const FLAG_RST: u8 = 0x04;
const FLAG_ACK: u8 = 0x10;

const ICMP_UNREACHABLE: u8 = 3;
const ICMPV6_UNREACHABLE: u8 = 1;

/// IPv6 extension headers that are walked, more than any honest packet has.
const MAX_EXTENSIONS: usize = 8;

/// Whether the packet needs a closer look. False only if it is surely neither a SYN, a SYN-ACK nor a RST, no ICMP
/// error, no fragment and not too short to tell.
#[inline(always)]
pub(crate) fn may_matter(ctx: &TcContext) -> bool {
    // SAFETY: the context is valid while the program runs.
    let protocol = unsafe { (*ctx.skb.skb).protocol };
    let start = ctx.data();
    let end = ctx.data_end();
    if protocol == PROTOCOL_IPV4 {
        if start + ETHERNET + IPV4 > end {
            return true;
        }
        let next = byte(start + ETHERNET + 9);
        if next == IPPROTO_TCP {
            if start + ETHERNET + IPV4 + TCP > end || byte(start + ETHERNET) != 0x45 {
                return true;
            }
            // Fragment offset, without the flag bits.
            if (byte(start + ETHERNET + 6) & 0x1f) | byte(start + ETHERNET + 7) != 0 {
                return true;
            }
            return byte(start + ETHERNET + IPV4 + 13) & (FLAG_SYN | FLAG_RST) != 0;
        }
        next == IPPROTO_ICMP
    } else if protocol == PROTOCOL_IPV6 {
        if start + ETHERNET + IPV6 > end {
            return true;
        }
        let next = byte(start + ETHERNET + 6);
        if next == IPPROTO_TCP {
            if start + ETHERNET + IPV6 + TCP > end {
                return true;
            }
            return byte(start + ETHERNET + IPV6 + 13) & (FLAG_SYN | FLAG_RST) != 0;
        }
        next != IPPROTO_UDP
    } else {
        false
    }
}

/// Only for addresses below a checked `data_end`, which the verifier verifies.
#[inline(always)]
fn byte(address: usize) -> u8 {
    // SAFETY: the caller has compared the address with `data_end`.
    unsafe { *(address as *const u8) }
}

/// Why a packet gave no record.
enum Skip {
    /// It is of no interest.
    Irrelevant,
    /// A fragment other than the first.
    Fragment,
    /// The headers end too early or are too many.
    Unparsed,
}

/// What a packet's headers say. Addresses are kept as words: BPF has no `memcpy`, and what is not aligned is
/// copied and cleared byte by byte, which was a fifth of the cost of a record.
#[derive(Clone, Copy)]
pub(crate) struct Handshake {
    pub(crate) source: Address,
    pub(crate) destination: Address,
    pub(crate) reporter: Address,
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: u32,
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    pub(crate) kind: u8,
    pub(crate) direction: u8,
    pub(crate) ip_version: u8,
    pub(crate) ttl: u8,
    pub(crate) tcp_flags: u8,
    pub(crate) icmp_type: u8,
    pub(crate) icmp_code: u8,
}

/// 16 bytes in the order of the packet, IPv4 in the first four.
pub(crate) type Address = [u64; 2];

/// Reads the headers and writes a record if the packet is part of a handshake.
#[inline(never)]
pub(crate) fn examine(ctx: &TcContext, direction: u8) {
    // SAFETY: the context is valid while the program runs.
    let protocol = unsafe { (*ctx.skb.skb).protocol };
    let parsed = if protocol == PROTOCOL_IPV4 {
        ipv4(ctx, direction)
    } else {
        ipv6(ctx, direction)
    };
    match parsed {
        Ok(handshake) => submit(ctx, &handshake),
        Err(Skip::Irrelevant) => {}
        Err(Skip::Fragment) => {
            count(Counter::Fragment);
        }
        Err(Skip::Unparsed) => count_unparsed(ctx),
    }
}

#[inline(always)]
fn read<T>(ctx: &TcContext, offset: usize) -> Result<T, Skip> {
    ctx.load(offset).map_err(|_| Skip::Unparsed)
}

/// What of an IP header is of use.
struct Ip {
    source: Address,
    destination: Address,
    /// Where the next header is that is no extension.
    transport: usize,
    protocol: u8,
    /// TTL or hop limit.
    ttl: u8,
}

#[inline(always)]
fn ipv4(ctx: &TcContext, direction: u8) -> Result<Handshake, Skip> {
    let outer = ipv4_header(ctx, ETHERNET)?;
    if outer.protocol == IPPROTO_TCP {
        return tcp(ctx, &outer, 4, direction);
    }
    if outer.protocol != IPPROTO_ICMP {
        return Err(Skip::Irrelevant);
    }
    let [icmp_type, icmp_code]: [u8; 2] = read(ctx, outer.transport)?;
    if icmp_type != ICMP_UNREACHABLE {
        return Err(Skip::Irrelevant);
    }
    let quoted = ipv4_header(ctx, outer.transport + 8)?;
    let reply = unreachable(ctx, &outer, &quoted, direction)?;
    Ok(Handshake {
        ip_version: 4,
        icmp_type,
        icmp_code,
        ..reply
    })
}

#[inline(always)]
fn ipv4_header(ctx: &TcContext, offset: usize) -> Result<Ip, Skip> {
    let header: [u32; IPV4 / 4] = read(ctx, offset)?;
    let [version, ..] = header[0].to_ne_bytes();
    let [_, _, high, low] = header[1].to_ne_bytes();
    let [ttl, protocol, ..] = header[2].to_ne_bytes();
    let length = ((version & 0x0f) as usize) * 4;
    if version >> 4 != 4 || length < IPV4 {
        return Err(Skip::Unparsed);
    }
    if (high & 0x1f) | low != 0 {
        return Err(Skip::Fragment);
    }
    Ok(Ip {
        source: ipv4_address(header[3]),
        destination: ipv4_address(header[4]),
        transport: offset + length,
        protocol,
        ttl,
    })
}

#[inline(always)]
fn ipv4_address(word: u32) -> Address {
    let [a, b, c, d] = word.to_ne_bytes();
    [u64::from_ne_bytes([a, b, c, d, 0, 0, 0, 0]), 0]
}

#[inline(always)]
fn ipv6(ctx: &TcContext, direction: u8) -> Result<Handshake, Skip> {
    let outer = ipv6_header(ctx, ETHERNET)?;
    if outer.protocol == IPPROTO_TCP {
        return tcp(ctx, &outer, 6, direction);
    }
    if outer.protocol != IPPROTO_ICMPV6 {
        return Err(Skip::Irrelevant);
    }
    let [icmp_type, icmp_code]: [u8; 2] = read(ctx, outer.transport)?;
    if icmp_type != ICMPV6_UNREACHABLE {
        return Err(Skip::Irrelevant);
    }
    let quoted = ipv6_header(ctx, outer.transport + 8)?;
    let reply = unreachable(ctx, &outer, &quoted, direction)?;
    Ok(Handshake {
        ip_version: 6,
        icmp_type,
        icmp_code,
        ..reply
    })
}

/// Also walks the extension headers.
#[inline(always)]
fn ipv6_header(ctx: &TcContext, offset: usize) -> Result<Ip, Skip> {
    let header: [u64; IPV6 / 8] = read(ctx, offset)?;
    let [version, _, _, _, _, _, next, ttl] = header[0].to_ne_bytes();
    if version >> 4 != 6 {
        return Err(Skip::Unparsed);
    }
    let (transport, protocol) = extensions(ctx, offset + IPV6, next)?;
    Ok(Ip {
        source: [header[1], header[2]],
        destination: [header[3], header[4]],
        transport,
        protocol,
        ttl,
    })
}

/// Steps over extension headers.
#[inline(always)]
fn extensions(ctx: &TcContext, mut offset: usize, mut next: u8) -> Result<(usize, u8), Skip> {
    for _ in 0..MAX_EXTENSIONS {
        let length = match next {
            IPPROTO_HOP_BY_HOP | IPPROTO_ROUTING | IPPROTO_DESTINATION | IPPROTO_MOBILITY
            | IPPROTO_HIP | IPPROTO_SHIM6 => {
                let header: [u8; 2] = read(ctx, offset)?;
                next = header[0];
                (header[1] as usize + 1) * 8
            }
            IPPROTO_AUTHENTICATION => {
                let header: [u8; 2] = read(ctx, offset)?;
                next = header[0];
                (header[1] as usize + 2) * 4
            }
            IPPROTO_FRAGMENT => {
                let header: [u8; 4] = read(ctx, offset)?;
                if header[2] | (header[3] & 0xf8) != 0 {
                    return Err(Skip::Fragment);
                }
                next = header[0];
                8
            }
            _ => return Ok((offset, next)),
        };
        offset += length;
    }
    Err(Skip::Unparsed)
}

#[inline(always)]
fn tcp(ctx: &TcContext, outer: &Ip, ip_version: u8, direction: u8) -> Result<Handshake, Skip> {
    let header: [u32; TCP / 4] = read(ctx, outer.transport)?;
    let [_, flags, ..] = header[3].to_ne_bytes();
    // A RST with SYN, which no stack sends, is a RST: it ends whatever it meets.
    let kind = if flags & FLAG_RST != 0 {
        KIND_TCP_RST
    } else if flags & FLAG_SYN == 0 {
        return Err(Skip::Irrelevant);
    } else if flags & FLAG_ACK != 0 {
        KIND_TCP_SYN_ACK
    } else {
        KIND_TCP_SYN
    };
    let (source_port, destination_port) = ports(header[0]);
    Ok(Handshake {
        source: outer.source,
        destination: outer.destination,
        reporter: [0; 2],
        sequence: u32::from_be(header[1]),
        acknowledgement: u32::from_be(header[2]),
        source_port,
        destination_port,
        kind,
        direction,
        ip_version,
        ttl: outer.ttl,
        tcp_flags: flags,
        icmp_type: 0,
        icmp_code: 0,
    })
}

/// An ICMP error: of the quoted transport header only 8 bytes need to be there. The caller adds what only it knows.
#[inline(always)]
fn unreachable(ctx: &TcContext, outer: &Ip, quoted: &Ip, direction: u8) -> Result<Handshake, Skip> {
    if quoted.protocol != IPPROTO_TCP {
        return Err(Skip::Irrelevant);
    }
    let header: [u32; 2] = read(ctx, quoted.transport)?;
    let (source_port, destination_port) = ports(header[0]);
    Ok(Handshake {
        source: quoted.source,
        destination: quoted.destination,
        reporter: outer.source,
        sequence: u32::from_be(header[1]),
        acknowledgement: 0,
        source_port,
        destination_port,
        kind: KIND_ICMP_TCP,
        direction,
        ip_version: 0,
        ttl: outer.ttl,
        tcp_flags: 0,
        icmp_type: 0,
        icmp_code: 0,
    })
}

/// Source and destination port, the first word of a TCP header.
#[inline(always)]
fn ports(word: u32) -> (u16, u16) {
    let [a, b, c, d] = word.to_ne_bytes();
    (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
}
