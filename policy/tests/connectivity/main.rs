//! The matrix says of every pair of pods and every port what the engine says, however pods are put together.
//!
//! 300 random clusters a test; `PROPTEST_CASES` sets another number.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods
)]

#[path = "../properties/admin.rs"]
mod admin;
#[path = "../properties/cluster.rs"]
#[allow(dead_code)]
mod cluster;
mod nodes;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use cluster::{cluster, refused};
use polproof_policy::connectivity::{
    Access, By, Connectivity, Counts, End, EndKind, FAMILIES, Filter, Options, PROTOCOLS, Ports,
    blocks, compare,
};
use polproof_policy::model::Pod;
use polproof_policy::{
    Endpoint, Expectation, Family, NamespacedName, Object, Protocol, Query, Snapshot, State,
};
use proptest::prelude::*;

/// Around every port that rules of these clusters name, and the ends of the range.
const PORTS: [u16; 22] = [
    1, 52, 53, 54, 73, 74, 79, 80, 81, 82, 89, 90, 91, 100, 101, 102, 110, 111, 8080, 8081, 8101,
    65535,
];

fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok())
        .unwrap_or(300);
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// Two of three pods of a namespace are of one workload, so that pods of a workload differ.
fn snapshot_of(objects: &[Object], refused: &[NamespacedName]) -> Snapshot {
    let mut state = State::new();
    for object in objects {
        state.apply(match object {
            Object::Pod(pod) => {
                let owner = match &*pod.id.name {
                    "x" => None,
                    _ => Some((Arc::from("StatefulSet"), Arc::from("yz"))),
                };
                let pod = Pod {
                    owner,
                    ..Pod::clone(pod)
                };
                Object::Pod(Arc::new(pod))
            }
            other => other.clone(),
        });
    }
    state.set_refused_policies(refused.to_vec());
    state.snapshot()
}

fn address(pod: &Pod, family: Family) -> Option<IpAddr> {
    if pod.ips.is_empty() {
        return Some(match family {
            Family::V4 => "192.0.2.53".parse().unwrap(),
            Family::V6 => "2001:db8::53".parse().unwrap(),
        });
    }
    pod.ips.iter().copied().find(|ip| Family::of(*ip) == family)
}

/// The members of an end: pods, or an address outside.
fn members(end: &End, family: Family) -> Vec<(Option<Arc<Pod>>, IpAddr)> {
    match end.block {
        Some(net) => {
            let mut last: Vec<IpAddr> = vec![net.broadcast()];
            last.extend(probes(family));
            let inside = last.into_iter().filter(|ip| {
                Family::of(*ip) == family
                    && net.contains(ip)
                    && !end.except.iter().any(|hole| hole.contains(ip))
            });
            inside.map(|ip| (None, ip)).collect()
        }
        None => {
            let pods = end.pods.iter();
            pods.filter_map(|pod| Some((Some(Arc::clone(pod)), address(pod, family)?)))
                .collect()
        }
    }
}

fn probes(family: Family) -> impl Iterator<Item = IpAddr> {
    let ips = "10.0.0.1 10.0.0.2 10.0.0.200 10.0.1.1 10.0.5.5 10.200.0.1 172.16.0.1 8.8.8.8 203.0.113.9 fd00::1 \
               fd00:1::1 fd02::1 2001:db8::9";
    ips.split_whitespace()
        .map(|ip| ip.parse::<IpAddr>().unwrap())
        .filter(move |ip| Family::of(*ip) == family)
}

fn endpoint(pod: Option<&Arc<Pod>>) -> Endpoint<'_> {
    pod.map_or(Endpoint::External, |pod| Endpoint::Pod(pod))
}

type Naive = BTreeMap<(usize, Family, u16), (Counts, BTreeSet<String>)>;

