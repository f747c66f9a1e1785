//! From a packet to a record: runs for the few packets that [`crate::gate`] leaves.

use aya_ebpf::programs::TcContext;
use polproof_agent_common::{
    Counter, CpuState, DIRECTION_IN, KIND_DATAGRAM, KIND_SCTP_ABORT, KIND_SCTP_INIT,
    KIND_SCTP_INIT_ACK, KIND_TCP_RST, KIND_TCP_SYN, KIND_TCP_SYN_ACK, KIND_UNREACHABLE,
    PROTOCOL_SCTP, PROTOCOL_TCP, PROTOCOL_UDP,
};

use crate::emit::{self, Packet};
use crate::filter::{self, Fate, Ports};
use crate::headers::{
    CHUNK_ABORT, CHUNK_INIT, CHUNK_INIT_ACK, FLAG_ACK, FLAG_RST, FLAG_SYN, Ip, PROTOCOL_IPV4,
    PROTOCOL_IPV6, SCTP_CHUNK, Skip, TCP, head, outer_ipv4, outer_ipv6, quoted_ipv4, quoted_ipv6,
    read, words,
};
use crate::maps::{self, state};

const IPPROTO_ICMP: u8 = 1;
const IPPROTO_IPIP: u8 = 4;
const IPPROTO_IPV6: u8 = 41;
const IPPROTO_GRE: u8 = 47;
const IPPROTO_ESP: u8 = 50;
const IPPROTO_AUTHENTICATION: u8 = 51;
const IPPROTO_ICMPV6: u8 = 58;
const IPPROTO_ETHERIP: u8 = 97;
const IPPROTO_L2TP: u8 = 115;

const ICMP_UNREACHABLE: u8 = 3;
const ICMPV6_UNREACHABLE: u8 = 1;

/// `skb->pkt_type` of a packet for another device.
const PACKET_OTHERHOST: u32 = 3;

/// Reads the headers and writes a record if the packet is part of a handshake, a datagram of a new tuple, or an error about one.
#[inline(never)]
pub(crate) fn examine(ctx: &TcContext, direction: u8) {
    let Some(state) = state() else { return };
    // SAFETY: the context is valid while the program runs.
    let (protocol, packet_type) = unsafe { ((*ctx.skb.skb).protocol, (*ctx.skb.skb).pkt_type) };
    if direction == DIRECTION_IN && packet_type == PACKET_OTHERHOST {
        // A bridge floods what it does not know the place of. It was not delivered here, and must not hide, in the filter,
        // what is.
        // SAFETY: just looked up.
        unsafe { maps::add(state, Counter::OtherHost) };
        return;
    }
    let parsed = if protocol == PROTOCOL_IPV4 {
        outer_v4(ctx, state, direction)
    } else if protocol == PROTOCOL_IPV6 {
        outer_v6(ctx, state, direction)
    } else {
        Err(Skip::Other(Counter::OtherFrame))
    };
    // SAFETY: just looked up.
    unsafe {
        match parsed {
            Ok(packet) => emit::submit(ctx, state, &packet),
            Err(Skip::Irrelevant) => {}
            Err(Skip::Fragment) => {
                maps::add(state, Counter::Fragment);
            }
            Err(Skip::Other(counter)) => {
                maps::add(state, counter);
            }
            Err(Skip::Unparsed) => emit::unparsed(ctx, state, direction),
            Err(Skip::Sampled) => emit::sampled(ctx, state, direction),
        }
    }
}

