//! Corrections of policies that are there, as JSON patches (RFC 6902) that `kubectl patch --type=json` and kustomize take.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use serde_json::Value;

use super::{Draft, correct, manifest};
use crate::lint::{Audit, Cluster, Finding, Options};
use crate::model::{
    Kind, NamespacedName, NetworkPolicy, Peer, PolicyPort, PortMatch, Protocol, Rule, Selector,
};
use crate::state::Snapshot;

/// fd00:ec2::254.
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

/// The correction of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// Which policy.
    pub policy: NamespacedName,
    /// What to do to the object: operations of a JSON patch.
    pub operations: Vec<Value>,
    /// What it becomes.
    pub corrected: Arc<NetworkPolicy>,
    /// The findings that it remedies.
    pub remedies: Vec<String>,
}

/// A policy as it is, and as it will be.
struct Change {
    before: Arc<NetworkPolicy>,
    after: Arc<NetworkPolicy>,
    remedies: BTreeSet<String>,
}

/// The corrections so far, by policy.
#[derive(Default)]
pub(super) struct Edits(BTreeMap<NamespacedName, Change>);

impl Edits {
    /// Makes the corrections that the findings of the draft ask for. Whether there was something to correct: a policy that
    /// selects a pod only now may call for further ones.
    pub(super) fn add(&mut self, audit: &Audit, options: &Options, draft: &mut Draft<'_>) -> bool {
        let corrected = corrections(audit, options, draft);
        let changed = !corrected.is_empty();
        for (id, correction) in corrected {
            let after = Arc::new(correction.after);
            draft.replace(&after);
            let change = self.0.entry(id).or_insert_with(|| Change {
                before: correction.before,
                after: Arc::clone(&after),
                remedies: BTreeSet::new(),
            });
            change.after = after;
            change.remedies.extend(correction.remedies);
        }
        changed
    }

    /// As patches.
    pub(super) fn finish(self) -> Vec<Edit> {
        let edits = self.0.into_iter().map(|(policy, change)| Edit {
            policy,
            operations: operations(&change.before, &change.after),
            corrected: change.after,
            remedies: change.remedies.into_iter().collect(),
        });
        edits.filter(|edit| !edit.operations.is_empty()).collect()
    }
}

/// What one audit asks for.
struct Correction {
    before: Arc<NetworkPolicy>,
    after: NetworkPolicy,
    remedies: Vec<String>,
}

/// The corrections that the findings ask for, by policy. New policies are as they should be.
fn corrections(
    audit: &Audit,
    options: &Options,
    draft: &Draft<'_>,
) -> BTreeMap<NamespacedName, Correction> {
    let snapshot = &draft.snapshot;
    let cluster = Cluster::new(draft.input(), options);
    let policies: BTreeMap<&NamespacedName, &Arc<NetworkPolicy>> = snapshot
        .policies()
        .filter(|policy| !draft.new.contains_key(&policy.id))
        .map(|policy| (&policy.id, policy))
        .collect();
    let mut corrections: BTreeMap<NamespacedName, Correction> = BTreeMap::new();
    let mut change =
        |id: &NamespacedName, finding: &Finding, by: &dyn Fn(&mut NetworkPolicy) -> bool| {
            let Some(policy) = policies.get(id) else {
                return;
            };
            let correction = corrections.entry(id.clone()).or_insert_with(|| Correction {
                before: Arc::clone(policy),
                after: NetworkPolicy::clone(policy),
                remedies: Vec::new(),
            });
            if by(&mut correction.after) {
                let remedied = format!("{} {}", finding.lint, finding.subject);
                correction.remedies.push(remedied);
            }
        };
    for finding in &audit.findings {
        if !draft.choice.takes(&finding.object.1.namespace) {
            continue;
        }
        match (finding.lint, finding.by) {
            ("NP022", Some("rule")) => {
                for (policy, address) in admitting(finding, snapshot, &policies) {
                    change(&policy, finding, &|policy| block(policy, address));
                }
            }
            _ if finding.object.0 == Kind::NetworkPolicy => {
                change(&finding.object.1, finding, &|policy| {
                    correct::finding(policy, finding, &cluster, draft.choice)
                });
            }
            _ => {}
        }
    }
    corrections.retain(|_, correction| !correction.remedies.is_empty());
    corrections
}