/// Every pair of members, one by one: (other nodes, own node).
fn naive(snapshot: &Snapshot, source: &End, destination: &End) -> (Naive, Naive) {
    let mut found = (Naive::new(), Naive::new());
    // Pods without an address have an IPv6 one if anything has.
    let living = || snapshot.pods().filter(|pod| !pod.finished);
    let of_pods = living().flat_map(|pod| &pod.ips).any(IpAddr::is_ipv6);
    let v6 = of_pods || blocks(snapshot).iter().any(|net| net.addr().is_ipv6());
    for family in FAMILIES {
        if family == Family::V6 && !v6 {
            continue;
        }
        for (one, source_ip) in members(source, family) {
            for (two, destination_ip) in members(destination, family) {
                if one.is_none() && two.is_none() {
                    continue;
                }
                let uid = |pod: &Option<Arc<Pod>>| pod.as_ref().map(|pod| pod.uid.clone());
                if uid(&one).is_some() && uid(&one) == uid(&two) {
                    continue;
                }
                let node = |pod: &Option<Arc<Pod>>| pod.as_ref().and_then(|pod| pod.node.clone());
                let own = (source.kind == EndKind::HostNetwork
                    || destination.kind == EndKind::HostNetwork)
                    && node(&one).is_some()
                    && node(&one) == node(&two);
                for (at, protocol) in PROTOCOLS.into_iter().enumerate() {
                    for port in PORTS {
                        let expectation = snapshot
                            .evaluate(&Query {
                                source: endpoint(one.as_ref()),
                                source_ip,
                                destination: endpoint(two.as_ref()),
                                destination_ip,
                                protocol,
                                port,
                            })
                            .expectation();
                        let of = if own { &mut found.1 } else { &mut found.0 };
                        let (counts, reasons) = of.entry((at, family, port)).or_default();
                        match expectation {
                            Expectation::Allow => counts.allow += 1,
                            Expectation::Deny => counts.deny += 1,
                            Expectation::Unknown(reason) => {
                                counts.unknown += 1;
                                reasons.insert(format!("{reason:?}"));
                            }
                        }
                    }
                }
            }
        }
    }
    found
}

/// `outside`: the number of addresses is ours, not the matrix's; `host`: an end is on the host's network.
fn assert_cell(
    ports: Option<&Arc<Ports>>,
    family: Family,
    naive: &Naive,
    (outside, host): (bool, bool),
    what: &str,
) -> Result<(), TestCaseError> {
    for ((at, of, port), (counts, reasons)) in naive {
        if *of != family {
            continue;
        }
        let protocol: Protocol = PROTOCOLS[*at];
        let access = ports.and_then(|ports| ports.at(protocol, *port));
        let wanted = match (counts.allow > 0, counts.deny > 0, counts.unknown > 0) {
            // Pairs on one node count here as if they were on two.
            _ if host && !outside && matches!(access, Some(Access::Mixed(_))) => match access {
                Some(Access::Mixed(of)) => {
                    of.allow >= counts.allow
                        && of.deny >= counts.deny
                        && of.unknown >= counts.unknown
                }
                _ => false,
            },
            (true, false, false) => matches!(access, Some(Access::Allow)),
            (false, true, false) => matches!(access, Some(Access::Deny)),
            (false, false, true) => match access {
                Some(Access::Unknown(reason)) => reasons.contains(&format!("{reason:?}")),
                _ => false,
            },
            // All addresses of a region outside are alike, so they only multiply.
            _ => match access {
                Some(Access::Mixed(of)) if outside => {
                    u128::from(of.allow) * u128::from(counts.total())
                        == u128::from(counts.allow) * u128::from(of.total())
                        && u128::from(of.deny) * u128::from(counts.total())
                            == u128::from(counts.deny) * u128::from(of.total())
                }
                Some(Access::Mixed(of)) => of == *counts,
                _ => false,
            },
        };
        prop_assert!(
            wanted,
            "{what} {family:?} {protocol} {port}: {access:?}, one by one {counts:?} {reasons:?}"
        );
    }
    Ok(())
}

