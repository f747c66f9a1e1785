//! One rule in words: what it admits, or what is nearest to being admitted.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::evaluate::{Admits, End};
use crate::model::{
    Direction, Labels, Peer, Pod, PolicyPort, PortMatch, Protocol, Requirement, Rule, Selector,
};
use crate::state::Snapshot;

/// What a rule was asked.
pub(super) struct Asked<'a> {
    pub(super) direction: Direction,
    pub(super) peer: End<'a, 'a>,
    pub(super) peer_ip: IpAddr,
    pub(super) destination: End<'a, 'a>,
    pub(super) protocol: Protocol,
    pub(super) port: u16,
}

/// Puts rules into words.
pub(super) struct Words<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) asked: Asked<'a>,
}

/// How far a peer is from being matched: what is missing, and how much.
struct Miss {
    distance: usize,
    text: String,
}

impl Words<'_> {
    /// The line of one rule.
    pub(super) fn rule(
        &self,
        index: usize,
        rule: &Rule,
        level: Admits,
        namespace: &Arc<str>,
    ) -> String {
        let port = self.port(&rule.ports);
        let peer = self.peers(&rule.peers, namespace);
        match (level, port, peer) {
            (Admits::Sure, Ok(port), Ok(peer)) => {
                format!("rule {index} admits: {peer}, {port}")
            }
            (Admits::Sure, _, _) => format!("rule {index} admits"),
            (Admits::Open, port, peer) => {
                let what = [peer, port.map_err(|text| Miss { distance: 0, text })];
                let what: Vec<_> = what
                    .into_iter()
                    .map(|part| part.unwrap_or_else(|miss| miss.text))
                    .collect();
                format!("rule {index} admits on some CNIs only: {}", what.join("; "))
            }
            (Admits::No, Err(port), Ok(_)) => format!("rule {index} does not: {port}"),
            (Admits::No, Ok(_), Err(peer)) => format!("rule {index} does not: {}", peer.text),
            (Admits::No, Err(port), Err(peer)) => {
                format!("rule {index} does not: {}, and {port}", peer.text)
            }
            (Admits::No, Ok(_), Ok(_)) => format!("rule {index} does not admit it"),
        }
    }

    fn port(&self, ports: &[PolicyPort]) -> Result<String, String> {
        let asked = format!("port {}/{}", self.asked.port, self.asked.protocol);
        if ports.is_empty() {
            return Ok("every port".to_owned());
        }
        let pod = match self.asked.destination {
            End::Pod(entry) | End::Host(entry) => Some(&*entry.pod),
            End::Node(_) | End::External => None,
        };
        match ports.iter().find(|port| self.port_matches(port, pod)) {
            Some(port) => Ok(match port.port {
                PortMatch::Named(_) => format!("{asked} is {port}"),
                PortMatch::Any | PortMatch::Range(..) => format!("port {port}"),
            }),
            None => {
                let listed: Vec<_> = ports
                    .iter()
                    .map(|port| format!("{port}{}", meaning(port, pod)))
                    .collect();
                Err(format!("{asked} is not {}", listed.join(" or ")))
            }
        }
    }

    fn port_matches(&self, port: &PolicyPort, pod: Option<&Pod>) -> bool {
        port.protocol == self.asked.protocol
            && match &port.port {
                PortMatch::Any => true,
                PortMatch::Range(first, last) => (*first..=*last).contains(&self.asked.port),
                PortMatch::Named(name) => pod.is_some_and(|pod| {
                    numbers(name, port.protocol, pod).any(|number| number == self.asked.port)
                }),
            }
    }

    fn peers(&self, peers: &[Peer], namespace: &Arc<str>) -> Result<String, Miss> {
        if peers.is_empty() {
            return Ok(match self.asked.direction {
                Direction::Ingress => "from everyone".to_owned(),
                Direction::Egress => "to everyone".to_owned(),
            });
        }
        let mut nearest: Option<Miss> = None;
        let mut by_block = None;
        for peer in peers {
            match self.peer(peer, namespace) {
                // A selector is the better reason: it holds on every CNI.
                Ok(matched) if matches!(peer, Peer::Pods { .. }) => return Ok(matched),
                Ok(matched) => by_block = by_block.or(Some(matched)),
                Err(miss) => {
                    if nearest.as_ref().is_none_or(|n| miss.distance < n.distance) {
                        nearest = Some(miss);
                    }
                }
            }
        }
        match (by_block, nearest) {
            (Some(matched), _) => Ok(matched),
            (None, Some(miss)) => Err(miss),
            (None, None) => Err(Miss {
                distance: usize::MAX,
                text: "no peer matches".to_owned(),
            }),
        }
    }

    fn peer(&self, peer: &Peer, namespace: &Arc<str>) -> Result<String, Miss> {
        let ip = self.asked.peer_ip;
        match peer {
            Peer::IpBlock { cidr, except } => {
                let outside = |distance, text| Err(Miss { distance, text });
                if !cidr.contains(&ip) {
                    return outside(100, format!("{ip} is outside {cidr}"));
                }
                match except.iter().find(|net| net.contains(&ip)) {
                    Some(net) => outside(1, format!("{ip} is in {net}, excepted from {cidr}")),
                    None => Ok(format!("{ip} is in {cidr}")),
                }
            }
            Peer::Pods { namespaces, pods } => {
                let pod = match self.asked.peer {
                    End::Pod(entry) => &entry.pod,
                    End::Host(entry) => {
                        return Err(Miss {
                            distance: 50,
                            text: format!(
                                "pod {} is on the host network and counts as its node, which no \
                                 selector selects",
                                entry.pod.id
                            ),
                        });
                    }
                    End::Node(node) => {
                        return Err(Miss {
                            distance: 200,
                            text: format!("node {node} is no pod, so no selector selects it"),
                        });
                    }
                    End::External => {
                        return Err(Miss {
                            distance: 200,
                            text: format!("{ip} is no pod, so no selector selects it"),
                        });
                    }
                };
                self.selected(namespaces.as_ref(), pods.as_ref(), pod, namespace)
            }
        }
    }

    fn selected(
        &self,
        namespaces: Option<&Selector>,
        pods: Option<&Selector>,
        pod: &Pod,
        namespace: &Arc<str>,
    ) -> Result<String, Miss> {
        let mut missing = Vec::new();
        let place = match namespaces {
            None => {
                if pod.id.namespace != *namespace {
                    missing.push(format!(
                        "pod {} is in namespace {}, not {namespace}",
                        pod.id, pod.id.namespace
                    ));
                }
                format!("namespace {namespace}")
            }
            Some(selector) if selector.is_empty() => "every namespace".to_owned(),
            Some(selector) => {
                let labels = self.snapshot.store.namespace_labels(&pod.id.namespace);
                let whose = format!("namespace {}", pod.id.namespace);
                missing.extend(unmet(selector, &labels, &whose));
                format!("namespaces with {selector}")
            }
        };
        if let Some(selector) = pods {
            let whose = format!("pod {}", pod.id);
            missing.extend(unmet(selector, &pod.labels, &whose));
        }
        if missing.is_empty() {
            return Ok(match pods {
                Some(selector) if !selector.is_empty() => {
                    format!("pods with {selector} of {place}")
                }
                Some(_) | None => format!("every pod of {place}"),
            });
        }
        Err(Miss {
            distance: missing.len(),
            text: missing.join(" and "),
        })
    }
}

