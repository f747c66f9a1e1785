//! Which datagrams were written down lately.
//!
//! A stream of datagrams has no handshake, so that its beginning can only be told by memory. A hash table costs more than the
//! datagram's own way through the stack is worth, so this is a cache of four ways: a cell is 32 bits of the tuple's
//! hash and the time at which the tuple was written down. A datagram whose cell is young passes with one cache line
//! read and nothing written; any other is written down, and takes the oldest cell of its set.
//!
//! * The tuple is: the pod's own MAC address, both addresses, the lower port, on which side that is, and the crossing. The
//!   other port is ephemeral. The MAC address tells pods with one address (a reused one) apart.
//! * A tuple that is pushed out is written down again with its next datagram: too many records, never too few.
//! * A new tuple is hidden by another's cell if 46 bits of their hashes agree: at most once in 2^29 new tuples.
//! * Time is in jiffies, which the verifier turns into a plain load. At the wrap of their lower half all cells expire.

use aya_ebpf::helpers::bpf_jiffies64;
use polproof_agent_common::{
    Counter, CpuState, DATAGRAM_BURST, DATAGRAM_SAMPLE, DATAGRAMS_PER_SECOND, DIRECTION_IN,
};

use crate::maps::{self, DATAGRAM_WINDOW, DATAGRAMS, JIFFIES_PER_SECOND, SEED};

/// Sets; the cells of 2^15 sets take 1 MiB.
pub(crate) const SETS: usize = 1 << 15;
/// Cells of a set.
pub(crate) const WAYS: usize = 4;

/// A CPU may see another's cell before it sees its own jiffies move.
const SLACK: u64 = 8;

/// Odd and random, one for each word of a tuple.
const FACTORS: [u64; 6] = [
    0x9e37_79b9_7f4a_7c15,
    0xc2b2_ae3d_27d4_eb4f,
    0x1656_67b1_9e37_79f9,
    0xd6e8_feb8_6659_fd93,
    0xa076_1d64_78bd_642f,
    0xe703_7ed1_a0b4_28db,
];
const LAST_FACTOR: u64 = 0x8ebc_6af0_9c88_c6e3;

/// What a tuple comes down to.
#[derive(Clone, Copy)]
pub(crate) struct Hash(u64);

/// What of the ports is part of a tuple.
#[derive(Clone, Copy)]
pub(crate) struct Ports {
    lower: u64,
    source_is_lower: bool,
}

impl Ports {
    /// From source and destination port.
    #[inline(always)]
    pub(crate) fn new(source: u16, destination: u16) -> Self {
        let source_is_lower = source <= destination;
        let lower = if source_is_lower { source } else { destination };
        Self {
            lower: lower as u64,
            source_is_lower,
        }
    }
}

/// Low 32 bits of jiffies.
#[inline(always)]
fn now() -> u64 {
    // SAFETY: the helper has no precondition.
    unsafe { bpf_jiffies64() & 0xffff_ffff }
}

/// Of IPv4. Addresses are hashed as numbers, so that those that differ little differ in the lower bits, which reach all bits of the
/// product.
#[inline(always)]
pub(crate) fn hash_v4(own: u64, addresses: u64, ports: Ports, direction: u8) -> Hash {
    let [first, ..] = FACTORS;
    finish(
        u64::from_be(addresses).wrapping_mul(first),
        own,
        ports,
        direction,
    )
}

/// Of IPv6.
#[inline(always)]
pub(crate) fn hash_v6(
    own: u64,
    source: [u64; 2],
    destination: [u64; 2],
    ports: Ports,
    direction: u8,
) -> Hash {
    let [first, second, third, fourth, ..] = FACTORS;
    let sum = u64::from_be(source[0])
        .wrapping_mul(first)
        .wrapping_add(u64::from_be(source[1]).wrapping_mul(second))
        .wrapping_add(u64::from_be(destination[0]).wrapping_mul(third))
        .wrapping_add(u64::from_be(destination[1]).wrapping_mul(fourth));
    finish(sum, own, ports, direction)
}

#[inline(always)]
fn finish(addresses: u64, own: u64, ports: Ports, direction: u8) -> Hash {
    let [.., fifth, sixth] = FACTORS;
    let rest = ports.lower
        | ((ports.source_is_lower as u64) << 16)
        | (((direction == DIRECTION_IN) as u64) << 17);
    let sum = addresses
        .wrapping_add(own.wrapping_mul(fifth))
        .wrapping_add(rest.wrapping_mul(sixth))
        .wrapping_add(SEED.load());
    Hash((sum ^ (sum >> 32)).wrapping_mul(LAST_FACTOR))
}

