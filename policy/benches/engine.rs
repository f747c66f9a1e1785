//! How fast the engine is, as one JSON line a figure.
//!
//! `cargo bench -p polproof-policy [-- --policies N --pods N --namespaces N --verdicts N --admin N]`
//!
//! Without options, three sizes are measured, the second with the goals (1,000 policies, 10,000 pods), and two of them again with
//! policies of the admin and baseline tiers.
//!
//! The time of one verdict is near that of reading the clock. So the median and the 99th percentile are those of batches of 16
//! verdicts, each divided by 16: a single slow verdict among 16 shows with a sixteenth of its excess.

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
mod synthetic;

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use counting::{ALLOCATIONS, HELD};
use polproof_policy::model::{AdminPolicy, NetworkPolicy, Pod};
use polproof_policy::{
    Change, Decision, Endpoint, Expectation, Kind, Object, Query, Snapshot, State,
};
use synthetic::{Random, Sizes};

/// Prints figures of one size.
struct Report {
    size: String,
}

impl Report {
    fn figure(&self, name: &str, value: f64) {
        println!(
            "{{\"of\":\"{}\",\"name\":\"{name}\",\"value\":{value:.3}}}",
            self.size
        );
    }
}

fn main() {
    if let Some(sizes) = Sizes::from_args(std::env::args().skip(1)) {
        measure("asked", &sizes);
        return;
    }
    let of = |policies, pods, namespaces, admin, verdicts| Sizes {
        policies,
        pods,
        namespaces,
        verdicts,
        admin,
    };
    measure("100 x 1k", &of(100, 1_000, 20, 0, 2_000_000));
    measure("1k x 10k", &Sizes::default());
    measure("5k x 100k", &of(5_000, 100_000, 1_000, 0, 5_000_000));
    measure("1k x 10k, admin", &of(1_000, 10_000, 200, 8, 5_000_000));
    measure("5k x 100k, admin", &of(5_000, 100_000, 1_000, 8, 5_000_000));
}

fn measure(size: &str, sizes: &Sizes) {
    let report = Report {
        size: size.to_owned(),
    };
    report.figure("policies", sizes.policies as f64);
    report.figure("pods", sizes.pods as f64);
    report.figure("namespaces", sizes.namespaces as f64);
    report.figure("admin_policies", sizes.admin as f64);

    let before = HELD.load(Ordering::Relaxed);
    let objects = synthetic::cluster(sizes);
    let with_objects = HELD.load(Ordering::Relaxed);
    let mut state = State::new();
    for (kind, objects) in objects {
        state.reset(kind, objects);
    }
    let snapshot = state.snapshot();
    let held = HELD.load(Ordering::Relaxed);
    // The state keeps the objects themselves; it may need less of them than whoever made them.
    let mib = |bytes: usize, less: usize| (bytes as f64 - less as f64) / 1_048_576.0;
    report.figure("memory_mib", mib(held, before));
    report.figure("engine_memory_mib", mib(held, with_objects));

    let times = if sizes.pods > 20_000 { 2 } else { 5 };
    report.figure("compile_ms", fastest_compile(sizes, times, |_| ()));
    // Pods first and policies later, so that most is computed twice.
    let pods_first = fastest_compile(sizes, times, |objects| objects.reverse());
    report.figure("compile_pods_first_ms", pods_first);

    verdicts(&report, &snapshot, sizes);
    pod_changes(&report, &mut state, &snapshot);
    policy_changes(&report, &mut state, &snapshot);
    admin_changes(&report, &mut state, &snapshot);
}

/// A cluster from nothing in milliseconds, the fastest of some times.
fn fastest_compile(sizes: &Sizes, times: usize, arrange: fn(&mut [(Kind, Vec<Object>)])) -> f64 {
    let compile = |_| {
        // Made anew: objects that nobody else holds, as they come from an API server.
        let mut objects = synthetic::cluster(sizes);
        arrange(&mut objects);
        let start = Instant::now();
        let mut state = State::new();
        for (kind, objects) in objects {
            state.reset(kind, objects);
        }
        let snapshot = black_box(state.snapshot());
        let time = start.elapsed().as_secs_f64() * 1e3;
        drop(snapshot);
        time
    };
    (0..times).map(compile).fold(f64::INFINITY, f64::min)
}

