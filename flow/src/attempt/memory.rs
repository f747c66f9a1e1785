//! In the steady state a packet allocates nothing, and memory stays what it was.
#![allow(clippy::panic, clippy::indexing_slicing)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use super::sides::Sides;
use super::*;
use crate::recent::Packed;
use crate::settings::Settings;

thread_local! {
    /// Of this thread's test alone.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is handed to the system allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that ends has no counter any more.
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The records of the n-th connection: of each transport, at both sides, answered or not, repeated or not.
fn connection(n: u32) -> [Record; 3] {
    let at = |ms: u64| Instant((1_000_000 + u64::from(n) * 2 + ms) * 1_000_000);
    let [_, b, c, d] = n.to_be_bytes();
    let key = AttemptKey {
        netns: NetnsCookie(u64::from(n % 50)),
        protocol: [Protocol::Tcp, Protocol::Udp, Protocol::Sctp][(n % 3) as usize],
        client: SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, b, c, d)), 40_000),
        server: SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 255, 0, 1)), 80),
        tag: n,
    };
    let side = if n.is_multiple_of(2) {
        Side::Destination
    } else {
        Side::Source
    };
    let mut attempt = Attempt::begin(key, at(0));
    attempt.answered(Outcome::Accepted, Told::Plain, at(1));
    let syn = attempt.syn(side);
    let answer = answer_record(side, &key, Outcome::Accepted, Told::Plain, at(1));
    let again = Record { at: at(1), ..syn };
    let third = if n.is_multiple_of(7) {
        again
    } else {
        answer.unwrap_or(again)
    };
    [syn, third, again]
}

#[test]
fn a_packet_in_the_steady_state_allocates_nothing() {
    let settings = Settings {
        max_attempts: 512,
        max_early: 64,
        max_remembered: 1_024,
        max_flows: 256,
        ..Settings::default()
    };
    let mut sides = Sides::new(&settings);
    let run = |sides: &mut Sides, connections: std::ops::Range<u32>| {
        let before = ALLOCATIONS.get();
        for n in connections {
            for record in connection(n) {
                sides.read(&record);
            }
        }
        ALLOCATIONS.get() - before
    };
    // On the way to the bounds memory grows.
    for n in 0..400 {
        run(&mut sides, n * 100..(n + 1) * 100);
        sides.tick(connection(n * 100 + 99)[2].at);
        sides.ends.clear();
    }
    let mut allocations = 0;
    for n in 400..800 {
        allocations += run(&mut sides, n * 100..(n + 1) * 100);
        sides.tick(connection(n * 100 + 99)[2].at);
        sides.ends.clear();
    }
    assert_eq!(allocations, 0);
    assert_eq!(sides.destination.recent().len(), 1_024);
    assert!(sides.destination.len() <= 512);
}

#[test]
fn what_is_remembered_is_small() {
    assert_eq!(size_of::<Packed>(), 56);
    assert_eq!(size_of::<Option<Attempt>>(), 152);
}
