//! Which pods a change concerns.

use std::collections::HashSet;
use std::sync::Arc;

use super::groups::{GroupKey, Scope};
use super::store::Store;
use crate::model::{AdminPolicy, NetworkPolicy, Selector, Uid};

/// Pods whose entries must be computed anew.
#[derive(Debug, Default)]
pub(super) struct Stale {
    pub(super) all: bool,
    marks: usize,
    pub(super) pods: HashSet<Uid>,
    /// Policies around NetworkPolicy that have other rules now, and select the same pods: those that are no more.
    pub(super) renewed: Vec<Arc<AdminPolicy>>,
}

impl Stale {
    /// Whether it is still worth finding out which pods a selector concerns: past some number
    /// of selectors, looking at all pods once is cheaper.
    const fn counts(&mut self) -> bool {
        self.marks = self.marks.saturating_add(1);
        self.all = self.all || self.marks > 64;
        !self.all
    }
}

pub(super) fn mark_selected(store: &Store, policy: &NetworkPolicy, stale: &mut Stale) {
    if stale.counts() {
        mark_pods(store, &policy.id.namespace, &policy.pod_selector, stale);
    }
}

pub(super) fn mark_group(store: &Store, key: &GroupKey, stale: &mut Stale) {
    if !stale.counts() {
        return;
    }
    match &key.scope {
        Scope::Own(namespace) => mark_pods(store, namespace, &key.pods, stale),
        Scope::Selected(selector) => {
            for namespace in store.namespaces_of_pods() {
                if selector.matches(&store.namespace_labels(namespace)) {
                    mark_pods(store, namespace, &key.pods, stale);
                }
            }
        }
    }
}

pub(super) fn mark_pods(
    store: &Store,
    namespace: &Arc<str>,
    selector: &Selector,
    stale: &mut Stale,
) {
    for entry in store.pods_in(namespace) {
        if selector.matches(&entry.pod.labels) {
            stale.pods.insert(entry.pod.uid.clone());
        }
    }
}
