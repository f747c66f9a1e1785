//! IP headers and what they are made of. They are read from the packet's data where they lie in its linear part, which
//! takes a load for each word, and else through `bpf_skb_load_bytes`, which works wherever in the packet's pages they lie.

use core::arch::asm;

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

/// At any offset.
#[inline(always)]
pub(crate) fn read<T>(ctx: &TcContext, offset: usize) -> Result<T, Skip> {
    ctx.load(offset).map_err(|_| Skip::Unparsed)
}

/// A word of a header, as it lies there.
pub(crate) trait Word: Copy + Default {
    /// In one load: headers are not aligned, and Rust would load them byte by byte. The verifier refuses the load on
    /// machines that cannot do it.
    ///
    /// # Safety
    ///
    /// All of the word must lie below a `data_end` that the address was compared with; the verifier verifies it.
    unsafe fn load(address: usize) -> Self;
}

macro_rules! word {
    ($type:ty, $load:literal) => {
        impl Word for $type {
            #[inline(always)]
            unsafe fn load(address: usize) -> Self {
                let value: u64;
                // SAFETY: the caller's word.
                unsafe {
                    asm!(
                        $load,
                        value = lateout(reg) value,
                        address = in(reg) address,
                        options(pure, readonly, nostack, preserves_flags)
                    );
                }
                value as Self
            }
        }
    };
}

word!(u32, "{value} = *(u32 *)({address} + 0)");
word!(u64, "{value} = *(u64 *)({address} + 0)");

/// Words at an offset that is known here: the verifier follows no other.
#[inline(always)]
pub(crate) fn words<T: Word, const OFFSET: usize, const COUNT: usize>(
    ctx: &TcContext,
) -> Result<[T; COUNT], Skip> {
    let first = ctx.data() + OFFSET;
    if first + size_of::<[T; COUNT]>() > ctx.data_end() {
        return read(ctx, OFFSET);
    }
    let mut words = [T::default(); COUNT];
    for (index, word) in words.iter_mut().enumerate() {
        // SAFETY: the end of the last one was just compared.
        *word = unsafe { T::load(first + index * size_of::<T>()) };
    }
    Ok(words)
}

/// The head of what follows the outer IP header, which is where it is without options and extensions, or elsewhere.
#[inline(always)]
pub(crate) fn head<const COUNT: usize>(ctx: &TcContext, outer: &Ip) -> Result<[u32; COUNT], Skip> {
    const BEHIND_IPV4: usize = ETHERNET + IPV4;
    const BEHIND_IPV6: usize = ETHERNET + IPV6;
    match outer.transport {
        BEHIND_IPV4 => words::<u32, BEHIND_IPV4, COUNT>(ctx),
        BEHIND_IPV6 => words::<u32, BEHIND_IPV6, COUNT>(ctx),
        elsewhere => read(ctx, elsewhere),
    }
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

/// The packet's own.
#[inline(always)]
pub(crate) fn outer_ipv4(ctx: &TcContext) -> Result<Ip, Skip> {
    ipv4_at(ETHERNET, words::<u32, ETHERNET, { IPV4 / 4 }>(ctx)?)
}

/// One that a packet quotes.
#[inline(always)]
pub(crate) fn quoted_ipv4(ctx: &TcContext, offset: usize) -> Result<Ip, Skip> {
    ipv4_at(offset, read(ctx, offset)?)
}

#[inline(always)]
fn ipv4_at(offset: usize, header: [u32; IPV4 / 4]) -> Result<Ip, Skip> {
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

/// The packet's own.
#[inline(always)]
pub(crate) fn outer_ipv6(ctx: &TcContext) -> Result<Ip, Skip> {
    let header = words::<u64, ETHERNET, { IPV6 / 8 }>(ctx)?;
    ipv6_at(ctx, ETHERNET, header)
}

/// One that a packet quotes.
#[inline(always)]
pub(crate) fn quoted_ipv6(ctx: &TcContext, offset: usize) -> Result<Ip, Skip> {
    ipv6_at(ctx, offset, read(ctx, offset)?)
}

/// Also walks the extension headers.
#[inline(always)]
fn ipv6_at(ctx: &TcContext, offset: usize, header: [u64; IPV6 / 8]) -> Result<Ip, Skip> {
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
