//! What each finding about a policy asks to be changed in it.

use std::collections::HashSet;
use std::sync::Arc;

use super::Choice;
use super::edits::rule_mut;
use crate::lint::{Cluster, Finding, by_name, useless_exceptions};
use crate::model::{
    NAMESPACE_NAME_LABEL, NetworkPolicy, Peer, PolicyPort, PortMatch, Protocol, Selector,
};
use crate::similar::NearMiss;

/// Where in a policy a subject points: `ns/policy:direction[i].from[j]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Spot<'a> {
    direction: &'a str,
    rule: usize,
    /// Position in `from`, `to` or `ports`.
    item: Option<usize>,
}

impl<'a> Spot<'a> {
    fn of(subject: &'a str) -> Option<Self> {
        let (_, spot) = subject.rsplit_once(':')?;
        let (first, item) = match spot.split_once('.') {
            Some((first, item)) => (first, Some(number(item)?)),
            None => (spot, None),
        };
        Some(Self {
            direction: first.split('[').next()?,
            rule: number(first)?,
            item,
        })
    }
}

/// The number in the brackets at the end.
fn number(text: &str) -> Option<usize> {
    let (_, number) = text.strip_suffix(']')?.rsplit_once('[')?;
    number.parse().ok()
}

/// Changes the policy as a finding suggests. Whether there was something to change.
pub(super) fn finding(
    policy: &mut NetworkPolicy,
    finding: &Finding,
    cluster: &Cluster<'_>,
    choice: &Choice,
) -> bool {
    let spot = Spot::of(&finding.subject);
    match (finding.lint, spot) {
        ("NP030", _) => {
            let among = [Arc::clone(&policy.id.namespace)];
            let miss = cluster.pod_near_miss(&policy.pod_selector, &among);
            replace_label(&mut policy.pod_selector, miss)
        }
        ("NP031" | "NP032" | "NP033", Some(spot)) => peer(policy, finding, spot, cluster),
        ("NP041", Some(spot)) => protocol(policy, finding, spot),
        ("NP042", Some(spot)) => target_port(policy, finding, spot),
        ("NP043", Some(spot)) => dns_over_udp(policy, spot),
        ("NP052", Some(spot)) => useless_excepts(policy, spot),
        ("NP091", Some(spot)) => end_port(policy, spot),
        ("NP062", _) if choice.egress => {
            policy.written.policy_types = true;
            policy.isolates_egress = true;
            true
        }
        _ => false,
    }
}

/// Writes what was meant instead of what nothing has. Whether anything was.
fn replace_label(selector: &mut Selector, miss: Option<NearMiss>) -> bool {
    let Some(NearMiss { wanted, found, .. }) = miss else {
        return false;
    };
    selector.match_labels.remove(&wanted.0);
    selector.match_labels.insert(found.0, found.1);
    true
}

fn peer(
    policy: &mut NetworkPolicy,
    finding: &Finding,
    spot: Spot<'_>,
    cluster: &Cluster<'_>,
) -> bool {
    let own = Arc::clone(&policy.id.namespace);
    let peer =
        rule_mut(policy, spot.direction, spot.rule).and_then(|rule| rule.peers.get_mut(spot.item?));
    let Some(Peer::Pods { namespaces, pods }) = peer else {
        return false;
    };
    match (finding.lint, namespaces, pods) {
        ("NP031", namespaces, Some(pods)) => {
            let among = match namespaces {
                None => vec![own],
                Some(selector) => cluster.matching_namespaces(selector).to_vec(),
            };
            let miss = cluster.pod_near_miss(pods, &among);
            replace_label(pods, miss)
        }
        ("NP032", Some(namespaces), _) => {
            let by_name = by_name(cluster, namespaces);
            match by_name.map(|(key, name)| (Arc::clone(key), Arc::clone(name))) {
                Some((key, name)) => {
                    namespaces.match_labels.remove(&key);
                    let key = Arc::from(NAMESPACE_NAME_LABEL);
                    namespaces.match_labels.insert(key, name);
                    true
                }
                None => {
                    let miss = cluster.namespace_near_miss(namespaces);
                    replace_label(namespaces, miss)
                }
            }
        }
        ("NP033", namespaces @ None, _) => {
            let Some(name) = finding.suggest.as_deref() else {
                return false;
            };
            let mut selector = Selector::default();
            let name = Arc::from(name);
            selector
                .match_labels
                .insert(Arc::from(NAMESPACE_NAME_LABEL), name);
            *namespaces = Some(selector);
            true
        }
        _ => false,
    }
}

