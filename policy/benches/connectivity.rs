//! How fast the matrix of a whole cluster is made, and how much memory that takes, as one JSON line a figure.
//!
//! `cargo bench -p polproof-policy --bench connectivity [-- --policies N --pods N --namespaces N]`

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    clippy::print_stderr
)]

#[path = "engine/synthetic.rs"]
#[allow(dead_code)]
mod synthetic;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use polproof_policy::connectivity::{Access, By, Connectivity, Filter, Options, Ports, compare};
use polproof_policy::{Object, Snapshot, State};
use synthetic::Sizes;

/// Counts what is held, and the most that ever was.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed to the system allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(held, Ordering::Relaxed);
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

fn figure(name: &str, value: f64) {
    println!("{{\"name\":\"{name}\",\"value\":{value:.3}}}");
}

fn main() {
    // Half a thousand namespaces unless said otherwise: what the promise is made for.
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    if !args.iter().any(|arg| arg == "--namespaces") {
        args.extend(["--namespaces".to_owned(), "500".to_owned()]);
    }
    let sizes = Sizes::from_args(args.into_iter()).unwrap();
    let mut state = State::new();
    for (kind, objects) in synthetic::cluster(&sizes) {
        state.reset(kind, objects);
    }
    let before = state.snapshot();
    figure("policies", sizes.policies as f64);
    figure("pods", sizes.pods as f64);
    figure("namespaces", sizes.namespaces as f64);
    figure("engine_memory_mib", mib(HELD.load(Ordering::Relaxed)));

    matrix("workload", &before, By::Workload, not_denied);
    matrix("workload_complete", &before, By::Workload, |_| true);
    matrix("namespace", &before, By::Namespace, not_denied);

    let policy = before.policies().nth(sizes.policies / 2).unwrap();
    state.delete(&Object::NetworkPolicy(Arc::clone(policy)).key());
    difference(&before, &state.snapshot());
}

fn not_denied(ports: &Ports) -> bool {
    ports.any(|access| *access != Access::Deny)
}

fn mib(bytes: usize) -> f64 {
    bytes as f64 / 1_048_576.0
}

fn matrix(name: &str, snapshot: &Snapshot, by: By, keep: impl Fn(&Ports) -> bool) {
    MOST.store(HELD.load(Ordering::Relaxed), Ordering::Relaxed);
    let start = Instant::now();
    let mut connectivity = Connectivity::of(
        snapshot,
        &Options {
            by,
            ..Options::default()
        },
    );
    figure(
        &format!("matrix_{name}_classes_ms"),
        start.elapsed().as_secs_f64() * 1e3,
    );
    let (connections, totals) = connectivity.fold(&Filter::default(), keep, |_, _| {});
    let near = connectivity.own_node(|_, _| true);
    figure(
        &format!("matrix_{name}_ms"),
        start.elapsed().as_secs_f64() * 1e3,
    );
    figure(
        &format!("matrix_{name}_peak_mib"),
        mib(MOST.load(Ordering::Relaxed)),
    );
    figure(
        &format!("matrix_{name}_ends"),
        connectivity.ends().len() as f64,
    );
    figure(
        &format!("matrix_{name}_groups"),
        connectivity.group_count() as f64,
    );
    figure(&format!("matrix_{name}_pairs"), totals.pairs as f64);
    figure(&format!("matrix_{name}_pairs_all"), totals.all as f64);
    figure(&format!("matrix_{name}_pairs_some"), totals.some as f64);
    figure(&format!("matrix_{name}_pairs_none"), totals.none as f64);
    figure(
        &format!("matrix_{name}_connections"),
        connections.len() as f64,
    );
    figure(&format!("matrix_{name}_own_node"), near.len() as f64);
}

fn difference(before: &Snapshot, after: &Snapshot) {
    MOST.store(HELD.load(Ordering::Relaxed), Ordering::Relaxed);
    let start = Instant::now();
    let mut a = Connectivity::of(before, &Options::default());
    let mut b = Connectivity::of(after, &Options::default());
    let difference = compare(&mut a, &mut b, |_, _| {});
    figure("diff_ms", start.elapsed().as_secs_f64() * 1e3);
    figure("diff_peak_mib", mib(MOST.load(Ordering::Relaxed)));
    figure("diff_changes", difference.changes.len() as f64);
}