/// Pairs of a namespace and of different ones, nodes and external addresses, on ports that
/// rules name and others.
fn queries<'a>(pods: &'a [Arc<Pod>], sizes: &Sizes) -> Vec<Query<'a>> {
    let mut random = Random::new(7);
    let external = "203.0.113.7".parse().unwrap();
    (0..1 << 16)
        .map(|_| {
            let source = &pods[random.below(pods.len())];
            let near = random.below(10) < 6;
            let destination = if near {
                // Pods lie in the order of their names, so these mostly share a namespace.
                let at = pods.partition_point(|pod| pod.id < source.id);
                let reach = sizes.pods / sizes.namespaces;
                &pods[(at + random.below(reach.max(1))) % pods.len()]
            } else {
                &pods[random.below(pods.len())]
            };
            let port = [5432, 80, 443, 53, 8080, 9090, 31000][random.below(7)];
            let query = Query {
                source: Endpoint::Pod(source),
                source_ip: source.ips[0],
                destination: Endpoint::Pod(destination),
                destination_ip: destination.ips[0],
                protocol: synthetic::protocol(&mut random),
                port,
            };
            match random.below(20) {
                0 => Query {
                    source: Endpoint::External,
                    source_ip: external,
                    ..query
                },
                1 => Query {
                    destination: Endpoint::External,
                    destination_ip: external,
                    ..query
                },
                2 => Query {
                    source: Endpoint::Node("node-1"),
                    source_ip: "192.168.0.1".parse().unwrap(),
                    ..query
                },
                _ => query,
            }
        })
        .collect()
}

fn verdicts(report: &Report, snapshot: &Snapshot, sizes: &Sizes) {
    let pods: Vec<Arc<Pod>> = snapshot.pods().cloned().collect();
    let queries = queries(&pods, sizes);
    let (mut allow, mut deny, mut unknown, mut by_rule, mut isolated) = (0, 0, 0, 0, 0);
    for query in &queries {
        let verdict = snapshot.evaluate(query);
        match verdict.expectation() {
            Expectation::Allow => allow += 1,
            Expectation::Deny => deny += 1,
            Expectation::Unknown(_) => unknown += 1,
        }
        by_rule += usize::from(matches!(
            verdict.ingress.decision,
            Decision::Rule(_) | Decision::Admin(_)
        ));
        isolated += usize::from(!verdict.ingress.isolating.is_empty());
    }
    let share = |count: usize| 100.0 * count as f64 / queries.len() as f64;
    report.figure("queries_allowed_percent", share(allow));
    report.figure("queries_denied_percent", share(deny));
    report.figure("queries_unknown_percent", share(unknown));
    report.figure("queries_ingress_by_rule_percent", share(by_rule));
    report.figure("queries_ingress_isolated_percent", share(isolated));

    let rounds = sizes.verdicts.div_ceil(queries.len());
    // Short rounds, so that some are undisturbed on a machine that others use too.
    let round = 4096;
    let mut times = Vec::with_capacity(rounds * queries.len().div_ceil(round));
    let allocations = ALLOCATIONS.load(Ordering::Relaxed);
    for _ in 0..rounds {
        for queries in queries.chunks(round) {
            let start = Instant::now();
            for query in queries {
                black_box(snapshot.evaluate(black_box(query)));
            }
            times.push(start.elapsed());
        }
    }
    let allocations = ALLOCATIONS.load(Ordering::Relaxed) - allocations;
    let count = (rounds * queries.len()) as f64;
    // Rounds that other processes disturbed say little of the engine: the headline is that of
    // the fastest tenth, the mean stands beside it.
    times.sort_unstable();
    let per_second = |times: &[Duration]| {
        let total: Duration = times.iter().sum();
        (times.len() * round) as f64 / total.as_secs_f64()
    };
    let fastest = &times[..times.len().div_ceil(10)];
    report.figure("verdicts_per_second", per_second(fastest));
    report.figure("verdicts_per_second_mean", per_second(&times));
    report.figure(
        "allocations_per_million_verdicts",
        allocations as f64 / count * 1e6,
    );
    latency(report, snapshot, &queries);
    working_set(report, snapshot, &queries);
}

