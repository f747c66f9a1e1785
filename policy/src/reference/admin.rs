//! AdminNetworkPolicy, BaselineAdminNetworkPolicy and ClusterNetworkPolicy.

use std::sync::Arc;

use super::labels::{of_namespace, of_node, of_pod, selects};
use super::{Case, Decided, Reading};
use crate::model::{
    Action, AdminKind, AdminPeer, AdminPolicy, AdminPort, AdminRule, Direction, Object, Pod,
    PortMatch, Subject, Tier,
};

/// The policies that select a pod and have rules of the direction.
pub(super) fn selecting<'a>(
    objects: &'a [Object],
    governed: &Pod,
    direction: Direction,
) -> Vec<&'a AdminPolicy> {
    let namespace = |key: &str| of_namespace(objects, &governed.id.namespace, key);
    objects
        .iter()
        .filter_map(|object| match object {
            Object::AdminPolicy(policy) => Some(&**policy),
            _ => None,
        })
        .filter(|policy| !rules(policy, direction).is_empty())
        .filter(|policy| match &policy.subject {
            Subject::Namespaces(selector) => selects(selector, namespace),
            Subject::Pods { namespaces, pods } => {
                selects(namespaces, namespace) && selects(pods, |key| of_pod(governed, key))
            }
        })
        .collect()
}

/// Every order that priorities leave to policies; by kind and name first.
pub(super) fn orders(mut policies: Vec<&AdminPolicy>) -> Vec<Vec<&AdminPolicy>> {
    policies.sort_by_key(|policy| (place(policy), policy.kind, Arc::clone(&policy.name)));
    let mut orders = vec![Vec::new()];
    for policy in policies {
        let mut longer = Vec::new();
        // Behind all that are there first, so that the first order stays that of the names.
        for order in &orders {
            for at in (0..=order.len()).rev() {
                let stays = |after: &[&AdminPolicy]| {
                    after.iter().all(|other| place(other) == place(policy))
                };
                if order.get(at..).is_some_and(stays) {
                    let mut order: Vec<&AdminPolicy> = order.clone();
                    order.insert(at, policy);
                    longer.push(order);
                }
            }
        }
        orders = longer;
    }
    orders
}

/// A policy without a priority comes last.
fn place(policy: &AdminPolicy) -> (Tier, bool, u16) {
    let last = policy.kind == AdminKind::BaselineAdminNetworkPolicy;
    (policy.tier, last, if last { 0 } else { policy.priority })
}

fn rules(policy: &AdminPolicy, direction: Direction) -> &[AdminRule] {
    match direction {
        Direction::Ingress => &policy.ingress,
        Direction::Egress => &policy.egress,
    }
}

impl Case<'_> {
    /// What the first rule of a tier that matches does.
    pub(super) fn first_match(
        &self,
        governed: &Pod,
        order: &[&AdminPolicy],
        tier: Tier,
        reading: Reading,
    ) -> Option<(Action, Decided)> {
        for policy in order.iter().filter(|policy| policy.tier == tier) {
            for (index, rule) in rules(policy, self.direction).iter().enumerate() {
                if let Some(action) = self.action(governed, rule, reading) {
                    return Some((action, Decided::Admin(Arc::clone(&policy.name), index)));
                }
            }
        }
        None
    }

    /// What a rule does, if it matches.
    fn action(&self, governed: &Pod, rule: &AdminRule, reading: Reading) -> Option<Action> {
        let ports = rule.ports.is_empty()
            || rule
                .ports
                .iter()
                .any(|port| self.admin_port(governed, port, reading));
        if !ports {
            return None;
        }
        if rule.peers.contains(&AdminPeer::Unrecognised) {
            return (rule.action != Action::Allow).then_some(Action::Deny);
        }
        rule.peers
            .iter()
            .any(|peer| self.admin_peer(peer, reading))
            .then_some(rule.action)
    }

    fn admin_port(&self, governed: &Pod, port: &AdminPort, reading: Reading) -> bool {
        let asked = self.query.port;
        match port {
            AdminPort::Of(protocol, _) if *protocol != self.query.protocol => false,
            AdminPort::Of(_, PortMatch::Any) => true,
            AdminPort::Of(_, PortMatch::Range(first, last)) => *first <= asked && asked <= *last,
            AdminPort::Named(name) | AdminPort::Of(_, PortMatch::Named(name)) => self
                .visible_destination(governed, reading)
                .is_some_and(|pod| self.is_named(name, pod)),
        }
    }

    fn admin_peer(&self, peer: &AdminPeer, reading: Reading) -> bool {
        match peer {
            AdminPeer::Namespaces(namespaces) => self.visible_peer(reading).is_some_and(|pod| {
                selects(namespaces, |key| {
                    self.namespace_label(&pod.id.namespace, key)
                })
            }),
            AdminPeer::Pods { namespaces, pods } => self.visible_peer(reading).is_some_and(|pod| {
                selects(namespaces, |key| {
                    self.namespace_label(&pod.id.namespace, key)
                }) && selects(pods, |key| of_pod(pod, key))
            }),
            AdminPeer::Nodes(selector) => {
                let is_node = match self.peer {
                    Some(pod) => pod.host_network && reading.peer_host_pod_is_node,
                    None => self.peer_node.is_some(),
                };
                is_node && selects(selector, |key| of_node(self.objects, self.peer_node?, key))
            }
            AdminPeer::Networks(nets) => {
                let is_pod_address = self.peer.is_some_and(|pod| !pod.host_network);
                nets.iter().any(|net| net.contains(&self.peer_ip))
                    && (!is_pod_address || reading.ip_blocks_match_pods)
            }
            AdminPeer::DomainNames(_) => self.is_external() && reading.domain_names_match,
            AdminPeer::Unrecognised => false,
        }
    }
}
