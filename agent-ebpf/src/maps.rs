//! Maps and the values that the agent sets before it loads the programs.

use core::ffi::c_void;
use core::mem::offset_of;

use aya_ebpf::{
    EbpfContext, Global,
    helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns, bpf_probe_read_kernel},
    macros::map,
    maps::{PerCpuArray, RingBuf},
    programs::TcContext,
};
use aya_log_ebpf::warn;
use polproof_agent_common::{COUNTERS, Counter, PacketRecord};

use crate::parse::{Address, Handshake};

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
pub(crate) fn count(counter: Counter) -> u64 {
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
pub(crate) fn count_unparsed(ctx: &TcContext) {
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

/// Addresses are written as words.
const _: () = assert!(
    offset_of!(PacketRecord, source).is_multiple_of(8)
        && offset_of!(PacketRecord, destination).is_multiple_of(8)
        && offset_of!(PacketRecord, reporter).is_multiple_of(8)
);

/// Adds time, namespace, CPU and sequence, and hands the record to the agent. It is written field by field into the
/// ring, not built on the stack and copied.
#[inline(always)]
pub(crate) fn submit(ctx: &TcContext, handshake: &Handshake) {
    let Some(cookie) = netns_cookie(ctx) else {
        count(Counter::NoCookie);
        return;
    };
    let sequence = count(Counter::Sequence);
    // SAFETY: the helper has no precondition.
    let now = unsafe { bpf_ktime_get_ns() };
    let Some(mut entry) = RECORDS.reserve::<PacketRecord>(0) else {
        count(Counter::RingFull);
        return;
    };
    // SAFETY: the helper has no precondition.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let record = entry.as_mut_ptr();
    // SAFETY: the entry is ours until it is submitted, and all of its fields, which leave no gap between
    // them, are written; those written as words are aligned for it, as asserted above.
    unsafe {
        (*record).ktime_ns = now;
        (*record).netns_cookie = cookie;
        (*record).cpu_sequence = sequence;
        (*record).sequence = handshake.sequence;
        (*record).acknowledgement = handshake.acknowledgement;
        (&raw mut (*record).source)
            .cast::<Address>()
            .write(handshake.source);
        (&raw mut (*record).destination)
            .cast::<Address>()
            .write(handshake.destination);
        (&raw mut (*record).reporter)
            .cast::<Address>()
            .write(handshake.reporter);
        (*record).source_port = handshake.source_port;
        (*record).destination_port = handshake.destination_port;
        // A kernel has fewer CPUs than 2^16 (NR_CPUS is at most 8192).
        (*record).cpu = cpu as u16;
        (*record).kind = handshake.kind;
        (*record).direction = handshake.direction;
        (*record).ip_version = handshake.ip_version;
        (*record).ttl = handshake.ttl;
        (*record).tcp_flags = handshake.tcp_flags;
        (*record).icmp_type = handshake.icmp_type;
        (*record).icmp_code = handshake.icmp_code;
        (*record).reserved = [0; 3];
    }
    // No flags: the kernel wakes the agent when it has caught up; else the agent polls.
    entry.submit(0);
}