/// What a named port means on a pod, in brackets.
fn meaning(port: &PolicyPort, pod: Option<&Pod>) -> String {
    let PortMatch::Named(name) = &port.port else {
        return String::new();
    };
    let Some(pod) = pod else {
        return " (a name, and the destination is no pod)".to_owned();
    };
    let numbers: Vec<_> = numbers(name, port.protocol, pod)
        .map(|number| number.to_string())
        .collect();
    if numbers.is_empty() {
        format!(" (a name that pod {} does not declare)", pod.id)
    } else {
        format!(" ({} on pod {})", numbers.join(", "), pod.id)
    }
}

fn numbers(name: &Arc<str>, protocol: Protocol, pod: &Pod) -> impl Iterator<Item = u16> {
    pod.ports
        .iter()
        .filter(move |declared| {
            declared.protocol == protocol && declared.name.as_ref() == Some(name)
        })
        .map(|declared| declared.number)
}

/// Each requirement that labels do not fulfil, as a sentence without its end.
fn unmet(selector: &Selector, labels: &Labels, whose: &str) -> Vec<String> {
    let found = |key: &Arc<str>| match labels.get(key) {
        Some(value) => format!("{whose} has {key}={value}"),
        None => format!("{whose} has no label {key}"),
    };
    let mut unmet = Vec::new();
    for (key, value) in &selector.match_labels {
        if labels.get(key) != Some(value) {
            unmet.push(format!("{}, not {key}={value}", found(key)));
        }
    }
    for requirement in &selector.match_expressions {
        if requirement.matches(labels) {
            continue;
        }
        unmet.push(match requirement {
            Requirement::In(key, values) => {
                format!("{}, not one of {}", found(key), values.join(", "))
            }
            Requirement::NotIn(key, _) | Requirement::DoesNotExist(key) => {
                format!("{}, which {requirement} excludes", found(key))
            }
            Requirement::Exists(key) => found(key),
        });
    }
    unmet
}

impl fmt::Display for PolicyPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.port {
            PortMatch::Any => write!(f, "any/{}", self.protocol),
            PortMatch::Range(first, last) if first == last => {
                write!(f, "{first}/{}", self.protocol)
            }
            PortMatch::Range(first, last) => write!(f, "{first}-{last}/{}", self.protocol),
            PortMatch::Named(name) => write!(f, "{name}/{}", self.protocol),
        }
    }
}
