//! IP headers and what they are made of. Reads go through `bpf_skb_load_bytes`, which works wherever in the packet's pages
//! the headers lie.

use aya_ebpf::programs::TcContext;

pub(crate) const ETHERNET: usize = 14;
pub(crate) const IPV4: usize = 20;
pub(crate) const IPV6: usize = 40;
pub(crate) const TCP: usize = 20;
pub(crate) const UDP: usize = 8;
/// Where the first chunk of SCTP starts.
pub(crate) const SCTP_CHUNK: usize = 12;

/// `skb->protocol` is in network order.
pub(crate) const PROTOCOL_IPV4: u32 = 0x0800_u16.to_be() as u32;
pub(crate) const PROTOCOL_IPV6: u32 = 0x86dd_u16.to_be() as u32;
pub(crate) const PROTOCOL_ARP: u32 = 0x0806_u16.to_be() as u32;

pub(crate) const FLAG_SYN: u8 = 0x02;
pub(crate) const FLAG_RST: u8 = 0x04;
pub(crate) const FLAG_ACK: u8 = 0x10;

pub(crate) const CHUNK_INIT: u8 = 1;
pub(crate) const CHUNK_INIT_ACK: u8 = 2;
pub(crate) const CHUNK_ABORT: u8 = 6;

const IPPROTO_HOP_BY_HOP: u8 = 0;
const IPPROTO_ROUTING: u8 = 43;
const IPPROTO_FRAGMENT: u8 = 44;
const IPPROTO_AUTHENTICATION: u8 = 51;
const IPPROTO_DESTINATION: u8 = 60;
const IPPROTO_MOBILITY: u8 = 135;
const IPPROTO_HIP: u8 = 139;
const IPPROTO_SHIM6: u8 = 140;

/// IPv6 extension headers that are walked, more than any honest packet has.
const MAX_EXTENSIONS: usize = 8;

/// 16 bytes in the order of the packet, IPv4 in the first four.
pub(crate) type Address = [u64; 2];

/// Why a packet gave no record.
pub(crate) enum Skip {
    /// It is of no interest.
    Irrelevant,
    /// A fragment other than the first.
    Fragment,
    /// The headers end too early or are too many.
    Unparsed,
    /// Not a protocol that policies are about.
    Other(polproof_agent_common::Counter),
    /// A datagram that would be written down if there were fewer.
    Sampled,
}

/// The first chunk tells: INIT and INIT ACK stand alone, and so does the ABORT that refuses an INIT (RFC 9260, 3.3.2,
/// 3.3.3 and 8.4).
#[inline(always)]
pub(crate) fn is_sctp_of_interest(chunk: u8) -> bool {
    matches!(chunk, CHUNK_INIT | CHUNK_INIT_ACK | CHUNK_ABORT)
}

#[inline(always)]
pub(crate) fn read<T>(ctx: &TcContext, offset: usize) -> Result<T, Skip> {
    ctx.load(offset).map_err(|_| Skip::Unparsed)
}

/// What of an IP header is of use.
pub(crate) struct Ip {
    pub(crate) source: Address,
    pub(crate) destination: Address,
    /// Where the next header is that is no extension.
    pub(crate) transport: usize,
    pub(crate) protocol: u8,
    /// TTL or hop limit.
    pub(crate) ttl: u8,
}

#[inline(always)]
pub(crate) fn ipv4(ctx: &TcContext, offset: usize) -> Result<Ip, Skip> {
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

/// Also walks the extension headers.
#[inline(always)]
pub(crate) fn ipv6(ctx: &TcContext, offset: usize) -> Result<Ip, Skip> {
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
