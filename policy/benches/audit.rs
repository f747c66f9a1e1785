//! How long an audit takes and what it needs, as one JSON line a figure, with the slowest lints: of a usual cluster and of some
//! that are hard on lints.
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

#[path = "engine/counting.rs"]
#[allow(dead_code)]
mod counting;
#[path = "engine/hard.rs"]
mod hard;
#[path = "engine/synthetic.rs"]
mod synthetic;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::atomic::Ordering;
use std::time::Instant;

use counting::{HELD, MOST};
use hard::Objects;
use polproof_policy::lint::{Input, Options, audit_with};
use polproof_policy::{Snapshot, State};
use synthetic::Sizes;

/// How often the usual cluster is audited; the hard ones once, they are slow enough to be measured so.
const ROUNDS: usize = 5;
/// How many of the slowest lints are named.
const SLOWEST: usize = 4;

fn figure(of: &str, name: &str, value: f64, unit: &str) {
    println!("{{\"of\":\"{of}\",\"name\":\"{name}\",\"value\":{value:.3},\"unit\":\"{unit}\"}}");
}

fn mib(bytes: usize) -> f64 {
    bytes as f64 / 1_048_576.0
}

fn main() {
    let args = std::env::args().skip(1).collect::<Vec<_>>();
    let sizes = |namespaces: &str| {
        let defaults = ["--namespaces", namespaces].into_iter().map(str::to_owned);
        Sizes::from_args(defaults.chain(args.iter().cloned())).unwrap()
    };
    let usual = sizes("500");
    measure("usual", &usual, ROUNDS, |_| {});
    measure("egress denied", &usual, 1, hard::egress_denied);
    measure("20 ipBlocks a rule", &usual, 1, hard::many_blocks);
    measure("no two pods alike", &usual, 1, hard::no_two_alike);
    measure("one namespace", &sizes("1"), 1, |_| {});
}

fn measure(of: &str, sizes: &Sizes, rounds: usize, change: impl Fn(&mut Objects)) {
    let before = HELD.load(Ordering::Relaxed);
    let mut state = State::new();
    let mut objects = synthetic::cluster(sizes);
    change(&mut objects);
    for (kind, objects) in objects {
        state.reset(kind, objects);
    }
    let snapshot = state.snapshot();
    drop(state);
    MOST.store(HELD.load(Ordering::Relaxed), Ordering::Relaxed);
    let peak = || mib(MOST.load(Ordering::Relaxed) - before);
    let snapshot_mib = peak();

    let mut fastest = f64::INFINITY;
    let mut findings = 0;
    let mut lints: BTreeMap<&'static str, f64> = BTreeMap::new();
    for _ in 0..rounds {
        let (seconds, found, each) = audit(&snapshot);
        fastest = fastest.min(seconds);
        findings = found;
        for (lint, seconds) in each {
            let least = lints.entry(lint).or_insert(f64::INFINITY);
            *least = least.min(seconds);
        }
    }
    figure(of, "audit_s", fastest, "");
    figure(of, "audit_peak_mib", peak(), "");
    figure(of, "snapshot_mib", snapshot_mib, "");
    figure(of, "policies", sizes.policies as f64, "");
    figure(of, "pods", sizes.pods as f64, "");
    figure(of, "namespaces", sizes.namespaces as f64, "");
    figure(of, "findings", findings as f64, "");
    let mut lints: Vec<(&str, f64)> = lints.into_iter().collect();
    lints.sort_by(|a, b| b.1.total_cmp(&a.1));
    for (nth, (lint, seconds)) in lints.into_iter().take(SLOWEST).enumerate() {
        figure(
            of,
            &format!("slowest_lint_{}_ms", nth + 1),
            seconds * 1e3,
            lint,
        );
    }
}

/// Seconds in all, how many findings, and seconds of each lint. The first lint that asks for the DNS servers finds them for
/// the others.
fn audit(snapshot: &Snapshot) -> (f64, usize, Vec<(&'static str, f64)>) {
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
    let findings = audit.findings.len();
    black_box(audit);
    (seconds, findings, each)
}