fn port_mut<'p>(policy: &'p mut NetworkPolicy, spot: Spot<'_>) -> Option<&'p mut PolicyPort> {
    rule_mut(policy, spot.direction, spot.rule)?
        .ports
        .get_mut(spot.item?)
}

/// The name is there under another protocol.
fn protocol(policy: &mut NetworkPolicy, finding: &Finding, spot: Spot<'_>) -> bool {
    let suggested = match finding.suggest.as_deref() {
        Some("TCP") => Protocol::Tcp,
        Some("UDP") => Protocol::Udp,
        Some("SCTP") => Protocol::Sctp,
        _ => return false,
    };
    let port = port_mut(policy, spot);
    port.is_some_and(|port| std::mem::replace(&mut port.protocol, suggested) != suggested)
}

/// The port behind the Service's.
fn target_port(policy: &mut NetworkPolicy, finding: &Finding, spot: Spot<'_>) -> bool {
    let (Some(suggested), Some(port)) = (finding.suggest.as_deref(), port_mut(policy, spot)) else {
        return false;
    };
    port.end_port_written = false;
    port.port = match suggested.parse::<u16>() {
        Ok(number) => PortMatch::Range(number, number),
        Err(_) => PortMatch::Named(Arc::from(suggested)),
    };
    true
}

fn dns_over_udp(policy: &mut NetworkPolicy, spot: Spot<'_>) -> bool {
    let Some(rule) = rule_mut(policy, spot.direction, spot.rule) else {
        return false;
    };
    rule.ports.push(PolicyPort {
        protocol: Protocol::Udp,
        port: PortMatch::Range(53, 53),
        end_port_written: false,
    });
    true
}

fn useless_excepts(policy: &mut NetworkPolicy, spot: Spot<'_>) -> bool {
    let peer =
        rule_mut(policy, spot.direction, spot.rule).and_then(|rule| rule.peers.get_mut(spot.item?));
    let Some(Peer::IpBlock { except, .. }) = peer else {
        return false;
    };
    let useless = useless_exceptions(except);
    let useless: HashSet<usize> = useless.into_iter().map(|(at, _)| at).collect();
    let mut position = 0..;
    except.retain(|_| !position.next().is_some_and(|at| useless.contains(&at)));
    !useless.is_empty()
}

fn end_port(policy: &mut NetworkPolicy, spot: Spot<'_>) -> bool {
    let port =
        rule_mut(policy, spot.direction, spot.rule).and_then(|rule| rule.ports.get_mut(spot.item?));
    port.is_some_and(|port| std::mem::take(&mut port.end_port_written))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_point_into_policies() {
        for (subject, direction, rule, item) in [
            ("shop/db:ingress[2]", "ingress", 2, None),
            ("shop/db:egress[0].to[3]", "egress", 0, Some(3)),
            ("shop/db:ingress[10].ports[11]", "ingress", 10, Some(11)),
        ] {
            let spot = Spot {
                direction,
                rule,
                item,
            };
            assert_eq!(Spot::of(subject), Some(spot), "{subject}");
        }
        for none in ["shop/db", "shop/db:egress", "shop/db:egress[x]", ""] {
            assert_eq!(Spot::of(none), None, "{none}");
        }
    }
}
