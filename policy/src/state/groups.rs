//! Peer selectors as numbers: each distinct one of all policies is kept once, counted, and
//! found from a pod's labels by an index.

use std::collections::HashMap;
use std::sync::Arc;

use smallvec::SmallVec;

use super::index::SelectorIndex;
use crate::evaluate::GroupId;
use crate::model::{Labels, Peer, Selector};

/// What a peer selector means, apart from the policy that it stands in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct GroupKey {
    pub(super) scope: Scope,
    pub(super) pods: Arc<Selector>,
}

/// In which namespaces.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Scope {
    /// That of the policy.
    Own(Arc<str>),
    /// Those with these labels.
    Selected(Arc<Selector>),
}

impl GroupKey {
    /// The key of a selector peer of a policy in `namespace`.
    pub(super) fn of(peer: &Peer, namespace: &Arc<str>) -> Option<Self> {
        let Peer::Pods { namespaces, pods } = peer else {
            return None;
        };
        Some(Self {
            scope: match namespaces {
                None => Scope::Own(Arc::clone(namespace)),
                Some(selector) => Scope::Selected(Arc::new(selector.clone())),
            },
            pods: Arc::new(pods.clone().unwrap_or_default()),
        })
    }

    /// The key of selectors that stand in no namespace.
    pub(super) fn selected(namespaces: &Selector, pods: Option<&Selector>) -> Self {
        Self {
            scope: Scope::Selected(Arc::new(namespaces.clone())),
            pods: Arc::new(pods.cloned().unwrap_or_default()),
        }
    }
}

/// A number with the count of its users.
#[derive(Debug)]
struct Counted {
    id: u32,
    users: usize,
}

/// Gives out the lowest numbers that are free.
#[derive(Debug, Default)]
struct Numbers {
    free: Vec<u32>,
    next: u32,
}

impl Numbers {
    fn take(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            let id = self.next;
            // Numbers are given back, so this bounds selectors held at one time, which
            // memory bounds far lower.
            self.next = self.next.saturating_add(1);
            id
        })
    }
}

#[derive(Debug, Default)]
pub(super) struct Groups {
    groups: HashMap<GroupKey, Counted>,
    group_numbers: Numbers,
    own: HashMap<Arc<str>, SelectorIndex<GroupId>>,
    namespace_selectors: HashMap<Arc<Selector>, Counted>,
    namespace_numbers: Numbers,
    by_namespace_labels: SelectorIndex<u32>,
    selected: HashMap<u32, SelectorIndex<GroupId>>,
    /// Namespace selectors by the namespace that they match; a cache.
    matching: HashMap<Arc<str>, Arc<[u32]>>,
}

impl Groups {
    /// The number of a group and whether it is new, so that no pod knows of it yet.
    pub(super) fn acquire(&mut self, key: &GroupKey) -> (GroupId, bool) {
        if let Some(counted) = self.groups.get_mut(key) {
            counted.users = counted.users.saturating_add(1);
            return (counted.id, false);
        }
        let id = self.group_numbers.take();
        match &key.scope {
            Scope::Own(namespace) => {
                self.own
                    .entry(Arc::clone(namespace))
                    .or_default()
                    .insert(id, &key.pods);
            }
            Scope::Selected(selector) => {
                let selector = self.acquire_namespaces(selector);
                self.selected
                    .entry(selector)
                    .or_default()
                    .insert(id, &key.pods);
            }
        }
        self.groups.insert(key.clone(), Counted { id, users: 1 });
        (id, true)
    }

    fn acquire_namespaces(&mut self, selector: &Arc<Selector>) -> u32 {
        if let Some(counted) = self.namespace_selectors.get_mut(selector) {
            counted.users = counted.users.saturating_add(1);
            return counted.id;
        }
        let id = self.namespace_numbers.take();
        self.namespace_selectors
            .insert(Arc::clone(selector), Counted { id, users: 1 });
        self.by_namespace_labels.insert(id, selector);
        self.matching.clear();
        id
    }

    /// Gives back one use; true if it was the last, so that pods must forget the number.
    pub(super) fn release(&mut self, key: &GroupKey) -> bool {
        let Some(counted) = self.groups.get_mut(key) else {
            return false;
        };
        counted.users = counted.users.saturating_sub(1);
        if counted.users > 0 {
            return false;
        }
        let id = counted.id;
        self.groups.remove(key);
        self.group_numbers.free.push(id);
        match &key.scope {
            Scope::Own(namespace) => {
                if let Some(index) = self.own.get_mut(namespace) {
                    index.remove(id, &key.pods);
                    if index.is_empty() {
                        self.own.remove(namespace);
                    }
                }
            }
            Scope::Selected(selector) => self.release_namespaces(selector, id, &key.pods),
        }
        true
    }

    fn release_namespaces(&mut self, selector: &Arc<Selector>, group: GroupId, pods: &Selector) {
        let Some(counted) = self.namespace_selectors.get_mut(selector) else {
            return;
        };
        let id = counted.id;
        counted.users = counted.users.saturating_sub(1);
        if let Some(index) = self.selected.get_mut(&id) {
            index.remove(group, pods);
        }
        if counted.users == 0 {
            self.selected.remove(&id);
            self.namespace_selectors.remove(selector);
            self.by_namespace_labels.remove(id, selector);
            self.namespace_numbers.free.push(id);
            self.matching.clear();
        }
    }

    /// Must be called when the labels of a namespace changed.
    pub(super) fn forget_namespace(&mut self, namespace: &str) {
        self.matching.remove(namespace);
    }

    /// The groups of a pod, sorted.
    pub(super) fn of_pod(
        &mut self,
        namespace: &Arc<str>,
        namespace_labels: impl FnOnce() -> Labels,
        labels: &Labels,
    ) -> SmallVec<[GroupId; 12]> {
        let mut found = SmallVec::new();
        if let Some(index) = self.own.get(namespace) {
            index.matching(labels, |id| found.push(id));
        }
        let selectors = match self.matching.get(namespace) {
            Some(selectors) => Arc::clone(selectors),
            None => {
                let mut selectors = Vec::new();
                self.by_namespace_labels
                    .matching(&namespace_labels(), |id| selectors.push(id));
                let selectors: Arc<[u32]> = selectors.into();
                self.matching
                    .insert(Arc::clone(namespace), Arc::clone(&selectors));
                selectors
            }
        };
        for selector in selectors.iter() {
            if let Some(index) = self.selected.get(selector) {
                index.matching(labels, |id| found.push(id));
            }
        }
        found.sort_unstable();
        found
    }
}
