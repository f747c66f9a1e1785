//! What runs for every packet: a handful of loads that tell whether a closer look is needed.

use core::arch::asm;

use aya_ebpf::programs::TcContext;
use polproof_agent_common::{DIRECTION_IN, PROTOCOL_SCTP, PROTOCOL_TCP, PROTOCOL_UDP};

use crate::filter::{self, Ports};
use crate::headers::{
    ETHERNET, FLAG_RST, FLAG_SYN, IPV4, IPV6, PROTOCOL_ARP, PROTOCOL_IPV4, PROTOCOL_IPV6,
    SCTP_CHUNK, TCP, UDP, is_sctp_of_interest,
};

/// Whether the packet needs a closer look. False only if it is surely TCP or SCTP beyond the handshake, a datagram of a
/// tuple written down lately, or ARP.
#[inline(always)]
pub(crate) fn may_matter(ctx: &TcContext, direction: u8) -> bool {
    // SAFETY: the context is valid while the program runs.
    let protocol = unsafe { (*ctx.skb.skb).protocol };
    let start = ctx.data();
    let end = ctx.data_end();
    if protocol == PROTOCOL_IPV4 {
        if start + ETHERNET + IPV4 > end {
            return true;
        }
        // Options, or a fragment other than the first.
        if byte(start + ETHERNET) != 0x45
            || (byte(start + ETHERNET + 6) & 0x1f) | byte(start + ETHERNET + 7) != 0
        {
            return true;
        }
        match byte(start + ETHERNET + 9) {
            PROTOCOL_TCP => {
                start + ETHERNET + IPV4 + TCP > end
                    || byte(start + ETHERNET + IPV4 + 13) & (FLAG_SYN | FLAG_RST) != 0
            }
            PROTOCOL_UDP => {
                if start + ETHERNET + IPV4 + UDP > end {
                    return true;
                }
                let hash = filter::hash_v4(
                    own_mac(start, direction),
                    word::<{ ETHERNET + 12 }>(start),
                    ports(start + ETHERNET + IPV4),
                    direction,
                );
                !hash.is_recent()
            }
            PROTOCOL_SCTP => {
                start + ETHERNET + IPV4 + SCTP_CHUNK + 1 > end
                    || is_sctp_of_interest(byte(start + ETHERNET + IPV4 + SCTP_CHUNK))
            }
            _ => true,
        }
    } else if protocol == PROTOCOL_IPV6 {
        if start + ETHERNET + IPV6 > end {
            return true;
        }
        match byte(start + ETHERNET + 6) {
            PROTOCOL_TCP => {
                start + ETHERNET + IPV6 + TCP > end
                    || byte(start + ETHERNET + IPV6 + 13) & (FLAG_SYN | FLAG_RST) != 0
            }
            PROTOCOL_UDP => {
                if start + ETHERNET + IPV6 + UDP > end {
                    return true;
                }
                let hash = filter::hash_v6(
                    own_mac(start, direction),
                    [
                        word::<{ ETHERNET + 8 }>(start),
                        word::<{ ETHERNET + 16 }>(start),
                    ],
                    [
                        word::<{ ETHERNET + 24 }>(start),
                        word::<{ ETHERNET + 32 }>(start),
                    ],
                    ports(start + ETHERNET + IPV6),
                    direction,
                );
                !hash.is_recent()
            }
            PROTOCOL_SCTP => {
                start + ETHERNET + IPV6 + SCTP_CHUNK + 1 > end
                    || is_sctp_of_interest(byte(start + ETHERNET + IPV6 + SCTP_CHUNK))
            }
            _ => true,
        }
    } else {
        protocol != PROTOCOL_ARP
    }
}

/// The word of the Ethernet header that holds the pod's own address: the destination of what comes in, the source of
/// what goes out. The two bytes after it, of the other address or the type, are as constant.
#[inline(always)]
fn own_mac(start: usize, direction: u8) -> u64 {
    if direction == DIRECTION_IN {
        word::<0>(start)
    } else {
        word::<6>(start)
    }
}

#[inline(always)]
fn ports(transport: usize) -> Ports {
    let [a, b, c, d] = [
        byte(transport),
        byte(transport + 1),
        byte(transport + 2),
        byte(transport + 3),
    ];
    Ports::new(u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
}

/// Only for addresses below a checked `data_end`, which the verifier verifies.
#[inline(always)]
fn byte(address: usize) -> u8 {
    // SAFETY: the caller has compared the address with `data_end`.
    unsafe { *(address as *const u8) }
}

/// The eight bytes at an offset, in one load. They are not aligned, and Rust would load them one by one; the verifier
/// refuses the load on machines that cannot do it.
#[inline(always)]
fn word<const OFFSET: usize>(start: usize) -> u64 {
    let value: u64;
    // SAFETY: the caller has compared the end of the word with `data_end`.
    unsafe {
        asm!(
            "{value} = *(u64 *)({start} + {offset})",
            value = lateout(reg) value,
            start = in(reg) start,
            offset = const OFFSET,
            options(pure, readonly, nostack, preserves_flags)
        );
    }
    value
}
