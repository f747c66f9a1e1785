//! Peers and ports in words: what matches, or what is missing, and how much.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::labels::{Census, Whose};
use crate::ask::family_name;
use crate::evaluate::{End, PodEntry};
use crate::model::{Direction, Family, Pod, PortMatch, Protocol, Selector, Service, TargetPort};
use crate::state::Snapshot;

/// Of an end that no selector can ever select.
pub(super) const NO_POD: usize = 200;
/// Of a pod that selectors do not see.
const HIDDEN: usize = 50;
/// Of an address outside a block.
const OUTSIDE: usize = 100;
/// Of each thing that is missing; of a slip of the keyboard it is 1.
pub(super) const WHOLE: usize = 4;

/// What was asked, and what is needed to put it into words.
pub(super) struct Words<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) census: Census<'a>,
    pub(super) direction: Direction,
    pub(super) governed: &'a PodEntry,
    pub(super) peer: End<'a, 'a>,
    pub(super) peer_ip: IpAddr,
    pub(super) destination: End<'a, 'a>,
    pub(super) protocol: Protocol,
    pub(super) port: u16,
}

/// How far a part of a rule is from being matched: what is missing, and how much.
#[derive(Clone, Debug)]
pub(super) struct Miss {
    pub(super) distance: usize,
    pub(super) text: String,
}

impl Miss {
    pub(super) fn new(distance: usize, text: impl Into<String>) -> Self {
        Self {
            distance,
            text: text.into(),
        }
    }
}

/// A port of a rule, of whatever tier.
pub(super) struct Port<'a> {
    /// `None`: whatever the protocol.
    pub(super) protocol: Option<Protocol>,
    pub(super) port: &'a PortMatch,
}

