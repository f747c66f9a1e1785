//! DNS for pods whose egress is isolated (NP020, NP021).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Draft, isolate};
use crate::lint::{Audit, Options};
use crate::model::{NAMESPACE_NAME_LABEL, Peer, PolicyPort, PortMatch, Protocol, Rule, Selector};

pub(super) fn add(audit: &Audit, options: &Options, draft: &mut Draft<'_>) {
    let mut lacking: BTreeMap<Arc<str>, BTreeSet<String>> = BTreeMap::new();
    for finding in &audit.findings {
        let namespace = &finding.object.1.namespace;
        if matches!(finding.lint, "NP020" | "NP021") && draft.choice.takes(namespace) {
            let findings = lacking.entry(Arc::clone(namespace)).or_default();
            findings.insert(format!("{} {}", finding.lint, finding.subject));
        }
    }
    for (namespace, findings) in lacking {
        let purpose = format!("namespace {namespace}: its pods may ask the cluster's DNS servers");
        for (number, selector) in isolated(&namespace, draft).into_iter().enumerate() {
            let mut policy = isolate::policy(&namespace, "allow-dns", false, true);
            policy.pod_selector = selector;
            policy.egress = vec![rule(options, draft)];
            policy.written.egress = true;
            let remedies = match number {
                0 => findings.iter().cloned().collect(),
                _ => Vec::new(),
            };
            draft.add(policy, purpose.clone(), remedies);
        }
    }
}

/// The selectors of the policies that isolate for egress: one that selects more would isolate what is not isolated now.
fn isolated(namespace: &str, draft: &Draft<'_>) -> Vec<Selector> {
    let policies = draft.snapshot.policies();
    let selectors: BTreeSet<&Selector> = policies
        .filter(|policy| *policy.id.namespace == *namespace && policy.isolates_egress)
        .map(|policy| &policy.pod_selector)
        .collect();
    if selectors.iter().any(|selector| selector.is_empty()) {
        return vec![Selector::default()];
    }
    selectors.into_iter().cloned().collect()
}

/// To the DNS servers, over both transports (RFC 7766), at the ports that they give DNS.
fn rule(options: &Options, draft: &Draft<'_>) -> Rule {
    let peers = options.dns.iter().map(|(namespace, pods)| {
        let mut namespaces = Selector::default();
        namespaces
            .match_labels
            .insert(NAMESPACE_NAME_LABEL.into(), namespace.as_str().into());
        Peer::Pods {
            namespaces: Some(namespaces),
            pods: Some(pods.clone()),
        }
    });
    Rule {
        peers: peers.collect(),
        ports: ports(options, draft),
    }
}

fn ports(options: &Options, draft: &Draft<'_>) -> Vec<PolicyPort> {
    let mut ports = BTreeSet::from([(53, Protocol::Udp), (53, Protocol::Tcp)]);
    let mut named = BTreeSet::new();
    for pod in draft.snapshot.pods().filter(|pod| !pod.finished) {
        let serves = options
            .dns
            .iter()
            .any(|(namespace, of)| *pod.id.namespace == **namespace && of.matches(&pod.labels));
        if serves {
            let dns = pod.ports.iter().filter(|port| {
                matches!(
                    (port.name.as_deref(), port.protocol),
                    (Some("dns"), Protocol::Udp) | (Some("dns-tcp"), Protocol::Tcp)
                )
            });
            named.extend(dns.map(|port| (port.number, port.protocol)));
        }
    }
    if !named.is_empty() {
        ports = named;
        // A server that names only one transport answers on the same port over the other.
        for (number, _) in ports.clone() {
            ports.insert((number, Protocol::Udp));
            ports.insert((number, Protocol::Tcp));
        }
    }
    ports
        .into_iter()
        .map(|(number, protocol)| PolicyPort {
            protocol,
            port: PortMatch::Range(number, number),
            end_port_written: false,
        })
        .collect()
}
