//! NetworkPolicies that exist and cannot be evaluated.
//!
//! Such a policy is left out, so the rules by which it admits are missing, while the other policies of its namespace
//! isolate as before. What they deny may be allowed by it: a denial there is no longer known.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Change, State};
use crate::model::NamespacedName;

/// The names of the policies that were refused, by namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RefusedPolicies {
    by_namespace: imbl::OrdMap<Arc<str>, Arc<[Arc<str>]>>,
}

impl RefusedPolicies {
    /// Whether a policy of this namespace was refused.
    pub(crate) fn any_in(&self, namespace: &Arc<str>) -> bool {
        !self.by_namespace.is_empty() && self.by_namespace.contains_key(namespace)
    }

    /// Whether a policy of the admin or baseline tier was refused.
    pub(crate) fn any_cluster_wide(&self) -> bool {
        !self.by_namespace.is_empty() && self.by_namespace.contains_key("")
    }

    /// The refused policies of a namespace, by name; those of the tiers around NetworkPolicy have the empty one.
    pub(crate) fn of(&self, namespace: &Arc<str>) -> &[Arc<str>] {
        match self.by_namespace.get(namespace) {
            Some(names) => names,
            None => &[],
        }
    }

    /// All, by name.
    pub(super) fn all(&self) -> impl Iterator<Item = NamespacedName> {
        self.by_namespace.iter().flat_map(|(namespace, names)| {
            names
                .iter()
                .map(|name| NamespacedName::new(Arc::clone(namespace), Arc::clone(name)))
        })
    }
}

impl FromIterator<NamespacedName> for RefusedPolicies {
    fn from_iter<I: IntoIterator<Item = NamespacedName>>(names: I) -> Self {
        let mut sets: BTreeMap<Arc<str>, BTreeSet<Arc<str>>> = BTreeMap::new();
        for id in names {
            sets.entry(id.namespace).or_default().insert(id.name);
        }
        let by_namespace = sets
            .into_iter()
            .map(|(namespace, names)| -> (Arc<str>, Arc<[Arc<str>]>) {
                (namespace, names.into_iter().collect())
            })
            .collect();
        Self { by_namespace }
    }
}

impl State {
    /// Replaces the set of policies that exist and were refused by validation. While a namespace has one,
    /// what would be denied to its pods is [`RefusedPolicy`](crate::UnknownReason::RefusedPolicy): the refused one
    /// may admit it; only what the Admin tier denies stays denied, as it is decided before. A policy of the admin or baseline
    /// tier has the empty namespace: it may admit whatever is denied to any pod. The set stands beside the objects: neither `apply` nor `delete` nor `reset` changes it.
    pub fn set_refused_policies(
        &mut self,
        refused: impl IntoIterator<Item = NamespacedName>,
    ) -> Change {
        let refused: RefusedPolicies = refused.into_iter().collect();
        if self.store.refused == refused {
            return Change::None;
        }
        self.store.refused = refused;
        self.store.version = self.store.version.wrapping_add(1);
        Change::Changed
    }
}
