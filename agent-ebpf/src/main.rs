//! The BPF programs of polproof: they see the connection attempts of a pod on the pod's own eth0, inside its
//! network namespace, and write one record for each packet of a handshake (TCP, SCTP), for the first datagram of a UDP tuple, and for each
//! ICMP error about one of these.
//!
//! ```text
//! eth0 ingress --ingress.rs--+                          +--filter.rs (which datagrams were written down lately)
//!                            +--gate.rs--> parse.rs --> +--headers.rs (IP, extension headers)
//! eth0 egress  --egress.rs---+                          +--emit.rs--> RECORDS ring, COUNTERS per CPU (maps.rs)
//! ```
//!
//! They refuse to change a packet or its fate: every path ends in `TC_ACT_UNSPEC` (`TCX_NEXT`). What they leave
//! out they count. One program serves all pods: the namespace is read from the packet's device.
//!
//! What these hooks cannot see: packets that never reach eth0 (a pod to itself, hostNetwork pods, a pod's other interfaces), and
//! traffic of another program on the same hook that ends the chain first; the agent checks that there is none.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod egress;
mod emit;
mod filter;
mod gate;
mod headers;
mod ingress;
mod maps;
mod parse;

/// The verifier proves that no path panics, since it would refuse this loop.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// Needed for helpers that only GPL-compatible programs may call (`bpf_probe_read_kernel`).
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
