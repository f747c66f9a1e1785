//! How long an audit takes and what it needs, as one JSON line a figure; each lint by itself, too.
//!
//! `cargo bench -p polproof-policy --bench audit [-- --policies N --pods N --namespaces N]`

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    clippy::print_stderr
)]

#[path = "engine/synthetic.rs"]
mod synthetic;

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use polproof_policy::lint::{Input, Options, audit_with};
use polproof_policy::{Snapshot, State};
use synthetic::Sizes;

/// Counts what is held and the most that ever was.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed to the system allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(held, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const ROUNDS: usize = 5;

fn figure(name: &str, value: f64) {
    println!("{{\"name\":\"{name}\",\"value\":{value:.3}}}");
}

fn mib(bytes: usize) -> f64 {
    bytes as f64 / 1_048_576.0
}

fn main() {
    let defaults = ["--namespaces", "500"].into_iter().map(str::to_owned);
    let sizes = Sizes::from_args(defaults.chain(std::env::args().skip(1))).unwrap();
    figure("policies", sizes.policies as f64);
    figure("pods", sizes.pods as f64);
    figure("namespaces", sizes.namespaces as f64);

    let mut state = State::new();
    for (kind, objects) in synthetic::cluster(&sizes) {
        state.reset(kind, objects);
    }
    let snapshot = state.snapshot();
    drop(state);
    figure("snapshot_mib", mib(HELD.load(Ordering::Relaxed)));

    let mut fastest = f64::INFINITY;
    let mut lints: BTreeMap<&'static str, f64> = BTreeMap::new();
    for _ in 0..ROUNDS {
        let (seconds, each) = audit(&snapshot);
        fastest = fastest.min(seconds);
        for (lint, seconds) in each {
            let least = lints.entry(lint).or_insert(f64::INFINITY);
            *least = least.min(seconds);
        }
    }
    figure("audit_peak_mib", mib(PEAK.load(Ordering::Relaxed)));
    figure("audit_ms", fastest * 1e3);
    for (lint, seconds) in lints {
        figure(&format!("audit_{lint}_ms"), seconds * 1e3);
    }
}

/// Seconds in all, and of each lint. The first lint that asks for the DNS servers finds them for the others.
fn audit(snapshot: &Snapshot) -> (f64, Vec<(&'static str, f64)>) {
    let input = Input {
        snapshot,
        refused: &[],
    };
    let mut each = Vec::new();
    let start = Instant::now();
    let mut last = (start, "setup");
    let audit = audit_with(input, &Options::default(), |lint| {
        let now = Instant::now();
        let (since, before) =
            std::mem::replace(&mut last, (now, lint.map_or("posture", |lint| lint.id)));
        each.push((before, (now - since).as_secs_f64()));
    });
    each.push((last.1, last.0.elapsed().as_secs_f64()));
    let seconds = start.elapsed().as_secs_f64();
    let findings = audit.findings.len() as f64;
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| figure("findings", findings));
    black_box(audit);
    (seconds, each)
}
