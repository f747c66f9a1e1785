//! Maps and the values that the agent sets before it loads the programs.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext, Global,
    helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns, bpf_probe_read_kernel},
    macros::map,
    maps::{PerCpuArray, RingBuf},
    programs::TcContext,
};
use aya_log_ebpf::warn;
use polproof_agent_common::{COUNTERS, Counter, PacketRecord};

/// Records for the agent. The agent sets the size when it makes the map.
#[map]
static RECORDS: RingBuf = RingBuf::with_byte_size(16 * 1024 * 1024, 0);

/// One `u64` for each [`Counter`] and CPU.
#[map(name = "COUNTERS")]
static COUNTERS_BY_CPU: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTERS, 0);

/// Byte offset of `dev` in `struct sk_buff` of the running kernel.
#[unsafe(no_mangle)]
static SK_BUFF_DEV: Global<u32> = Global::new(0);
/// Byte offset of `nd_net.net` in `struct net_device`.
#[unsafe(no_mangle)]
static NET_DEVICE_NET: Global<u32> = Global::new(0);
/// Byte offset of `net_cookie` in `struct net`.
#[unsafe(no_mangle)]
static NET_COOKIE: Global<u32> = Global::new(0);

/// Adds one and returns the new value; 0 if there is no such counter. Programs on this hook run with bottom halves
/// off and do not interrupt each other on a CPU, so a plain addition is enough.
#[inline(always)]
pub fn count(counter: Counter) -> u64 {
    let Some(value) = COUNTERS_BY_CPU.get_ptr_mut(counter as u32) else {
        return 0;
    };
    // SAFETY: the pointer is to this CPU's live map value.
    unsafe {
        *value += 1;
        *value
    }
}

/// Counts a packet whose headers could not be walked, and warns at the 1st, 2nd, 4th, 8th ... on a CPU.
#[inline(always)]
pub fn count_unparsed(ctx: &TcContext) {
    let unparsed = count(Counter::Unparsed);
    if unparsed & unparsed.wrapping_sub(1) == 0 {
        warn!(
            ctx,
            "{} packets on this CPU had headers that could not be walked", unparsed
        );
    }
}

/// Cookie of the network namespace of the packet's device. `bpf_get_netns_cookie` answers for the packet's socket, which
/// on ingress there is none of, so the fields are read.
#[inline(always)]
fn netns_cookie(ctx: &TcContext) -> Option<u64> {
    // SAFETY: at run time the context *is* the `struct sk_buff`; the helper reads with fault handling.
    unsafe {
        let device: usize =
            bpf_probe_read_kernel(field(ctx.as_ptr() as *const c_void, SK_BUFF_DEV.load()).cast())
                .ok()?;
        let net: usize =
            bpf_probe_read_kernel(field(device as *const c_void, NET_DEVICE_NET.load()).cast())
                .ok()?;
        let cookie: u64 =
            bpf_probe_read_kernel(field(net as *const c_void, NET_COOKIE.load()).cast()).ok()?;
        Some(cookie)
    }
}

#[inline(always)]
fn field(base: *const c_void, offset: u32) -> *const c_void {
    (base as usize).wrapping_add(offset as usize) as *const c_void
}

/// Completes a record (time, namespace, CPU, sequence) and hands it to the agent.
#[inline(always)]
pub fn submit(ctx: &TcContext, mut record: PacketRecord) {
    let Some(cookie) = netns_cookie(ctx) else {
        count(Counter::NoCookie);
        return;
    };
    record.netns_cookie = cookie;
    record.cpu_sequence = count(Counter::Sequence);
    // SAFETY: neither helper has a precondition.
    unsafe {
        record.cpu = bpf_get_smp_processor_id() as u16;
        record.ktime_ns = bpf_ktime_get_ns();
    }
    match RECORDS.reserve::<PacketRecord>(0) {
        Some(mut entry) => {
            entry.write(record);
            // No flags: the kernel wakes the agent when it has caught up; else the agent polls.
            entry.submit(0);
        }
        None => {
            count(Counter::RingFull);
        }
    }
}
