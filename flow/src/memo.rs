//! What is remembered to save work: forgotten, it is found out again.

use std::collections::HashMap;
use std::hash::Hash;

/// Values by key in two generations: when the young one is full, the old one goes.
#[derive(Debug)]
pub(crate) struct Memo<K, V> {
    bound: usize,
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K: Eq + Hash, V> Memo<K, V> {
    pub(crate) fn new(bound: usize) -> Self {
        Self {
            bound: bound.max(1),
            young: HashMap::new(),
            old: HashMap::new(),
        }
    }

    pub(crate) fn clear(&mut self) {
        self.young.clear();
        self.old.clear();
    }

    pub(crate) fn take(&mut self, key: &K) -> Option<V> {
        self.young.remove(key).or_else(|| self.old.remove(key))
    }

    pub(crate) fn put(&mut self, key: K, value: V) -> &V {
        if self.young.len() >= self.bound {
            std::mem::swap(&mut self.young, &mut self.old);
            self.young.clear();
        }
        self.young.entry(key).insert_entry(value).into_mut()
    }
}