fn by() -> impl Strategy<Value = By> {
    prop_oneof![3 => Just(By::Workload), 1 => Just(By::Namespace), 1 => Just(By::Pod)]
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn every_pair_and_port_is_as_the_engine_says(
        objects in cluster(),
        refused in refused(),
        by in by(),
    ) {
        let snapshot = snapshot_of(&objects, &refused);
        let mut matrix = Connectivity::of(&snapshot, &Options { by, ..Options::default() });
        let ends = matrix.ends().to_vec();
        let own_node: BTreeMap<_, _> = matrix
            .own_node(|_, _| true)
            .into_iter()
            .map(|of| ((of.source, of.destination), of.cell))
            .collect();
        let mut folded = BTreeMap::new();
        let (connections, totals) = matrix.fold(&Filter::default(), |_| true, |_, _| {});
        for connection in &connections {
            for source in &connection.sources {
                for destination in &connection.destinations {
                    let twice = folded.insert((*source, *destination), connection.cell);
                    prop_assert_eq!(twice, None);
                }
            }
        }
        prop_assert_eq!(totals.pairs, totals.all + totals.some + totals.unknown + totals.none);
        for (s, source) in ends.iter().enumerate() {
            for (d, destination) in ends.iter().enumerate() {
                let (others, own) = naive(&snapshot, source, destination);
                let cell = matrix.cell(s, d);
                let outside = source.block.is_some() || destination.block.is_some();
                let host = |end: &End| end.kind == EndKind::HostNetwork;
                let host = host(source) || host(destination);
                let what = format!("{source} -> {destination}");
                for (at, family) in FAMILIES.into_iter().enumerate() {
                    let ports = cell.families[at].and_then(|id| matrix.ports(id)).cloned();
                    assert_cell(ports.as_ref(), family, &others, (outside, host), &what)?;
                    let near = own_node.get(&(s, d)).and_then(|cell| cell.families[at]);
                    let near = near.and_then(|id| matrix.ports(id)).cloned();
                    assert_cell(near.as_ref(), family, &own, (outside, false), &format!("{what} on its node"))?;
                }
                if cell.is_some() {
                    prop_assert_eq!(folded.get(&(s, d)), Some(&cell), "{}", what);
                }
            }
        }
    }

    #[test]
    fn a_difference_is_where_the_cells_differ(
        before in cluster(),
        after in cluster(),
        same_pods in any::<bool>(),
    ) {
        let mut after = after;
        if same_pods {
            after.retain(|object| !matches!(object, Object::Pod(_)));
            after.extend(before.iter().filter(|object| matches!(object, Object::Pod(_))).cloned());
        }
        let (before, after) = (snapshot_of(&before, &[]), snapshot_of(&after, &[]));
        let options = Options {
            blocks: blocks(&before).union(&blocks(&after)).copied().collect(),
            ..Options::default()
        };
        let mut a = Connectivity::of(&before, &options);
        let mut b = Connectivity::of(&after, &options);
        let difference = compare(&mut a, &mut b, |_, _| {});
        let mut changed = BTreeMap::new();
        for (at, change) in difference.changes.iter().enumerate() {
            for source in &change.sources {
                for destination in &change.destinations {
                    prop_assert_eq!(changed.insert((*source, *destination), at), None);
                }
            }
        }
        let places: BTreeMap<String, usize> =
            a.ends().iter().enumerate().map(|(at, end)| (end.to_string(), at)).collect();
        let ends: Vec<String> = b.ends().iter().map(ToString::to_string).collect();
        for (s, source) in ends.iter().enumerate() {
            for (d, destination) in ends.iter().enumerate() {
                let (Some(from), Some(to)) = (places.get(source), places.get(destination)) else {
                    prop_assert!(!changed.contains_key(&(s, d)));
                    continue;
                };
                let (was, is) = (a.cell(*from, *to), b.cell(s, d));
                for (at, family) in FAMILIES.into_iter().enumerate() {
                    let was = was.families[at].and_then(|id| a.ports(id)).cloned();
                    let is = is.families[at].and_then(|id| b.ports(id)).cloned();
                    let (Some(was), Some(is)) = (was, is) else { continue };
                    for (protocol, first, _, one, two) in was.beside(&is) {
                        let counted = matches!(
                            (one, two),
                            (Access::Mixed(one), Access::Mixed(two)) if one.total() != two.total()
                        );
                        let told = changed.get(&(s, d)).is_some_and(|at| {
                            difference.changes[*at].ports.iter().any(|of| {
                                of.protocol == protocol
                                    && of.families.contains(&family)
                                    && of.first <= first
                                    && first <= of.last
                                    && (of.before, of.after) == (one, two)
                            })
                        });
                        prop_assert_eq!(
                            told,
                            one != two && !counted,
                            "{} -> {} {} {}: {:?} {:?}", source, destination, protocol, first, one, two
                        );
                    }
                }
            }
        }
    }
}
