//! From a packet to a record.
//!
//! [`may_matter`] runs for every packet and is a handful of loads; [`examine`] runs for the few that remain, and reads
//! through `bpf_skb_load_bytes`, which works wherever in the packet's pages the headers lie.

use aya_ebpf::programs::TcContext;
use polproof_agent_common::{
    Counter, KIND_ICMP_TCP, KIND_TCP_RST, KIND_TCP_SYN, KIND_TCP_SYN_ACK, PacketRecord,
};

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
pub fn may_matter(ctx: &TcContext) -> bool {
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

/// Reads the headers and writes a record if the packet is part of a handshake.
#[inline(never)]
pub fn examine(ctx: &TcContext, direction: u8) {
    // SAFETY: the context is valid while the program runs.
    let protocol = unsafe { (*ctx.skb.skb).protocol };
    let mut record = PacketRecord {
        ktime_ns: 0,
        netns_cookie: 0,
        cpu_sequence: 0,
        sequence: 0,
        acknowledgement: 0,
        source: [0; 16],
        destination: [0; 16],
        reporter: [0; 16],
        source_port: 0,
        destination_port: 0,
        cpu: 0,
        kind: 0,
        direction,
        ip_version: 0,
        ttl: 0,
        tcp_flags: 0,
        icmp_type: 0,
        icmp_code: 0,
        reserved: [0; 3],
    };
    let parsed = if protocol == PROTOCOL_IPV4 {
        ipv4(ctx, &mut record)
    } else {
        ipv6(ctx, &mut record)
    };
    match parsed {
        Ok(()) => submit(ctx, record),
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

#[inline(always)]
fn ipv4(ctx: &TcContext, record: &mut PacketRecord) -> Result<(), Skip> {
    let (transport, protocol, ttl) = ipv4_header(ctx, ETHERNET, record)?;
    record.ip_version = 4;
    record.ttl = ttl;
    if protocol == IPPROTO_TCP {
        return tcp(ctx, transport, record);
    }
    if protocol != IPPROTO_ICMP {
        return Err(Skip::Irrelevant);
    }
    let [icmp_type, icmp_code]: [u8; 2] = read(ctx, transport)?;
    if icmp_type != ICMP_UNREACHABLE {
        return Err(Skip::Irrelevant);
    }
    record.reporter = record.source;
    let (quoted, protocol, _) = ipv4_header(ctx, transport + 8, record)?;
    unreachable(ctx, quoted, protocol, icmp_type, icmp_code, record)
}

/// Fills in the addresses; returns where the transport header is, its protocol and the TTL.
#[inline(always)]
fn ipv4_header(
    ctx: &TcContext,
    offset: usize,
    record: &mut PacketRecord,
) -> Result<(usize, u8, u8), Skip> {
    let header: [u8; IPV4] = read(ctx, offset)?;
    let length = ((header[0] & 0x0f) as usize) * 4;
    if header[0] >> 4 != 4 || length < IPV4 {
        return Err(Skip::Unparsed);
    }
    if (header[6] & 0x1f) | header[7] != 0 {
        return Err(Skip::Fragment);
    }
    record.source = [0; 16];
    record.destination = [0; 16];
    record.source[..4].copy_from_slice(&header[12..16]);
    record.destination[..4].copy_from_slice(&header[16..20]);
    Ok((offset + length, header[9], header[8]))
}

#[inline(always)]
fn ipv6(ctx: &TcContext, record: &mut PacketRecord) -> Result<(), Skip> {
    let (transport, protocol, hop_limit) = ipv6_header(ctx, ETHERNET, record)?;
    record.ip_version = 6;
    record.ttl = hop_limit;
    if protocol == IPPROTO_TCP {
        return tcp(ctx, transport, record);
    }
    if protocol != IPPROTO_ICMPV6 {
        return Err(Skip::Irrelevant);
    }
    let [icmp_type, icmp_code]: [u8; 2] = read(ctx, transport)?;
    if icmp_type != ICMPV6_UNREACHABLE {
        return Err(Skip::Irrelevant);
    }
    record.reporter = record.source;
    let (quoted, protocol, _) = ipv6_header(ctx, transport + 8, record)?;
    unreachable(ctx, quoted, protocol, icmp_type, icmp_code, record)
}

/// Fills in the addresses and walks the extension headers; returns where the transport header is, its protocol and
/// the hop limit.
#[inline(always)]
fn ipv6_header(
    ctx: &TcContext,
    offset: usize,
    record: &mut PacketRecord,
) -> Result<(usize, u8, u8), Skip> {
    let header: [u8; IPV6] = read(ctx, offset)?;
    if header[0] >> 4 != 6 {
        return Err(Skip::Unparsed);
    }
    record.source.copy_from_slice(&header[8..24]);
    record.destination.copy_from_slice(&header[24..40]);
    let (transport, protocol) = extensions(ctx, offset + IPV6, header[6])?;
    Ok((transport, protocol, header[7]))
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
fn tcp(ctx: &TcContext, offset: usize, record: &mut PacketRecord) -> Result<(), Skip> {
    let header: [u8; TCP] = read(ctx, offset)?;
    let flags = header[13];
    // A RST with SYN, which no stack sends, is a RST: it ends whatever it meets.
    record.kind = if flags & FLAG_RST != 0 {
        KIND_TCP_RST
    } else if flags & FLAG_SYN == 0 {
        return Err(Skip::Irrelevant);
    } else if flags & FLAG_ACK != 0 {
        KIND_TCP_SYN_ACK
    } else {
        KIND_TCP_SYN
    };
    record.tcp_flags = flags;
    record.source_port = u16::from_be_bytes([header[0], header[1]]);
    record.destination_port = u16::from_be_bytes([header[2], header[3]]);
    record.sequence = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    record.acknowledgement = u32::from_be_bytes([header[8], header[9], header[10], header[11]]);
    Ok(())
}

/// An ICMP error: `offset` is that of the quoted transport header, of which only 8 bytes need to be there.
#[inline(always)]
fn unreachable(
    ctx: &TcContext,
    offset: usize,
    protocol: u8,
    icmp_type: u8,
    icmp_code: u8,
    record: &mut PacketRecord,
) -> Result<(), Skip> {
    if protocol != IPPROTO_TCP {
        return Err(Skip::Irrelevant);
    }
    let header: [u8; 8] = read(ctx, offset)?;
    record.kind = KIND_ICMP_TCP;
    record.icmp_type = icmp_type;
    record.icmp_code = icmp_code;
    record.source_port = u16::from_be_bytes([header[0], header[1]]);
    record.destination_port = u16::from_be_bytes([header[2], header[3]]);
    record.sequence = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    Ok(())
}
