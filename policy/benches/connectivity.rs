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

#[path = "engine/counting.rs"]
#[allow(dead_code)]
mod counting;
#[path = "engine/synthetic.rs"]
#[allow(dead_code)]
mod synthetic;

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use counting::{HELD, MOST};
use polproof_policy::connectivity::{Access, By, Connectivity, Filter, Options, Ports, compare};
use polproof_policy::{Object, Snapshot, State};
use synthetic::Sizes;

/// Prints figures of one cluster.
#[derive(Clone, Copy)]
struct Report {
    of: &'static str,
    before: usize,
}

impl Report {
    fn figure(self, name: &str, value: f64) {
        println!(
            "{{\"of\":\"{}\",\"name\":\"{name}\",\"value\":{value:.3}}}",
            self.of
        );
    }

    /// The most that was held since [`Self::begin`], with the snapshot.
    fn peak(self, name: &str) {
        self.figure(name, mib(MOST.load(Ordering::Relaxed) - self.before));
    }

    fn begin() -> Instant {
        MOST.store(HELD.load(Ordering::Relaxed), Ordering::Relaxed);
        Instant::now()
    }
}

fn main() {
    let args = std::env::args().skip(1).collect::<Vec<_>>();
    // Half a thousand namespaces is what the promise is made for; in 200, there are more policies for each, which tell more
    // pods apart.
    for (of, namespaces) in [("500 namespaces", "500"), ("200 namespaces", "200")] {
        let defaults = ["--namespaces", namespaces].into_iter().map(str::to_owned);
        let sizes = Sizes::from_args(defaults.chain(args.iter().cloned())).unwrap();
        measure(of, &sizes);
    }
}

fn measure(of: &'static str, sizes: &Sizes) {
    let report = Report {
        of,
        before: HELD.load(Ordering::Relaxed),
    };
    let mut state = State::new();
    for (kind, objects) in synthetic::cluster(sizes) {
        state.reset(kind, objects);
    }
    let before = state.snapshot();

    matrix(report, "workload", &before, By::Workload, not_denied);
    matrix(report, "every_pair", &before, By::Workload, |_| true);
    matrix(report, "namespace", &before, By::Namespace, not_denied);

    let policy = before.policies().nth(sizes.policies / 2).unwrap();
    state.delete(&Object::NetworkPolicy(Arc::clone(policy)).key());
    difference(report, &before, &state.snapshot());
}

fn not_denied(ports: &Ports) -> bool {
    ports.any(|access| *access != Access::Deny)
}

fn mib(bytes: usize) -> f64 {
    bytes as f64 / 1_048_576.0
}

fn matrix(report: Report, name: &str, snapshot: &Snapshot, by: By, keep: impl Fn(&Ports) -> bool) {
    let start = Report::begin();
    let mut connectivity = Connectivity::of(
        snapshot,
        &Options {
            by,
            ..Options::default()
        },
    );
    let (connections, totals) = connectivity.fold(&Filter::default(), keep, |_, _| {});
    let near = connectivity.own_node(|_, _| true);
    black_box(near);
    let figure = |of: &str, value: f64| report.figure(&format!("{name}_{of}"), value);
    figure("s", start.elapsed().as_secs_f64());
    report.peak(&format!("{name}_peak_mib"));
    figure("ends", connectivity.ends().len() as f64);
    figure("groups", connectivity.group_count() as f64);
    figure("pairs", totals.pairs as f64);
    figure("connections", connections.len() as f64);
}

fn difference(report: Report, before: &Snapshot, after: &Snapshot) {
    let start = Report::begin();
    let mut a = Connectivity::of(before, &Options::default());
    let mut b = Connectivity::of(after, &Options::default());
    let difference = compare(&mut a, &mut b, |_, _| {});
    report.figure("diff_s", start.elapsed().as_secs_f64());
    report.peak("diff_peak_mib");
    report.figure("diff_changes", difference.changes.len() as f64);
}
