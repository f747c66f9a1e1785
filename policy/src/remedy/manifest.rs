//! A NetworkPolicy of the model as the object that people apply.

use std::sync::Arc;

use k8s_openapi::api::networking::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    LabelSelector, LabelSelectorRequirement, ObjectMeta,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::model::{
    NetworkPolicy, Peer, PolicyPort, PortMatch, Protocol, Requirement, Rule, Selector,
};

/// The API object of a policy: what [`compile::network_policy`](crate::compile::network_policy) makes the policy of, but for
/// what the model does not keep (labels, annotations).
pub fn network_policy(policy: &NetworkPolicy) -> api::NetworkPolicy {
    let types = [
        (policy.isolates_ingress, "Ingress"),
        (policy.isolates_egress, "Egress"),
    ];
    let rules =
        |rules: &[Rule], written: bool| (!rules.is_empty() || written).then(|| rules.to_vec());
    api::NetworkPolicy {
        metadata: ObjectMeta {
            name: Some(policy.id.name.to_string()),
            namespace: Some(policy.id.namespace.to_string()),
            ..ObjectMeta::default()
        },
        spec: Some(api::NetworkPolicySpec {
            pod_selector: Some(selector(&policy.pod_selector)),
            policy_types: policy.written.policy_types.then(|| {
                let effective = types.iter().filter(|(effective, _)| *effective);
                effective.map(|(_, name)| (*name).to_owned()).collect()
            }),
            ingress: rules(&policy.ingress, policy.written.ingress).map(|rules| {
                let rules = rules.iter();
                rules
                    .map(|rule| api::NetworkPolicyIngressRule {
                        from: list(&rule.peers, peer),
                        ports: list(&rule.ports, port),
                    })
                    .collect()
            }),
            egress: rules(&policy.egress, policy.written.egress).map(|rules| {
                let rules = rules.iter();
                rules
                    .map(|rule| api::NetworkPolicyEgressRule {
                        to: list(&rule.peers, peer),
                        ports: list(&rule.ports, port),
                    })
                    .collect()
            }),
        }),
    }
}

fn list<T, U>(items: &[T], convert: impl Fn(&T) -> U) -> Option<Vec<U>> {
    (!items.is_empty()).then(|| items.iter().map(convert).collect())
}

fn peer(peer: &Peer) -> api::NetworkPolicyPeer {
    match peer {
        Peer::Pods { namespaces, pods } => api::NetworkPolicyPeer {
            namespace_selector: namespaces.as_ref().map(selector),
            pod_selector: pods.as_ref().map(selector),
            ..api::NetworkPolicyPeer::default()
        },
        Peer::IpBlock { cidr, except } => api::NetworkPolicyPeer {
            ip_block: Some(api::IPBlock {
                cidr: cidr.to_string(),
                except: list(except, ToString::to_string),
            }),
            ..api::NetworkPolicyPeer::default()
        },
    }
}

fn port(port: &PolicyPort) -> api::NetworkPolicyPort {
    let (number, end) = match &port.port {
        PortMatch::Any => (None, None),
        PortMatch::Range(first, last) => (
            Some(IntOrString::Int(i32::from(*first))),
            (first != last || port.end_port_written).then(|| i32::from(*last)),
        ),
        PortMatch::Named(name) => (Some(IntOrString::String(name.to_string())), None),
    };
    api::NetworkPolicyPort {
        port: number,
        end_port: end,
        protocol: Some(
            match port.protocol {
                Protocol::Tcp => "TCP",
                Protocol::Udp => "UDP",
                Protocol::Sctp => "SCTP",
            }
            .to_owned(),
        ),
    }
}

fn selector(selector: &Selector) -> LabelSelector {
    let owned = |values: &[Arc<str>]| Some(values.iter().map(ToString::to_string).collect());
    let labels = selector.match_labels.iter();
    let labels: std::collections::BTreeMap<String, String> = labels
        .map(|(key, value)| (key.to_string(), value.to_string()))
        .collect();
    LabelSelector {
        match_labels: (!labels.is_empty()).then_some(labels),
        match_expressions: list(&selector.match_expressions, |requirement| {
            let (key, operator, values) = match requirement {
                Requirement::In(key, values) => (key, "In", owned(values)),
                Requirement::NotIn(key, values) => (key, "NotIn", owned(values)),
                Requirement::Exists(key) => (key, "Exists", None),
                Requirement::DoesNotExist(key) => (key, "DoesNotExist", None),
            };
            LabelSelectorRequirement {
                key: key.to_string(),
                operator: operator.to_owned(),
                values,
            }
        }),
    }
}