impl Hash {
    /// The upper bits of the product, which depend on all of the tuple.
    #[inline(always)]
    fn cells(self) -> *mut u64 {
        DATAGRAMS.set((self.0 >> 49) as usize)
    }

    /// The next 31 bits, in the upper half; never zero, as cells are at first.
    #[inline(always)]
    fn tag(self) -> u64 {
        ((self.0 << 15) & 0xffff_fffe_0000_0000) | (1 << 32)
    }

    /// Whether the tuple was written down within the window.
    #[inline(always)]
    pub(crate) fn is_recent(self) -> bool {
        let cells = self.cells();
        let tag = self.tag();
        let now = now() + SLACK;
        let window = window() + SLACK;
        for way in 0..WAYS {
            // SAFETY: inside the set.
            let cell = unsafe { cells.add(way).read_volatile() };
            // What is left of the cell is its time if the tag is ours, and is larger than any time if not.
            if now.wrapping_sub(cell ^ tag) < window {
                return true;
            }
        }
        false
    }

    /// Takes the cell of the same tag, else the oldest.
    #[inline(always)]
    fn store(self) {
        let cells = self.cells();
        let tag = self.tag();
        let now = now();
        let mut chosen = 0;
        let mut oldest = 0;
        for way in 0..WAYS {
            // SAFETY: inside the set.
            let cell = unsafe { cells.add(way).read_volatile() };
            let age = if (cell ^ tag) >> 32 == 0 {
                u64::MAX
            } else {
                now.wrapping_sub(cell) & 0xffff_ffff
            };
            if age >= oldest {
                oldest = age;
                chosen = way;
            }
        }
        // SAFETY: inside the set.
        unsafe { cells.add(chosen & (WAYS - 1)).write_volatile(tag | now) };
    }
}

#[inline(always)]
fn window() -> u64 {
    (JIFFIES_PER_SECOND.load() * DATAGRAM_WINDOW.load()) as u64
}

/// What becomes of a datagram.
pub(crate) enum Fate {
    /// It is to be written down.
    Record,
    /// Its tuple was written down lately.
    Recent,
    /// There are too many new tuples.
    Sampled,
}

/// Decides, and remembers the tuple if it is to be written down.
///
/// # Safety
///
/// `state` must be what [`maps::state`] returned in this run.
#[inline(always)]
pub(crate) unsafe fn decide(
    state: *mut CpuState,
    hash: Hash,
    source: [u64; 2],
    ports: Ports,
) -> Fate {
    if hash.is_recent() {
        return Fate::Recent;
    }
    // SAFETY: the caller's word.
    unsafe {
        refill(state);
        let budget = (*state).budget;
        let scarce = budget < DATAGRAM_BURST / 2;
        if budget == 0 || (scarce && !in_sample(source, ports)) {
            maps::add(state, Counter::DatagramsSampled);
            return Fate::Sampled;
        }
        (*state).budget = budget - 1;
    }
    hash.store();
    Fate::Record
}

/// # Safety
///
/// As of [`decide`].
#[inline(always)]
unsafe fn refill(state: *mut CpuState) {
    let now = now() as u32;
    // SAFETY: the caller's word.
    unsafe {
        let passed = now.wrapping_sub((*state).budget_at) as u64;
        // In whole records: the fraction of one is lost with each refill.
        let gained =
            (passed * DATAGRAMS_PER_SECOND as u64).checked_div(JIFFIES_PER_SECOND.load() as u64);
        let Some(gained @ 1..) = gained else {
            return;
        };
        let full = (*state).budget as u64 + gained;
        (*state).budget = if full > DATAGRAM_BURST as u64 {
            DATAGRAM_BURST
        } else {
            full as u32
        };
        (*state).budget_at = now;
    }
}

/// The same at both ends, whatever their seeds and MAC addresses: by source address and lower port.
#[inline(always)]
fn in_sample(source: [u64; 2], ports: Ports) -> bool {
    let [first, second, third, ..] = FACTORS;
    let sum = u64::from_be(source[0])
        .wrapping_mul(first)
        .wrapping_add(u64::from_be(source[1]).wrapping_mul(second))
        .wrapping_add(ports.lower.wrapping_mul(third));
    let mixed = (sum ^ (sum >> 32)).wrapping_mul(LAST_FACTOR);
    (mixed >> 40) & (DATAGRAM_SAMPLE as u64 - 1) == 0
}
