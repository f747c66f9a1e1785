//! A cluster sorted for the lints.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::classes::Classes;
use super::finding::{Posture, Summary};
use super::{Input, Options, Refused};
use crate::model::{NetworkPolicy, Pod};
use crate::state::Snapshot;

/// What the lints look at.
pub(crate) struct Cluster<'a> {
    pub(super) classes: OnceCell<Classes<'a>>,
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) refused: &'a [Refused],
    pub(crate) options: &'a Options,
    /// Living pods with a network of their own, by namespace; only namespaces that have some.
    pub(crate) governed: BTreeMap<Arc<str>, Vec<&'a Arc<Pod>>>,
    /// Living pods, hostNetwork ones included, by namespace; only namespaces that have some.
    pub(crate) living: BTreeMap<Arc<str>, Vec<&'a Arc<Pod>>>,
    /// NetworkPolicies by namespace; only namespaces that have some.
    pub(crate) policies: BTreeMap<Arc<str>, Vec<&'a Arc<NetworkPolicy>>>,
    /// Every namespace that there is: by its object, a living pod or a policy.
    pub(crate) namespaces: BTreeSet<Arc<str>>,
}

impl<'a> Cluster<'a> {
    pub(crate) fn new(input: Input<'a>, options: &'a Options) -> Self {
        let snapshot = input.snapshot;
        let mut cluster = Self {
            classes: OnceCell::new(),
            snapshot,
            refused: input.refused,
            options,
            governed: BTreeMap::new(),
            living: BTreeMap::new(),
            policies: BTreeMap::new(),
            namespaces: BTreeSet::new(),
        };
        for pod in snapshot.pods().filter(|pod| !pod.finished) {
            let namespace = || Arc::clone(&pod.id.namespace);
            cluster.living.entry(namespace()).or_default().push(pod);
            if !pod.host_network {
                cluster.governed.entry(namespace()).or_default().push(pod);
            }
        }
        for policy in snapshot.policies() {
            let namespace = Arc::clone(&policy.id.namespace);
            cluster.policies.entry(namespace).or_default().push(policy);
        }
        let objects = snapshot.namespaces().map(|namespace| &namespace.name);
        cluster.namespaces = objects
            .chain(cluster.living.keys())
            .chain(cluster.policies.keys())
            .cloned()
            .collect();
        cluster
    }

    /// Whether an option takes NP001 to NP004 off a namespace.
    pub(crate) fn is_exempt(&self, namespace: &str) -> bool {
        let exempt = &self.options.exempt_namespaces;
        exempt.iter().any(|exempt| exempt == namespace)
    }

    pub(super) fn summary(&self) -> Summary {
        let mut other_policies = BTreeMap::new();
        let admin = self.snapshot.admin_policies().map(|of| of.kind.kind());
        let foreign = self.snapshot.foreign_policies().map(|of| of.kind.kind());
        for kind in admin.chain(foreign) {
            let count: &mut usize = other_policies.entry(kind.name()).or_default();
            *count = count.saturating_add(1);
        }
        Summary {
            network_policies: self.policies.values().map(Vec::len).sum(),
            namespaces_with_policies: self.policies.len(),
            namespaces: self.namespaces.len(),
            governed_pods: self.governed.values().map(Vec::len).sum(),
            other_policies,
            refused: self.refused.len(),
        }
    }

    pub(super) fn posture(&self) -> Vec<Posture> {
        Vec::new()
    }
}
