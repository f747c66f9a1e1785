//! NP022: metadata service reachable.

use super::catalog::Lint;
use super::cluster::Cluster;
use super::finding::{Findings, Severity};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::ask::address;
use crate::evaluate::{Decision, Endpoint, Expectation, Query};
use crate::model::{Family, Pod, Protocol};

pub(super) const LINT: Lint = Lint {
    id: "NP022",
    title: "metadata service reachable",
    severity: Severity::Medium,
    references: &[
        "NIST SC-7",
        "NIST AC-4",
        "NIST AC-6",
        "CWE-284",
        "CWE-918",
        "MITRE ATT&CK T1552.005",
    ],
    help: "Cloud providers serve the credentials of the machine at this address to whoever asks from it. A pod \
           that can be made to fetch a URL of somebody else's choice gives them away. Isolate the pods for \
           egress, and leave 169.254.0.0/16 (with IPv6 fd00:ec2::254) out of wide ipBlocks with `except`; \
           `polproof fix` writes it. Suppress it where the provider blocks it (hop limit 1, workload identity), \
           where there is no such service, or for pods that need it.",
    check,
};

/// AWS, Azure, Google and others; Alibaba; AWS over IPv6.
const ADDRESSES: [IpAddr; 3] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];

fn check(cluster: &Cluster<'_>, findings: &mut Findings) {
    let more = cluster.options.metadata_addresses.iter().copied();
    let addresses: BTreeSet<IpAddr> = ADDRESSES.into_iter().chain(more).collect();
    for twins in cluster.twins() {
        let Some(first) = twins.first() else {
            continue;
        };
        for to in &addresses {
            let Some(from) = source(first, *to) else {
                continue;
            };
            let verdict = cluster.snapshot.evaluate(&Query {
                source: Endpoint::Pod(first),
                source_ip: from,
                destination: Endpoint::External,
                destination_ip: *to,
                protocol: Protocol::Tcp,
                port: 80,
            });
            if verdict.egress.expectation == Expectation::Allow {
                let way = Way::of(verdict.egress.decision);
                for pod in twins {
                    report(pod, *to, &way, findings);
                }
            }
        }
    }
}

/// The address that a pod would ask from. Without one it counts as IPv4 only.
fn source(pod: &Pod, to: IpAddr) -> Option<IpAddr> {
    let family = Family::of(to);
    if pod.ips.is_empty() && family == Family::V6 {
        return None;
    }
    address(pod, family)
}

/// Why the way is open.
struct Way {
    because: String,
    by: &'static str,
    policy: Option<String>,
}

impl Way {
    fn of(decision: Decision<'_>) -> Self {
        let rule = |kind: &str, name: String, index: Option<usize>| Self {
            because: match index {
                Some(index) => format!("rule egress[{index}] of {kind} {name} allows it"),
                None => format!("{kind} {name} allows it"),
            },
            by: "rule",
            policy: Some(name),
        };
        match decision {
            Decision::Rule(by) => rule("policy", by.policy.id.to_string(), by.rule),
            Decision::Admin(by) => {
                let kind = by.policy.kind.kind().name();
                rule(kind, by.policy.name.to_string(), Some(by.rule))
            }
            Decision::NotGoverned | Decision::NotIsolated | Decision::Exempt | Decision::NoRule => {
                Self {
                    because: "no policy isolates it for egress".to_owned(),
                    by: "no-egress-isolation",
                    policy: None,
                }
            }
        }
    }
}

fn report(pod: &Pod, to: IpAddr, way: &Way, findings: &mut Findings) {
    let finding = findings.about_pod(
        pod,
        format!("{}->{to}", pod.id),
        format!(
            "pod {} can reach the cloud's metadata service at {to}: {}",
            pod.id, way.because
        ),
    );
    if let Some(finding) = finding {
        finding.by = Some(way.by);
        if let Some(policy) = &way.policy {
            finding.severity = Severity::High;
            finding.policies = vec![policy.clone()];
        }
    }
}
