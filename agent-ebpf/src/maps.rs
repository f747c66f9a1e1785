//! Maps and the values that the agent sets.

use core::cell::UnsafeCell;

use aya_ebpf::{
    Global,
    macros::map,
    maps::{PerCpuArray, RingBuf},
};
use polproof_agent_common::{Counter, CpuState, DATAGRAM_WINDOW_SECONDS};

use crate::filter::{SETS, WAYS};

/// Records for the agent. The agent sets the size when it makes the map.
#[map]
pub(crate) static RECORDS: RingBuf = RingBuf::with_byte_size(16 * 1024 * 1024, 0);

/// Counters and limits of each CPU.
#[map(name = "COUNTERS")]
static STATE_BY_CPU: PerCpuArray<CpuState> = PerCpuArray::with_max_entries(1, 0);

/// Byte offset of `dev` in `struct sk_buff` of the running kernel.
#[unsafe(no_mangle)]
pub(crate) static SK_BUFF_DEV: Global<u32> = Global::new(0);
/// Byte offset of `nd_net.net` in `struct net_device`.
#[unsafe(no_mangle)]
pub(crate) static NET_DEVICE_NET: Global<u32> = Global::new(0);
/// Byte offset of `net_cookie` in `struct net`.
#[unsafe(no_mangle)]
pub(crate) static NET_COOKIE: Global<u32> = Global::new(0);
/// Not zero: the agent has put calls in place of [`polproof_agent_common::CONTEXT_CAST_MARK`].
#[unsafe(no_mangle)]
pub(crate) static CONTEXT_CAST: Global<u32> = Global::new(0);
/// The running kernel's `HZ`.
#[unsafe(no_mangle)]
pub(crate) static JIFFIES_PER_SECOND: Global<u32> = Global::new(250);

/// Seconds after which a tuple of datagrams that goes on is written down again.
#[unsafe(no_mangle)]
pub(crate) static DATAGRAM_WINDOW: Global<u32> = Global::new(DATAGRAM_WINDOW_SECONDS);

/// Mixed into the datagram filter's hash. In a section, and so a map, of its own: the agent writes the whole of a map.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.seed")]
pub(crate) static SEED: Global<u64> = Global::new(1);

/// The cells of the datagram filter (see [`crate::filter`]). A plain global is reached without a helper call.
#[repr(transparent)]
pub(crate) struct Cells(UnsafeCell<[[u64; WAYS]; SETS]>);

// SAFETY: cells are read and written as whole words, which no other CPU can see half of; which of two writes to a cell stays does
// not matter.
unsafe impl Sync for Cells {}

impl Cells {
    /// The cells of a set.
    #[inline(always)]
    pub(crate) fn set(&self, index: usize) -> *mut u64 {
        // The mask is for the verifier, which then knows that the address lies inside.
        self.0
            .get()
            .cast::<u64>()
            .wrapping_add((index & (SETS - 1)) * WAYS)
    }
}

#[unsafe(no_mangle)]
pub(crate) static DATAGRAMS: Cells = Cells(UnsafeCell::new([[0; WAYS]; SETS]));

/// This CPU's state. Programs on this hook run with bottom halves off and do not interrupt each other on a CPU, so plain
/// loads and stores are enough.
#[inline(always)]
pub(crate) fn state() -> Option<*mut CpuState> {
    STATE_BY_CPU.get_ptr_mut(0)
}

/// Adds one and returns the new value.
///
/// # Safety
///
/// `state` must be what [`state`] returned in this run.
#[inline(always)]
pub(crate) unsafe fn add(state: *mut CpuState, counter: Counter) -> u64 {
    // SAFETY: a live map value, by the caller's word, and every `Counter` is an index into the array at its start.
    unsafe {
        let value = (&raw mut (*state).counters)
            .cast::<u64>()
            .add(counter as usize);
        *value += 1;
        *value
    }
}
