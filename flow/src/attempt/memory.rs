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
    /// Bytes in use, and the most there were. What another thread gave us to free is counted, too.
    static BYTES: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
}

/// A thread that ends has no counter any more.
fn count(bytes: isize) {
    let _ = BYTES.try_with(|cell| {
        let (now, most) = cell.get();
        let now = now.wrapping_add(bytes);
        cell.set((now, most.max(now)));
    });
}

struct Counting;

// SAFETY: every call is handed to the system allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size().cast_signed());
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-layout.size().cast_signed());
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

/// The four records of a connection between two pods of the node.
fn between_two_pods(n: u32) -> [Record; 4] {
    let key = |netns| AttemptKey {
        netns: NetnsCookie(netns),
        protocol: Protocol::Tcp,
        client: SocketAddr::new(
            Ipv4Addr::new(10, 1, 0, 1).into(),
            32_768 + (n % 28_000) as u16,
        ),
        server: SocketAddr::new(Ipv4Addr::new(10, 1, 0, 2).into(), 8_000 + (n % 8) as u16),
        tag: n.wrapping_mul(0x9e37_79b1),
    };
    // 10,000 a second.
    let at = |micros: u64| Instant((1_000_000_000 + u64::from(n) * 100 + micros) * 1_000);
    let syn = |netns, side, micros| Attempt::begin(key(netns), at(micros)).syn(side);
    let answer = |netns, side, micros| {
        let answer = answer_record(
            side,
            &key(netns),
            Outcome::Accepted,
            Told::Plain,
            at(micros),
        );
        answer.unwrap_or_else(|| panic!("an acceptance is a packet"))
    };
    [
        syn(1, Side::Source, 0),
        syn(2, Side::Destination, 10),
        answer(2, Side::Destination, 20),
        answer(1, Side::Source, 30),
    ]
}

#[test]
fn ten_thousand_connections_a_second_take_few_mebibytes() {
    let (before, _) = BYTES.get();
    BYTES.set((before, before));
    let mut sides = Sides::new(&Settings::default());
    for n in 0..135_000 {
        for record in between_two_pods(n) {
            sides.read(&record);
        }
        if n % 200 == 199 {
            let now = between_two_pods(n)[3].at;
            sides.tick(now);
            assert_eq!(sides.ends.len(), 400);
            sides.ends.clear();
            // What is written down twice a second.
            if n % 5_000 == 4_999 {
                let mut records = Vec::new();
                let bound = Settings::default().max_open_records;
                sides.destination.open(now, bound, &mut records);
                sides.source.open(now, bound, &mut records);
                assert!(records.len() <= 2 * bound);
            }
        }
    }
    let (_, most) = BYTES.get();
    // Two memories of 8, and what is written down.
    let mebibytes = (most - before) >> 20;
    assert!((16..=22).contains(&mebibytes), "{mebibytes} MiB");
    assert_eq!(sides.destination.recent().len(), 131_072);
    assert!(sides.destination.len() < 400);
}
