//! Who claims what: several objects may claim one address for a while.

use std::hash::Hash;

use smallvec::SmallVec;

/// Claimants by what they claim, each claimant once, sorted.
#[derive(Clone, Debug)]
pub(super) struct Claims<K, V> {
    claims: imbl::HashMap<K, SmallVec<[V; 1]>>,
}

impl<K, V> Default for Claims<K, V> {
    fn default() -> Self {
        Self {
            claims: imbl::HashMap::new(),
        }
    }
}

impl<K: Clone + Eq + Hash, V: Clone + Ord> Claims<K, V> {
    pub(super) fn add(&mut self, claim: K, by: V) {
        let claimants = self.claims.entry(claim).or_default();
        if let Err(position) = claimants.binary_search(&by) {
            claimants.insert(position, by);
        }
    }

    pub(super) fn remove(&mut self, claim: &K, by: &V) {
        let Some(claimants) = self.claims.get_mut(claim) else {
            return;
        };
        claimants.retain(|held| held != by);
        if claimants.is_empty() {
            self.claims.remove(claim);
        }
    }

    pub(super) fn of(&self, claim: &K) -> &[V] {
        self.claims.get(claim).map_or(&[], |claimants| claimants)
    }
}
