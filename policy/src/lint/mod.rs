//! The posture audit: what is wrong with the policies of a cluster by its objects alone.
//!
//! ```text
//! Snapshot + refused objects --Cluster::new--> one check a lint --Findings--> Audit
//! ```
//!
//! Identifiers and subjects are part of the product's interface. A lint is a file of its own and a line in [`LINTS`].

pub mod suppress;

mod catalog;
mod cluster;
mod finding;
mod np001;

pub use catalog::{LINTS, Lint, lint};
pub use finding::{Audit, Finding, Posture, Severity, Summary};

use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::{Kind, NamespacedName, Selector};
use crate::state::Snapshot;
use cluster::Cluster;
use finding::Findings;

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
            metadata_addresses: Vec::new(),
            pod_cidrs: Vec::new(),
        }
    }
}

/// Looks at a cluster with every lint. Findings come ordered by lint, then subject.
pub fn audit(input: Input<'_>, options: &Options) -> Audit {
    let cluster = Cluster::new(input, options);
    let mut findings = Findings::default();
    for lint in LINTS {
        findings.of(lint);
        (lint.check)(&cluster, &mut findings);
    }
    Audit {
        summary: cluster.summary(),
        namespaces: cluster.posture(),
        findings: findings.sorted(),
    }
}
