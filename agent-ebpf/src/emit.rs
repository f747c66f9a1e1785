//! Records and notices, from here to the agent.

use core::arch::asm;
use core::ffi::c_void;
use core::mem::offset_of;

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_get_smp_processor_id, bpf_jiffies64, bpf_ktime_get_ns, bpf_probe_read_kernel},
    programs::TcContext,
};
use aya_log_ebpf::warn;
use polproof_agent_common::{
    CONTEXT_CAST_MARK, Counter, CpuState, KIND_SAMPLED, KIND_UNPARSED, NOTICE_INTERVAL_MS,
    PacketRecord,
};

use crate::headers::Address;
use crate::maps::{
    self, CONTEXT_CAST, JIFFIES_PER_SECOND, NET_COOKIE, NET_DEVICE_NET, RECORDS, SK_BUFF_DEV,
};

/// What a packet's headers say. Addresses are kept as words: BPF has no `memcpy`, and what is not aligned is
/// copied and cleared byte by byte, which was a fifth of the cost of a record.
#[derive(Clone, Copy, Default)]
pub(crate) struct Packet {
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
    pub(crate) protocol: u8,
}

/// Cookie of the network namespace of the packet's device. `bpf_get_netns_cookie` answers for the packet's socket, which
/// on ingress there is none of, or another namespace's, so the fields are read: where the kernel tells us of what type
/// the context really is, by plain loads, which cost nothing; else by helper calls.
#[inline(always)]
fn netns_cookie(ctx: &TcContext) -> Option<u64> {
    if CONTEXT_CAST.load() == 0 {
        return read_cookie(ctx);
    }
    // SAFETY: the agent has put the call in place, and each offset is of the struct that the load before it pointed to. What the
    // verifier does not know by its type it refuses, and a load that fails gives zero.
    let cookie = unsafe {
        let device = load(packet(ctx), SK_BUFF_DEV.load());
        let net = load(device, NET_DEVICE_NET.load());
        load(net, NET_COOKIE.load())
    };
    // No namespace has the cookie zero.
    (cookie != 0).then_some(cookie)
}

/// The `struct sk_buff`, as a pointer whose type the verifier knows.
///
/// # Safety
///
/// Only where [`CONTEXT_CAST`] says that the call is in place.
#[inline(always)]
unsafe fn packet(ctx: &TcContext) -> u64 {
    let packet: u64;
    // SAFETY: a call clobbers what is named here, and nothing else.
    unsafe {
        asm!(
            "r0 = {mark}",
            mark = const CONTEXT_CAST_MARK,
            inlateout("r1") ctx.as_ptr() => _,
            lateout("r0") packet,
            lateout("r2") _,
            lateout("r3") _,
            lateout("r4") _,
            lateout("r5") _,
            options(nostack)
        );
    }
    packet
}

/// The word at an offset of what a typed pointer points to. The compiler must not take it apart: the verifier follows
/// only loads of whole members.
///
/// # Safety
///
/// The pointer must come from [`packet`], or from a load of a pointer that does.
#[inline(always)]
unsafe fn load(pointer: u64, offset: u32) -> u64 {
    let value: u64;
    // SAFETY: the caller's word; the verifier verifies it.
    unsafe {
        asm!(
            "{pointer} += {offset}",
            "{value} = *(u64 *)({pointer} + 0)",
            pointer = inout(reg) pointer => _,
            offset = in(reg) offset as u64,
            value = lateout(reg) value,
            options(pure, readonly, nostack)
        );
    }
    value
}