#[inline(always)]
fn outer_v4(ctx: &TcContext, state: *mut CpuState, direction: u8) -> Result<Packet, Skip> {
    let outer = outer_ipv4(ctx)?;
    match outer.protocol {
        PROTOCOL_TCP => tcp(ctx, &outer, 4, direction),
        PROTOCOL_UDP => {
            let [first] = head(ctx, &outer)?;
            let (source_port, destination_port) = ports(first);
            let tuple = Ports::new(source_port, destination_port);
            let own = own_mac(ctx, direction)?;
            let [source, _] = outer.source;
            let [destination, _] = outer.destination;
            let addresses = (source & 0xffff_ffff) | (destination << 32);
            let hash = filter::hash_v4(own, addresses, tuple, direction);
            // SAFETY: the caller has just looked it up.
            let fate = unsafe { filter::decide(state, hash, outer.source, tuple) };
            datagram(fate, &outer, source_port, destination_port, 4, direction)
        }
        PROTOCOL_SCTP => sctp(ctx, &outer, 4, direction),
        IPPROTO_ICMP => {
            // SAFETY: the caller has just looked it up.
            unsafe { maps::add(state, Counter::Icmp) };
            let [icmp_type, icmp_code]: [u8; 2] = read(ctx, outer.transport)?;
            if icmp_type != ICMP_UNREACHABLE {
                return Err(Skip::Irrelevant);
            }
            let quoted = quoted_ipv4(ctx, outer.transport + 8)?;
            let reply = unreachable(ctx, &outer, &quoted, direction)?;
            Ok(Packet {
                ip_version: 4,
                icmp_type,
                icmp_code,
                ..reply
            })
        }
        other => Err(other_protocol(other)),
    }
}

#[inline(always)]
fn outer_v6(ctx: &TcContext, state: *mut CpuState, direction: u8) -> Result<Packet, Skip> {
    let outer = outer_ipv6(ctx)?;
    match outer.protocol {
        PROTOCOL_TCP => tcp(ctx, &outer, 6, direction),
        PROTOCOL_UDP => {
            let [first] = head(ctx, &outer)?;
            let (source_port, destination_port) = ports(first);
            let tuple = Ports::new(source_port, destination_port);
            let own = own_mac(ctx, direction)?;
            let hash = filter::hash_v6(own, outer.source, outer.destination, tuple, direction);
            // SAFETY: the caller has just looked it up.
            let fate = unsafe { filter::decide(state, hash, outer.source, tuple) };
            datagram(fate, &outer, source_port, destination_port, 6, direction)
        }
        PROTOCOL_SCTP => sctp(ctx, &outer, 6, direction),
        IPPROTO_ICMPV6 => {
            let [icmp_type, icmp_code]: [u8; 2] = read(ctx, outer.transport)?;
            if matches!(icmp_type, 130..=137 | 143) {
                return Err(Skip::Irrelevant);
            }
            // SAFETY: the caller has just looked it up.
            unsafe { maps::add(state, Counter::Icmp) };
            if icmp_type != ICMPV6_UNREACHABLE {
                return Err(Skip::Irrelevant);
            }
            let quoted = quoted_ipv6(ctx, outer.transport + 8)?;
            let reply = unreachable(ctx, &outer, &quoted, direction)?;
            Ok(Packet {
                ip_version: 6,
                icmp_type,
                icmp_code,
                ..reply
            })
        }
        other => Err(other_protocol(other)),
    }
}

#[inline(always)]
fn other_protocol(protocol: u8) -> Skip {
    Skip::Other(match protocol {
        IPPROTO_IPIP | IPPROTO_IPV6 | IPPROTO_GRE | IPPROTO_ETHERIP | IPPROTO_L2TP => {
            Counter::Tunnel
        }
        IPPROTO_ESP | IPPROTO_AUTHENTICATION => Counter::Ipsec,
        _ => Counter::OtherIp,
    })
}

/// As in the gate: the word that holds the pod's own MAC address.
#[inline(always)]
fn own_mac(ctx: &TcContext, direction: u8) -> Result<u64, Skip> {
    let [word] = if direction == DIRECTION_IN {
        words::<u64, 0, 1>(ctx)?
    } else {
        words::<u64, 6, 1>(ctx)?
    };
    Ok(word)
}

