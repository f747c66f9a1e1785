//! The lints that have fast paths, the slow way: every pair of pods, every address.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use polproof_policy::model::{
    Direction, Family, NetworkPolicy, Peer, Pod, PortMatch, Protocol, Rule, TargetPort,
};
use polproof_policy::{Endpoint, Expectation, Query, Snapshot};

type Found = BTreeSet<(&'static str, String)>;

/// What these lints must find.
pub(crate) fn findings(snapshot: &Snapshot) -> Found {
    let mut found = Found::new();
    for policy in snapshot.policies() {
        for (direction, effective, rules) in [
            (Direction::Ingress, policy.isolates_ingress, &policy.ingress),
            (Direction::Egress, policy.isolates_egress, &policy.egress),
        ] {
            for (index, rule) in rules.iter().enumerate() {
                let subject = format!("{}:{direction}[{index}]", policy.id);
                if effective {
                    futile(snapshot, policy, direction, rule, &subject, &mut found);
                }
                ports(
                    snapshot,
                    policy,
                    (direction, effective),
                    rule,
                    &subject,
                    &mut found,
                );
                peers(snapshot, policy, direction, rule, &subject, &mut found);
            }
        }
    }
    found
}

fn living(snapshot: &Snapshot) -> impl Iterator<Item = &Arc<Pod>> {
    snapshot.pods().filter(|pod| !pod.finished)
}

fn selected<'s>(snapshot: &'s Snapshot, policy: &NetworkPolicy) -> Vec<&'s Pod> {
    living(snapshot)
        .filter(|pod| !pod.host_network && pod.id.namespace == policy.id.namespace)
        .filter(|pod| policy.pod_selector.matches(&pod.labels))
        .map(|pod| &**pod)
        .collect()
}

fn matches(snapshot: &Snapshot, policy: &NetworkPolicy, peer: &Peer, pod: &Pod) -> bool {
    let Peer::Pods { namespaces, pods } = peer else {
        return false;
    };
    let namespace = match namespaces {
        None => pod.id.namespace == policy.id.namespace,
        Some(selector) => selector.matches(&snapshot.namespace_labels(&pod.id.namespace)),
    };
    namespace && pods.as_ref().is_none_or(|pods| pods.matches(&pod.labels))
}

fn of_peers<'s>(snapshot: &'s Snapshot, policy: &NetworkPolicy, rule: &Rule) -> Vec<&'s Pod> {
    living(snapshot)
        .filter(|pod| !pod.host_network)
        .filter(|pod| {
            rule.peers
                .iter()
                .any(|peer| matches(snapshot, policy, peer, pod))
        })
        .map(|pod| &**pod)
        .collect()
}

fn address(pod: &Pod, family: Family) -> Option<IpAddr> {
    if pod.ips.is_empty() {
        return Some(match family {
            Family::V4 => "192.0.2.53".parse().unwrap(),
            Family::V6 => "2001:db8::53".parse().unwrap(),
        });
    }
    pod.ips
        .iter()
        .find(|ip| Family::of(**ip) == family)
        .copied()
}

fn tuples(rule: &Rule, destination: &Pod) -> Vec<(Protocol, u16)> {
    let declared = |protocol: Option<Protocol>| {
        let of = destination.ports.iter();
        let found: Vec<_> = of
            .filter(|port| protocol.is_none_or(|protocol| port.protocol == protocol))
            .map(|port| (port.protocol, port.number))
            .collect();
        if found.is_empty() {
            vec![(protocol.unwrap_or(Protocol::Tcp), 80)]
        } else {
            found
        }
    };
    if rule.ports.is_empty() {
        return declared(None);
    }
    let of = |item: &polproof_policy::model::PolicyPort| match &item.port {
        PortMatch::Any => declared(Some(item.protocol)),
        PortMatch::Range(first, last) => vec![(item.protocol, *first), (item.protocol, *last)],
        PortMatch::Named(name) => destination
            .ports
            .iter()
            .filter(|port| port.protocol == item.protocol && port.name.as_ref() == Some(name))
            .map(|port| (port.protocol, port.number))
            .collect(),
    };
    rule.ports.iter().flat_map(of).collect()
}

/// NP100 and NP101.
fn futile(
    snapshot: &Snapshot,
    policy: &NetworkPolicy,
    direction: Direction,
    rule: &Rule,
    subject: &str,
    found: &mut Found,
) {
    let is_selector = |peer: &Peer| matches!(peer, Peer::Pods { .. });
    if rule.peers.is_empty() || !rule.peers.iter().all(is_selector) {
        return;
    }
    let (mut asked, mut denied) = (0, 0);
    for near in selected(snapshot, policy) {
        for far in of_peers(snapshot, policy, rule) {
            if near.uid == far.uid {
                continue;
            }
            let (source, destination) = match direction {
                Direction::Egress => (near, far),
                Direction::Ingress => (far, near),
            };
            for (protocol, port) in tuples(rule, destination) {
                for family in [Family::V4, Family::V6] {
                    let (Some(source_ip), Some(destination_ip)) =
                        (address(source, family), address(destination, family))
                    else {
                        continue;
                    };
                    let verdict = snapshot.evaluate(&Query {
                        source: Endpoint::Pod(source),
                        source_ip,
                        destination: Endpoint::Pod(destination),
                        destination_ip,
                        protocol,
                        port,
                    });
                    let verdict = match direction {
                        Direction::Egress => verdict.ingress,
                        Direction::Ingress => verdict.egress,
                    };
                    asked += 1;
                    denied += u32::from(verdict.expectation == Expectation::Deny);
                }
            }
        }
    }
    if asked > 0 && asked == denied {
        let lint = match direction {
            Direction::Egress => "NP100",
            Direction::Ingress => "NP101",
        };
        found.insert((lint, subject.to_owned()));
    }
}