/// The cookie by helper calls.
#[inline(always)]
fn read_cookie(ctx: &TcContext) -> Option<u64> {
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
///
/// # Safety
///
/// `state` must be what [`maps::state`] returned in this run.
#[inline(always)]
pub(crate) unsafe fn submit(ctx: &TcContext, state: *mut CpuState, packet: &Packet) {
    // Before anything can fail: every failure leaves a gap.
    // SAFETY: the caller's word.
    let sequence = unsafe { maps::add(state, Counter::Sequence) };
    let Some(mut entry) = RECORDS.reserve::<PacketRecord>(0) else {
        // SAFETY: the caller's word.
        unsafe { maps::add(state, Counter::RingFull) };
        return;
    };
    // SAFETY: the helper has no precondition.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let record = entry.as_mut_ptr();
    // SAFETY: the entry is ours until it is submitted, and all of its fields, which leave no gap between
    // them, are written; those written as words are aligned for it, as asserted above.
    unsafe {
        (*record).cpu_sequence = sequence;
        (*record).sequence = packet.sequence;
        (*record).acknowledgement = packet.acknowledgement;
        (&raw mut (*record).source)
            .cast::<Address>()
            .write(packet.source);
        (&raw mut (*record).destination)
            .cast::<Address>()
            .write(packet.destination);
        (&raw mut (*record).reporter)
            .cast::<Address>()
            .write(packet.reporter);
        (*record).source_port = packet.source_port;
        (*record).destination_port = packet.destination_port;
        // A kernel has fewer CPUs than 2^16 (NR_CPUS is at most 8192).
        (*record).cpu = cpu as u16;
        (*record).kind = packet.kind;
        (*record).direction = packet.direction;
        (*record).ip_version = packet.ip_version;
        (*record).ttl = packet.ttl;
        (*record).tcp_flags = packet.tcp_flags;
        (*record).icmp_type = packet.icmp_type;
        (*record).icmp_code = packet.icmp_code;
        (*record).protocol = packet.protocol;
        (*record).reserved = [0; 2];
    }
    let Some(cookie) = netns_cookie(ctx) else {
        entry.discard(0);
        // SAFETY: the caller's word.
        unsafe { maps::add(state, Counter::NoCookie) };
        return;
    };
    // SAFETY: as above.
    unsafe {
        (*record).netns_cookie = cookie;
        (*record).ktime_ns = bpf_ktime_get_ns();
    }
    // No flags: the kernel wakes the agent when it has caught up; else the agent polls.
    entry.submit(0);
}

/// Counts a packet whose headers could not be walked, tells the agent, and warns at the 1st, 2nd, 4th, 8th ... on a CPU.
///
/// # Safety
///
/// As of [`submit`].
#[inline(always)]
pub(crate) unsafe fn unparsed(ctx: &TcContext, state: *mut CpuState, direction: u8) {
    // SAFETY: the caller's word.
    let unparsed = unsafe { maps::add(state, Counter::Unparsed) };
    if unparsed & unparsed.wrapping_sub(1) == 0 {
        warn!(
            ctx,
            "{} packets on this CPU had headers that could not be walked", unparsed
        );
    }
    // SAFETY: the caller's word.
    unsafe {
        if is_due(&raw mut (*state).unparsed_at) {
            notice(ctx, state, KIND_UNPARSED, direction);
        }
    }
}

/// Tells the agent that datagrams are left out.
///
/// # Safety
///
/// As of [`submit`].
#[inline(always)]
pub(crate) unsafe fn sampled(ctx: &TcContext, state: *mut CpuState, direction: u8) {
    // SAFETY: the caller's word.
    unsafe {
        if is_due(&raw mut (*state).sampled_at) {
            notice(ctx, state, KIND_SAMPLED, direction);
        }
    }
}

/// Whether a notice is due, by the time of the last one, which is then now.
///
/// # Safety
///
/// `last` must point into this CPU's live state.
#[inline(always)]
unsafe fn is_due(last: *mut u32) -> bool {
    // SAFETY: the helper has no precondition.
    let now = unsafe { bpf_jiffies64() } as u32;
    // Never longer than promised.
    let interval = JIFFIES_PER_SECOND.load() * NOTICE_INTERVAL_MS / 1000;
    // SAFETY: the caller's word.
    unsafe {
        if now.wrapping_sub(*last) < interval {
            return false;
        }
        *last = now;
    }
    true
}

/// # Safety
///
/// As of [`submit`].
#[inline(always)]
unsafe fn notice(ctx: &TcContext, state: *mut CpuState, kind: u8, direction: u8) {
    let packet = Packet {
        kind,
        direction,
        ..Packet::default()
    };
    // SAFETY: the caller's word.
    unsafe { submit(ctx, state, &packet) };
}
