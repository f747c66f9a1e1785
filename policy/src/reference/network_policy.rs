//! networking.k8s.io/v1.

use super::labels::{of_pod, selects};
use super::{COMMON, Case, Decided, Outcome, Reading, readings};
use crate::model::{Direction, NetworkPolicy, Object, Peer, Pod, PolicyPort, PortMatch, Rule};

/// The policies that isolate a pod, by name.
pub(super) fn isolating<'a>(
    objects: &'a [Object],
    governed: &Pod,
    direction: Direction,
) -> Vec<&'a NetworkPolicy> {
    let mut isolating: Vec<&NetworkPolicy> = objects
        .iter()
        .filter_map(|object| match object {
            Object::NetworkPolicy(policy) => Some(&**policy),
            _ => None,
        })
        .filter(|policy| match direction {
            Direction::Ingress => policy.isolates_ingress,
            Direction::Egress => policy.isolates_egress,
        })
        .filter(|policy| policy.id.namespace == governed.id.namespace)
        .filter(|policy| selects(&policy.pod_selector, |key| of_pod(governed, key)))
        .collect();
    isolating.sort_by(|a, b| a.id.name.cmp(&b.id.name));
    isolating
}

impl Case<'_> {
    /// What comes out for a pod that is isolated.
    pub(super) fn by_policies(&self, governed: &Pod, reading: Reading) -> Outcome {
        let own_node = self.is_own_node(governed);
        if own_node && self.direction == Direction::Ingress {
            return Outcome::of(true, Decided::Exempt);
        }
        let every: Vec<Reading> = readings().collect();
        let sure = self.first_rule(governed, &every);
        let decision = match sure {
            Some(decision) => decision,
            // The node is reachable by its own right.
            None if own_node => Decided::NoRule,
            None => self
                .first_rule(governed, &[COMMON])
                .unwrap_or(Decided::NoRule),
        };
        let allowed = (own_node && reading.own_node_is_reachable)
            || self.first_rule(governed, &[reading]).is_some();
        Outcome::of(allowed, decision)
    }

    /// The first rule that admits in each of the readings.
    fn first_rule(&self, governed: &Pod, readings: &[Reading]) -> Option<Decided> {
        for policy in &self.isolating {
            for (index, rule) in self.rules(policy).iter().enumerate() {
                let admits = |reading: &Reading| self.admits(governed, policy, rule, *reading);
                if readings.iter().all(admits) {
                    return Some(Decided::Rule(policy.id.clone(), Some(index)));
                }
            }
        }
        None
    }

    fn rules<'p>(&self, policy: &'p NetworkPolicy) -> &'p [Rule] {
        match self.direction {
            Direction::Ingress => &policy.ingress,
            Direction::Egress => &policy.egress,
        }
    }

    fn admits(
        &self,
        governed: &Pod,
        policy: &NetworkPolicy,
        rule: &Rule,
        reading: Reading,
    ) -> bool {
        let destination = self.visible_destination(governed, reading);
        let port =
            rule.ports.is_empty() || rule.ports.iter().any(|port| self.port(port, destination));
        let peer = rule.peers.is_empty()
            || rule
                .peers
                .iter()
                .any(|peer| self.peer(peer, policy, reading));
        port && peer
    }

    fn port(&self, port: &PolicyPort, destination: Option<&Pod>) -> bool {
        let asked = self.query.port;
        port.protocol == self.query.protocol
            && match &port.port {
                PortMatch::Any => true,
                PortMatch::Range(first, last) => *first <= asked && asked <= *last,
                PortMatch::Named(name) => destination.is_some_and(|pod| self.is_named(name, pod)),
            }
    }

    fn peer(&self, peer: &Peer, policy: &NetworkPolicy, reading: Reading) -> bool {
        match peer {
            Peer::IpBlock { cidr, except } => {
                let is_pod_address = self.peer.is_some_and(|pod| !pod.host_network);
                cidr.contains(&self.peer_ip)
                    && !except.iter().any(|net| net.contains(&self.peer_ip))
                    && (!is_pod_address || reading.ip_blocks_match_pods)
            }
            Peer::Pods { namespaces, pods } => {
                let Some(pod) = self.visible_peer(reading) else {
                    return false;
                };
                let namespace = match namespaces {
                    None => pod.id.namespace == policy.id.namespace,
                    Some(selector) => {
                        selects(selector, |key| self.namespace_label(&pod.id.namespace, key))
                    }
                };
                namespace
                    && pods
                        .as_ref()
                        .is_none_or(|selector| selects(selector, |key| of_pod(pod, key)))
            }
        }
    }
}