#[inline(always)]
fn tcp(ctx: &TcContext, outer: &Ip, ip_version: u8, direction: u8) -> Result<Packet, Skip> {
    let header: [u32; TCP / 4] = head(ctx, outer)?;
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
    Ok(Packet {
        source: outer.source,
        destination: outer.destination,
        sequence: u32::from_be(header[1]),
        acknowledgement: u32::from_be(header[2]),
        source_port,
        destination_port,
        kind,
        direction,
        ip_version,
        ttl: outer.ttl,
        tcp_flags: flags,
        protocol: PROTOCOL_TCP,
        ..Packet::default()
    })
}

#[inline(always)]
fn datagram(
    fate: Fate,
    outer: &Ip,
    source_port: u16,
    destination_port: u16,
    ip_version: u8,
    direction: u8,
) -> Result<Packet, Skip> {
    match fate {
        Fate::Recent => Err(Skip::Irrelevant),
        Fate::Sampled => Err(Skip::Sampled),
        Fate::Record => Ok(Packet {
            source: outer.source,
            destination: outer.destination,
            source_port,
            destination_port,
            kind: KIND_DATAGRAM,
            direction,
            ip_version,
            ttl: outer.ttl,
            protocol: PROTOCOL_UDP,
            ..Packet::default()
        }),
    }
}

#[inline(always)]
fn sctp(ctx: &TcContext, outer: &Ip, ip_version: u8, direction: u8) -> Result<Packet, Skip> {
    // Ports, verification tag, checksum, head of the first chunk.
    let header: [u32; SCTP_CHUNK / 4 + 1] = head(ctx, outer)?;
    let [chunk, ..] = header[3].to_ne_bytes();
    let (kind, tag) = match chunk {
        CHUNK_INIT => (KIND_SCTP_INIT, read(ctx, outer.transport + SCTP_CHUNK + 4)?),
        CHUNK_INIT_ACK => (KIND_SCTP_INIT_ACK, header[1]),
        CHUNK_ABORT => (KIND_SCTP_ABORT, header[1]),
        _ => return Err(Skip::Irrelevant),
    };
    let (source_port, destination_port) = ports(header[0]);
    Ok(Packet {
        source: outer.source,
        destination: outer.destination,
        sequence: u32::from_be(tag),
        source_port,
        destination_port,
        kind,
        direction,
        ip_version,
        ttl: outer.ttl,
        protocol: PROTOCOL_SCTP,
        ..Packet::default()
    })
}

/// An ICMP error: of the quoted transport header only 8 bytes need to be there. The caller adds what only it knows.
#[inline(always)]
fn unreachable(ctx: &TcContext, outer: &Ip, quoted: &Ip, direction: u8) -> Result<Packet, Skip> {
    if !matches!(quoted.protocol, PROTOCOL_TCP | PROTOCOL_UDP | PROTOCOL_SCTP) {
        return Err(Skip::Irrelevant);
    }
    let header: [u32; 2] = read(ctx, quoted.transport)?;
    let (source_port, destination_port) = ports(header[0]);
    let sequence = match quoted.protocol {
        PROTOCOL_TCP => header[1],
        PROTOCOL_SCTP => quoted_tag(ctx, quoted.transport, header[1]),
        _ => 0,
    };
    Ok(Packet {
        source: quoted.source,
        destination: quoted.destination,
        reporter: outer.source,
        sequence: u32::from_be(sequence),
        source_port,
        destination_port,
        kind: KIND_UNREACHABLE,
        direction,
        ttl: outer.ttl,
        protocol: quoted.protocol,
        ..Packet::default()
    })
}

/// The initiate tag, in network order, if the quoted packet is an INIT and the quotation reaches that far.
#[inline(always)]
fn quoted_tag(ctx: &TcContext, transport: usize, verification: u32) -> u32 {
    let chunk: Result<[u32; 2], Skip> = read(ctx, transport + SCTP_CHUNK);
    match chunk {
        Ok([head, tag]) if head.to_ne_bytes()[0] == CHUNK_INIT => tag,
        _ => verification,
    }
}

/// Source and destination port, the first word of every transport header.
#[inline(always)]
fn ports(word: u32) -> (u16, u16) {
    let [a, b, c, d] = word.to_ne_bytes();
    (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
}