/// NP040, NP041 and NP042.
fn ports(
    snapshot: &Snapshot,
    policy: &NetworkPolicy,
    (direction, effective): (Direction, bool),
    rule: &Rule,
    subject: &str,
    found: &mut Found,
) {
    let has_block = rule
        .peers
        .iter()
        .any(|peer| matches!(peer, Peer::IpBlock { .. }));
    let unknown = direction == Direction::Egress && has_block;
    let pods = match direction {
        Direction::Ingress => selected(snapshot, policy),
        Direction::Egress if rule.peers.is_empty() => living(snapshot)
            .filter(|pod| !pod.host_network)
            .map(|pod| &**pod)
            .collect(),
        Direction::Egress => of_peers(snapshot, policy, rule),
    };
    for (index, item) in rule.ports.iter().enumerate() {
        let subject = format!("{subject}.ports[{index}]");
        let any = |matches: &dyn Fn(u16, Option<&Arc<str>>) -> bool| {
            pods.iter().flat_map(|pod| &pod.ports).any(|port| {
                port.protocol == item.protocol && matches(port.number, port.name.as_ref())
            })
        };
        match &item.port {
            PortMatch::Named(name) => {
                if unknown || (!pods.is_empty() && !any(&|_, of| of == Some(name))) {
                    found.insert(("NP041", subject));
                }
            }
            PortMatch::Range(first, last) => {
                let range = *first..=*last;
                let declare = pods.iter().all(|pod| !pod.ports.is_empty());
                if !effective
                    || unknown
                    || pods.is_empty()
                    || !declare
                    || any(&|number, _| range.contains(&number))
                {
                    continue;
                }
                let translated = snapshot.services().any(|service| {
                    let selects = pods.iter().any(|pod| {
                        pod.id.namespace == service.id.namespace
                            && service.selector.as_ref().is_some_and(|selector| {
                                selector.iter().all(|(k, v)| pod.labels.get(k) == Some(v))
                            })
                    });
                    selects
                        && service.ports.iter().any(|port| {
                            port.protocol == item.protocol
                                && range.contains(&port.port)
                                && port.target != TargetPort::Number(port.port)
                        })
                });
                let lint = if translated { "NP042" } else { "NP040" };
                found.insert((lint, subject));
            }
            PortMatch::Any => {}
        }
    }
}

/// NP050, NP051 and NP071.
fn peers(
    snapshot: &Snapshot,
    policy: &NetworkPolicy,
    direction: Direction,
    rule: &Rule,
    subject: &str,
    found: &mut Found,
) {
    let field = match direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    };
    for (index, peer) in rule.peers.iter().enumerate() {
        let subject = format!("{subject}.{field}[{index}]");
        let Peer::IpBlock { cidr, except } = peer else {
            let matched: Vec<_> = living(snapshot)
                .filter(|pod| matches(snapshot, policy, peer, pod))
                .collect();
            if !matched.is_empty() && matched.iter().all(|pod| pod.host_network) {
                found.insert(("NP071", subject));
            }
            continue;
        };
        if cidr.prefix_len() == 0 {
            continue;
        }
        let holds =
            |ip: &IpAddr| cidr.contains(ip) && !except.iter().any(|except| except.contains(ip));
        let mut governed = living(snapshot).filter(|pod| !pod.host_network);
        let mut given = snapshot.nodes().flat_map(|node| &node.pod_cidrs);
        if governed.any(|pod| pod.ips.iter().any(holds))
            || given.any(|net| every_address(net).iter().any(holds))
        {
            found.insert(("NP050", subject.clone()));
        }
        let mut services = snapshot.services();
        if services.any(|service| service.cluster_ips.iter().any(holds)) {
            found.insert(("NP051", subject));
        }
    }
}

/// Of a small range.
fn every_address(net: &IpNet) -> Vec<IpAddr> {
    match net {
        IpNet::V4(net) => (net.network().to_bits()..=net.broadcast().to_bits())
            .map(|bits| IpAddr::V4(bits.into()))
            .collect(),
        IpNet::V6(net) => (net.network().to_bits()..=net.broadcast().to_bits())
            .map(|bits| IpAddr::V6(bits.into()))
            .collect(),
    }
}