/// The policies whose rules let a pod reach a metadata service: subject `ns/pod->address`.
fn admitting(
    finding: &Finding,
    snapshot: &Snapshot,
    policies: &BTreeMap<&NamespacedName, &Arc<NetworkPolicy>>,
) -> Vec<(NamespacedName, IpAddr)> {
    let Some((pod, address)) = finding.subject.split_once("->") else {
        return Vec::new();
    };
    let (Some((namespace, name)), Ok(address)) = (pod.split_once('/'), address.parse()) else {
        return Vec::new();
    };
    let Some(pod) = snapshot.pod_named(&NamespacedName::new(namespace, name)) else {
        return Vec::new();
    };
    let first = NamespacedName::new(namespace, "");
    policies
        .range::<NamespacedName, _>(first..)
        .take_while(|(id, _)| *id.namespace == *namespace)
        .filter(|(_, policy)| policy.isolates_egress && policy.pod_selector.matches(&pod.labels))
        .map(|(id, _)| ((*id).clone(), address))
        .collect()
}

/// Takes an address out of every egress rule that admits it on TCP 80. A rule for that very address is somebody's will.
fn block(policy: &mut NetworkPolicy, address: IpAddr) -> bool {
    let mut changed = false;
    let host = IpNet::from(address);
    for rule in &mut policy.egress {
        if !admits_http(&rule.ports) {
            continue;
        }
        if rule.peers.is_empty() {
            rule.peers = everyone();
        }
        for peer in &mut rule.peers {
            if let Peer::IpBlock { cidr, except } = peer
                && cidr.contains(&address)
                && *cidr != host
                && !except.iter().any(|net| net.contains(&address))
            {
                except.push(host);
                changed = true;
            }
        }
    }
    changed
}

fn admits_http(ports: &[PolicyPort]) -> bool {
    ports.is_empty()
        || ports.iter().any(|port| {
            port.protocol == Protocol::Tcp
                && match port.port {
                    PortMatch::Any => true,
                    PortMatch::Range(first, last) => (first..=last).contains(&80),
                    PortMatch::Named(_) => false,
                }
        })
}

/// What no peers at all mean, written out, but for the metadata service over IPv6: a cluster without IPv6 today may have it
/// tomorrow, and every address without exception is what no peers are.
fn everyone() -> Vec<Peer> {
    let blocks = [
        (IpNet::V4(ipnet::Ipv4Net::default()), Vec::new()),
        (
            IpNet::V6(ipnet::Ipv6Net::default()),
            vec![IpNet::from(IpAddr::from(METADATA_V6))],
        ),
    ];
    let mut peers = vec![Peer::Pods {
        namespaces: Some(Selector::default()),
        pods: None,
    }];
    peers.extend(blocks.map(|(cidr, except)| Peer::IpBlock { cidr, except }));
    peers
}

/// The difference of two forms of a policy. A member that the model shows and the object may leave to its default is added, which
/// replaces it if it is there.
fn operations(before: &NetworkPolicy, after: &NetworkPolicy) -> Vec<Value> {
    let json = |policy| serde_json::to_value(manifest::network_policy(policy)).unwrap_or_default();
    let patch = json_patch::diff(&json(before), &json(after));
    let operations = match serde_json::to_value(patch) {
        Ok(Value::Array(operations)) => operations,
        Ok(_) | Err(_) => Vec::new(),
    };
    operations.into_iter().map(add_members).collect()
}

fn add_members(mut operation: Value) -> Value {
    let member = operation
        .get("path")
        .and_then(Value::as_str)
        .and_then(|path| path.rsplit('/').next())
        .is_some_and(|last| last.parse::<usize>().is_err());
    if let Some(op) = operation.get_mut("op")
        && member
        && *op == "replace"
    {
        *op = Value::from("add");
    }
    operation
}

/// A rule by a subject's index.
pub(super) fn rule_mut<'p>(
    policy: &'p mut NetworkPolicy,
    direction: &str,
    index: usize,
) -> Option<&'p mut Rule> {
    match direction {
        "ingress" => policy.ingress.get_mut(index),
        "egress" => policy.egress.get_mut(index),
        _ => None,
    }
}
