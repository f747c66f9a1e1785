//! Which of many selectors match some labels, without asking each.

use std::collections::HashMap;
use std::sync::Arc;

use crate::model::{Labels, Requirement, Selector};

type Entries<T> = Vec<(T, Arc<Selector>)>;

/// Selectors by one label pair that they require. Only those whose pair an object has are
/// tested, and the few that require none.
#[derive(Debug)]
pub(super) struct SelectorIndex<T> {
    by_label: HashMap<Arc<str>, HashMap<Arc<str>, Entries<T>>>,
    others: Entries<T>,
}

impl<T> Default for SelectorIndex<T> {
    fn default() -> Self {
        Self {
            by_label: HashMap::new(),
            others: Vec::new(),
        }
    }
}

/// The pairs of which a selected object has exactly one; none if there is no such set.
fn required_pairs(selector: &Selector) -> Vec<(&Arc<str>, &Arc<str>)> {
    if let Some(pair) = selector.match_labels.iter().next() {
        return vec![pair];
    }
    for requirement in &selector.match_expressions {
        if let Requirement::In(key, values) = requirement {
            let mut pairs: Vec<_> = values.iter().map(|value| (key, value)).collect();
            pairs.sort();
            pairs.dedup();
            return pairs;
        }
    }
    Vec::new()
}

impl<T: Copy + PartialEq> SelectorIndex<T> {
    pub(super) fn insert(&mut self, id: T, selector: &Arc<Selector>) {
        let pairs = required_pairs(selector);
        if pairs.is_empty() {
            self.others.push((id, Arc::clone(selector)));
        }
        for (key, value) in pairs {
            self.by_label
                .entry(Arc::clone(key))
                .or_default()
                .entry(Arc::clone(value))
                .or_default()
                .push((id, Arc::clone(selector)));
        }
    }

    pub(super) fn remove(&mut self, id: T, selector: &Selector) {
        let pairs = required_pairs(selector);
        if pairs.is_empty() {
            self.others.retain(|(held, _)| *held != id);
        }
        for (key, value) in pairs {
            let Some(values) = self.by_label.get_mut(key) else {
                continue;
            };
            if let Some(entries) = values.get_mut(value) {
                entries.retain(|(held, _)| *held != id);
                if entries.is_empty() {
                    values.remove(value);
                }
            }
            if values.is_empty() {
                self.by_label.remove(key);
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_label.is_empty() && self.others.is_empty()
    }

    /// Calls `found` once for each selector that matches.
    pub(super) fn matching(&self, labels: &Labels, mut found: impl FnMut(T)) {
        for (id, selector) in &self.others {
            if selector.matches(labels) {
                found(*id);
            }
        }
        if self.by_label.is_empty() {
            return;
        }
        for (key, value) in labels {
            let candidates = self.by_label.get(key).and_then(|values| values.get(value));
            for (id, selector) in candidates.into_iter().flatten() {
                if selector.matches(labels) {
                    found(*id);
                }
            }
        }
    }
}