/// What the memory costs: the same number of verdicts on the same kind of queries, but on so few of them that all they touch
/// stays in the processor's caches. The rounds of both take turns, so that what disturbs one disturbs the other, too.
fn working_set(report: &Report, snapshot: &Snapshot, queries: &[Query<'_>]) {
    const FEW: usize = 64;
    const ROUND: usize = 4096;
    let few: Vec<&Query<'_>> = queries.iter().take(FEW).cycle().take(ROUND).collect();
    let (mut all, mut cached) = (Vec::new(), Vec::new());
    let run = |queries: &[&Query<'_>]| {
        let start = Instant::now();
        for query in queries {
            black_box(snapshot.evaluate(black_box(query)));
        }
        start.elapsed()
    };
    for _ in 0..10 {
        for queries in queries.chunks(ROUND) {
            let queries: Vec<&Query<'_>> = queries.iter().collect();
            all.push(run(&queries));
            cached.push(run(&few));
        }
    }
    // The undisturbed rounds: the slow half of the comparison is disturbed more often, for it takes longer.
    let undisturbed = |mut times: Vec<Duration>| {
        times.sort_unstable();
        times[times.len() / 10].as_secs_f64() * 1e9 / ROUND as f64
    };
    let (all, cached) = (undisturbed(all), undisturbed(cached));
    report.figure("verdict_ns_all_queries", all);
    report.figure("verdict_ns_64_queries", cached);
    report.figure("all_to_64_ratio", all / cached);
}

/// The time of a verdict, in batches of 16.
fn latency(report: &Report, snapshot: &Snapshot, queries: &[Query<'_>]) {
    const BATCH: usize = 16;
    let mut times = Vec::with_capacity(10 * queries.len() / BATCH);
    for _ in 0..10 {
        for queries in queries.chunks_exact(BATCH) {
            let start = Instant::now();
            for query in queries {
                black_box(snapshot.evaluate(black_box(query)));
            }
            times.push(start.elapsed());
        }
    }
    times.sort_unstable();
    let at = |percent: usize| {
        times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e9 / BATCH as f64
    };
    report.figure("verdict_ns_median", at(50));
    report.figure("verdict_ns_p99", at(99));
}

fn percentiles(report: &Report, name: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e6;
    report.figure(&format!("{name}_median"), at(50));
    report.figure(&format!("{name}_p99"), at(99));
}

/// Pods that come under a new UID with other labels, each followed by a snapshot.
fn pod_changes(report: &Report, state: &mut State, snapshot: &Snapshot) {
    let pods: Vec<Arc<Pod>> = snapshot.pods().cloned().collect();
    let mut random = Random::new(11);
    let mut kept = snapshot.clone();
    let mut times = Vec::new();
    for number in 0..2_000 {
        let old = &pods[random.below(pods.len())];
        let mut pod = Pod::clone(old);
        pod.uid = synthetic::uid(&mut random);
        pod.labels
            .insert("version".into(), format!("v{number}").into());
        let object = Object::Pod(Arc::new(pod));
        let start = Instant::now();
        let change = state.apply(object);
        let next = state.snapshot();
        times.push(start.elapsed());
        assert_eq!(change, Change::Changed);
        // Keeping the one before makes every change copy what it shares.
        kept = next;
    }
    black_box(&kept);
    percentiles(report, "pod_change_us", times);
}

/// Policies whose rules change, each followed by a snapshot.
fn policy_changes(report: &Report, state: &mut State, snapshot: &Snapshot) {
    let policies: Vec<Arc<NetworkPolicy>> = snapshot.policies().cloned().collect();
    let mut random = Random::new(13);
    let mut kept = snapshot.clone();
    let mut times = Vec::new();
    for number in 0..500 {
        let mut policy = NetworkPolicy::clone(&policies[random.below(policies.len())]);
        policy.generation = number + 2;
        let other = &policies[random.below(policies.len())];
        policy.ingress.clone_from(&other.ingress);
        let object = Object::NetworkPolicy(Arc::new(policy));
        let start = Instant::now();
        state.apply(object);
        let next = state.snapshot();
        times.push(start.elapsed());
        kept = next;
    }
    black_box(&kept);
    percentiles(report, "policy_change_us", times);
}

/// Policies of the admin and baseline tiers whose rules change, each followed by a snapshot.
fn admin_changes(report: &Report, state: &mut State, snapshot: &Snapshot) {
    let policies: Vec<Arc<AdminPolicy>> = snapshot.admin_policies().cloned().collect();
    let mut kept = snapshot.clone();
    let mut times = Vec::new();
    for number in 0..20 {
        let Some(policy) = policies.get(number % policies.len().max(1)) else {
            return;
        };
        let mut policy = AdminPolicy::clone(policy);
        policy.generation += number as i64 + 1;
        policy.ingress.reverse();
        let object = Object::AdminPolicy(Arc::new(policy));
        let start = Instant::now();
        state.apply(object);
        let next = state.snapshot();
        times.push(start.elapsed());
        kept = next;
    }
    black_box(&kept);
    percentiles(report, "admin_change_us", times);
}