impl Words<'_> {
    /// The destination, if it is a pod that names mean something on.
    fn destination_pod(&self) -> Option<&Pod> {
        match self.destination {
            End::Pod(entry) | End::Host(entry) => Some(&entry.pod),
            End::Node(_) | End::External => None,
        }
    }

    /// Which of the ports is the one that was asked for, or why none is.
    pub(super) fn ports(&self, ports: &[Port<'_>]) -> Result<String, Miss> {
        let asked = format!("port {}/{}", self.port, self.protocol);
        if ports.is_empty() {
            return Ok("every port".to_owned());
        }
        if let Some(port) = ports.iter().find(|port| self.port_matches(port)) {
            return Ok(match port.port {
                PortMatch::Named(_) => format!("port {}{}", written(port), self.meaning(port)),
                PortMatch::Any | PortMatch::Range(..) => format!("port {}", written(port)),
            });
        }
        let mut listed: Vec<_> = ports
            .iter()
            .take(LISTED)
            .map(|port| format!("{}{}", written(port), self.meaning(port)))
            .collect();
        if ports.len() > LISTED {
            listed.push(format!("one of {} more", ports.len() - LISTED));
        }
        let mut text = format!("{asked} is not {}", listed.join(" or "));
        if let Some(service) = ports.iter().find_map(|port| self.service_port(port)) {
            text = format!("{text} ({service})");
        }
        Err(Miss::new(WHOLE, text))
    }

    pub(super) fn port_matches(&self, port: &Port<'_>) -> bool {
        port.protocol.is_none_or(|of| of == self.protocol)
            && match port.port {
                PortMatch::Any => true,
                PortMatch::Range(first, last) => (*first..=*last).contains(&self.port),
                PortMatch::Named(name) => self.destination_pod().is_some_and(|pod| {
                    pod.ports.iter().any(|declared| {
                        declared.name.as_ref() == Some(name)
                            && declared.protocol == self.protocol
                            && declared.number == self.port
                    })
                }),
            }
    }

    /// What a named port means on the destination, in brackets.
    fn meaning(&self, port: &Port<'_>) -> String {
        let PortMatch::Named(name) = port.port else {
            return String::new();
        };
        let Some(pod) = self.destination_pod() else {
            return " (a name, and the destination is no pod)".to_owned();
        };
        let named = || pod.ports.iter().filter(|of| of.name.as_ref() == Some(name));
        let numbers: Vec<_> = named()
            .filter(|of| port.protocol.is_none_or(|protocol| protocol == of.protocol))
            .map(|of| of.number.to_string())
            .collect();
        if !numbers.is_empty() {
            return format!(" ({} on pod {})", numbers.join(", "), pod.id);
        }
        match named().next() {
            Some(other) => format!(
                " (pod {} declares {name} as {}/{})",
                pod.id, other.number, other.protocol
            ),
            None => format!(" (a name that pod {} does not declare)", pod.id),
        }
    }

    /// Says so if the rule has the port of a Service where the pod's is needed.
    fn service_port(&self, port: &Port<'_>) -> Option<String> {
        let pod = self.destination_pod()?;
        let PortMatch::Range(first, last) = port.port else {
            return None;
        };
        let selects = |service: &Service| {
            service.id.namespace == pod.id.namespace
                && service.selector.as_ref().is_some_and(|labels| {
                    let mut labels = labels.iter();
                    labels.all(|(key, value)| pod.labels.get(key) == Some(value))
                })
        };
        let services = self.snapshot.services().filter(|service| selects(service));
        services
            .flat_map(|service| service.ports.iter().map(move |port| (service, port)))
            .find(|(_, entry)| {
                let target = match &entry.target {
                    TargetPort::Number(number) => *number == self.port,
                    TargetPort::Name(name) => pod.ports.iter().any(|of| {
                        of.name.as_ref() == Some(name)
                            && of.number == self.port
                            && of.protocol == self.protocol
                    }),
                };
                target
                    && entry.protocol == self.protocol
                    && entry.port != self.port
                    && (*first..=*last).contains(&entry.port)
            })
            .map(|(service, entry)| {
                format!(
                    "{} is the port of Service {}; policies see the pod's: did you mean {}?",
                    entry.port, service.id, self.port
                )
            })
    }

    /// Whether an address is in a block, or why not.
    pub(super) fn block(&self, cidr: &IpNet, except: &[IpNet]) -> Result<String, Miss> {
        let ip = self.peer_ip;
        let of_block = Family::of(cidr.addr());
        if of_block != Family::of(ip) {
            return Err(Miss::new(
                OUTSIDE,
                format!(
                    "{cidr} is {}, and the connection is {}",
                    family_name(of_block),
                    family_name(Family::of(ip))
                ),
            ));
        }
        if !cidr.contains(&ip) {
            return Err(Miss::new(OUTSIDE, format!("{ip} is outside {cidr}")));
        }
        match except.iter().find(|net| net.contains(&ip)) {
            Some(net) => Err(Miss::new(
                match self.peer {
                    // A pod is not left out by a block: selectors are for pods.
                    End::Pod(_) | End::Host(_) => OUTSIDE,
                    End::Node(_) | End::External => WHOLE,
                },
                format!("{ip} is in {net}, excepted from {cidr}"),
            )),
            None => Ok(format!("{ip} is in {cidr}")),
        }
    }

    /// The peer as something that selectors select, or why they cannot.
    pub(super) fn peer_pod(&self) -> Result<&Pod, Miss> {
        match self.peer {
            End::Pod(entry) => Ok(&entry.pod),
            End::Host(entry) => Err(Miss::new(
                HIDDEN,
                format!(
                    "pod {} is on the host network and counts as its node, which no selector selects",
                    entry.pod.id
                ),
            )),
            End::Node(node) => Err(Miss::new(
                NO_POD,
                format!("node {node} is no pod, so no selector selects it"),
            )),
            End::External => Err(Miss::new(
                NO_POD,
                format!("{} is no pod, so no selector selects it", self.peer_ip),
            )),
        }
    }

    /// Whether selectors select the peer. `own` is the namespace that a pod selector alone is about.
    pub(super) fn selected(
        &self,
        namespaces: Option<&Selector>,
        pods: Option<&Selector>,
        own: &Arc<str>,
    ) -> Result<String, Miss> {
        let pod = self.peer_pod()?;
        let mut missing = Vec::new();
        let mut distance = 0;
        let name = format!("pod {}", pod.id);
        let mut elsewhere = false;
        let place = match namespaces {
            None => {
                if pod.id.namespace != *own {
                    elsewhere = true;
                    distance += WHOLE;
                    missing.push(format!(
                        "pod {} is in namespace {}, not {own}",
                        pod.id, pod.id.namespace
                    ));
                }
                format!("namespace {own}")
            }
            Some(selector) if selector.is_empty() => "every namespace".to_owned(),
            Some(selector) => {
                let labels = self.snapshot.namespace_labels(&pod.id.namespace);
                let whose = Whose::Namespace(&pod.id.namespace);
                let lack = self.census.lack(selector, &labels, whose);
                distance += WHOLE * lack.missing.len() - lack.slips * (WHOLE - 1);
                missing.extend(lack.missing.into_iter().map(|text| {
                    // It needs somebody whose namespace it is.
                    match text.strip_prefix("its namespace ") {
                        Some(rest) => format!("the namespace of {name} {rest}"),
                        None => text,
                    }
                }));
                format!("namespaces with {selector}")
            }
        };
        if let Some(selector) = pods {
            let whose = Whose::Pod(&pod.id.namespace, &name);
            let lack = self.census.lack(selector, &pod.labels, whose);
            distance += WHOLE * lack.missing.len() - lack.slips * (WHOLE - 1);
            missing.extend(lack.missing);
        }
        if missing.is_empty() {
            return Ok(match pods {
                Some(selector) if !selector.is_empty() => {
                    format!("pods with {selector} of {place}")
                }
                Some(_) | None => format!("every pod of {place}"),
            });
        }
        if elsewhere && missing.len() == 1 {
            // Its labels fit: the classic.
            missing.push(
                "a podSelector without a namespaceSelector means the policy's own namespace"
                    .to_owned(),
            );
            return Err(Miss::new(1, missing.join(": ")));
        }
        Err(Miss::new(distance, missing.join(", and ")))
    }
}

/// Ports that one line lists.
const LISTED: usize = 8;

fn written(port: &Port<'_>) -> String {
    let number = match port.port {
        PortMatch::Any => "any".to_owned(),
        PortMatch::Range(first, last) if first == last => first.to_string(),
        PortMatch::Range(first, last) => format!("{first}-{last}"),
        PortMatch::Named(name) => name.to_string(),
    };
    match port.protocol {
        Some(protocol) => format!("{number}/{protocol}"),
        None => number,
    }
}
