//! The posture audit: what is wrong with the policies of a cluster by its objects alone.
//!
//! ```text
//! Snapshot + refused objects --Cluster::new--> one check a lint --Findings--> Audit
//! ```
//!
//! Identifiers and subjects are part of the product's interface. A lint is a file of its own and a line in [`LINTS`].

#[cfg(test)]
mod admin_samples;
mod admits;
mod catalog;
mod classes;
mod cluster;
mod destinations;
mod dns;
mod finding;
mod matching;
mod np001;
mod np002;
mod np003;
mod np004;
mod np010;
mod np011;
mod np012;
mod np013;
mod np020;
mod np021;
mod np022;
mod np030;
mod np031;
mod np032;
mod np033;
mod np034;
mod np040;
mod np041;
mod np042;
mod np043;
mod np050;
mod np051;
mod np052;
mod np060;
mod np061;
mod np062;
mod np070;
mod np071;
mod np080;
mod np081;
mod np091;
mod np092;
mod np100;
mod np101;
mod np110;
mod np111;
mod np900;
mod peers;
mod ranges;
mod reach;
mod rules;
pub mod suppress;
mod within;

pub use catalog::{LINTS, Lint, lint};
pub use finding::{Audit, Finding, Posture, Severity, Summary};

use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::{Kind, NamespacedName, Selector};
use crate::state::Snapshot;
pub(crate) use cluster::Cluster;
use finding::Findings;
pub(crate) use np032::by_name;
pub(crate) use np052::useless as useless_exceptions;

/// What is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// The cluster.
    pub snapshot: &'a Snapshot,
    /// Objects that are left out of it, because no API server would take them.
    pub refused: &'a [Refused],
}

/// An object that the API server would refuse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its kind.
    pub kind: Kind,
    /// Namespace (empty if cluster-scoped) and name.
    pub id: NamespacedName,
    /// The field, what is wrong with it, and what to write instead.
    pub reason: String,
}

/// What the audit takes for granted of a cluster.
#[derive(Clone, Debug)]
pub struct Options {
    /// Namespaces without findings NP001 to NP004.
    pub exempt_namespaces: Vec<String>,
    /// The DNS servers: namespace, and the labels of the pods.
    pub dns: Vec<(String, Selector)>,
    /// DNS servers that are no pods, such as 169.254.20.10 (NodeLocal DNSCache): reaching one of them is reaching DNS.
    pub dns_addresses: Vec<IpAddr>,
    /// Metadata services beyond 169.254.169.254, 100.100.100.200 and fd00:ec2::254.
    pub metadata_addresses: Vec<IpAddr>,
    /// Pod CIDRs beyond those of the nodes.
    pub pod_cidrs: Vec<IpNet>,
}

impl Default for Options {
    fn default() -> Self {
        let mut dns = Selector::default();
        dns.match_labels.insert("k8s-app".into(), "kube-dns".into());
        Self {
            exempt_namespaces: Vec::new(),
            dns: vec![("kube-system".to_owned(), dns)],
            dns_addresses: Vec::new(),
            metadata_addresses: Vec::new(),
            pod_cidrs: Vec::new(),
        }
    }
}

/// Looks at a cluster with every lint. Findings come ordered by lint, then subject.
pub fn audit(input: Input<'_>, options: &Options) -> Audit {
    audit_with(input, options, |_| ())
}

/// As [`audit`], and tells which lint starts, for progress and measurements; `None` when all have been asked.
pub fn audit_with(
    input: Input<'_>,
    options: &Options,
    mut starts: impl FnMut(Option<&'static Lint>),
) -> Audit {
    let cluster = Cluster::new(input, options);
    let mut findings = Findings::default();
    for lint in LINTS {
        starts(Some(lint));
        findings.of(lint);
        (lint.check)(&cluster, &mut findings);
    }
    starts(None);
    Audit {
        summary: cluster.summary(),
        namespaces: cluster.posture(),
        findings: findings.sorted(),
    }
}
