//! Policies as they come and go: what they select is looked at anew.

use std::sync::Arc;

use super::State;
use super::groups::GroupKey;
use super::stale::{Stale, mark_group, mark_selected};
use crate::model::{AdminPolicy, Kind, NamespacedName, NetworkPolicy};

impl State {
    pub(super) fn put_policy(&mut self, policy: &Arc<NetworkPolicy>, stale: &mut Stale) -> bool {
        if self.store.policies.get(&policy.id) == Some(policy) {
            return false;
        }
        let old = self.policies.remove(&policy.id);
        let store = &mut self.store;
        // First the new, then the old: what both use is neither new nor gone.
        self.policies.insert(policy, &mut self.groups, |key| {
            mark_group(store, key, stale);
        });
        store.policies.insert(policy.id.clone(), Arc::clone(policy));
        mark_selected(store, policy, stale);
        if let Some(old) = old {
            mark_selected(store, &old.policy, stale);
            self.release_groups(&old.groups, stale);
        }
        true
    }

    pub(super) fn drop_policy(&mut self, id: &NamespacedName, stale: &mut Stale) {
        self.store.policies.remove(id);
        if let Some(old) = self.policies.remove(id) {
            mark_selected(&self.store, &old.policy, stale);
            self.release_groups(&old.groups, stale);
        }
    }

    fn release_groups(&mut self, keys: &[GroupKey], stale: &mut Stale) {
        for key in keys {
            if self.groups.release(key) {
                mark_group(&self.store, key, stale);
            }
        }
    }

    pub(super) fn put_admin(&mut self, policy: &Arc<AdminPolicy>, stale: &mut Stale) -> bool {
        let id = NamespacedName::new("", Arc::clone(&policy.name));
        let key = (policy.kind.kind(), id);
        if self.store.admin_policies.get(&key) == Some(policy) {
            return false;
        }
        let old = self.admin.remove(&key);
        let store = &mut self.store;
        // First the new, then the old: what both use is neither new nor gone.
        let new = self.admin.insert(policy, &mut self.groups, |key| {
            mark_group(store, key, stale);
        });
        store.admin_policies.insert(key, Arc::clone(policy));
        match old {
            // It may select every pod, and all that they need is its rules.
            Some(old) if new.stands_as(&old) => {
                stale.renewed.push(Arc::clone(&old.policy));
                self.release_groups(&old.groups, stale);
            }
            Some(old) => {
                mark_group(store, &new.subject, stale);
                mark_group(store, &old.subject, stale);
                self.release_groups(&old.groups, stale);
            }
            None => mark_group(store, &new.subject, stale),
        }
        true
    }

    pub(super) fn drop_admin(&mut self, key: &(Kind, NamespacedName), stale: &mut Stale) {
        self.store.admin_policies.remove(key);
        if let Some(old) = self.admin.remove(key) {
            mark_group(&self.store, &old.subject, stale);
            self.release_groups(&old.groups, stale);
        }
    }
}
