//! DNS for pods whose egress is isolated (NP020, NP021).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Draft, isolate};
use crate::lint::{Audit, Finding, Options};
use crate::model::{NAMESPACE_NAME_LABEL, Peer, PolicyPort, PortMatch, Protocol, Rule, Selector};

pub(super) fn add(audit: &Audit, options: &Options, draft: &mut Draft<'_>) {
    let mut isolated: BTreeMap<&str, BTreeSet<&Selector>> = BTreeMap::new();
    for policy in draft.snapshot.policies().filter(|of| of.isolates_egress) {
        let selectors = isolated.entry(&policy.id.namespace).or_default();
        selectors.insert(&policy.pod_selector);
    }
    let mut lacking: BTreeMap<(Arc<str>, Selector), BTreeSet<String>> = BTreeMap::new();
    for finding in &audit.findings {
        let namespace = &finding.object.1.namespace;
        if matches!(finding.lint, "NP020" | "NP021") && draft.choice.takes(namespace) {
            let Some(selector) = isolating(finding, &isolated, draft) else {
                continue;
            };
            let place = (Arc::clone(namespace), selector);
            let findings = lacking.entry(place).or_default();
            findings.insert(format!("{} {}", finding.lint, finding.subject));
        }
    }
    for ((namespace, selector), findings) in lacking {
        let purpose = format!("namespace {namespace}: its pods may ask the cluster's DNS servers");
        let mut policy = isolate::policy(&namespace, "allow-dns", false, true);
        policy.pod_selector = selector;
        policy.egress = vec![rule(options, draft)];
        policy.written.egress = true;
        draft.add(policy, purpose, findings.into_iter().collect());
    }
}

/// The selector of a policy that isolates the pod for egress: another one could isolate what is not isolated now. The widest
/// that is sure to be: that of every pod, if there is one.
fn isolating(
    finding: &Finding,
    isolated: &BTreeMap<&str, BTreeSet<&Selector>>,
    draft: &Draft<'_>,
) -> Option<Selector> {
    let pod = draft.snapshot.pod_named(&finding.object.1)?;
    let selectors = isolated.get(&*pod.id.namespace)?.iter();
    let selecting = selectors.filter(|selector| selector.matches(&pod.labels));
    let widest = selecting.min_by_key(|selector| (!selector.is_empty(), **selector))?;
    Some(Selector::clone(widest))
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
