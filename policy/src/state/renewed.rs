//! New rules of policies that select the same pods as before: what selects a pod need not be found again.
//!
//! A policy around NetworkPolicy may select every pod of the cluster. Its rules are compiled once for each set of policies that
//! pods share; a pod only gets the new set.

use std::collections::HashMap;
use std::sync::Arc;

use super::State;
use super::admin::AdminPolicies;
use super::policies::Policies;
use crate::evaluate::{Isolation, PodEntry};
use crate::model::{AdminPolicy, Direction};

/// Isolations with what they are now, by address. They are held so that no other comes to lie at the address.
type Renewed = HashMap<(Direction, *const Isolation), (Arc<Isolation>, Arc<Isolation>)>;

/// What is at hand while isolations are renewed.
struct Renewing<'s> {
    /// Versions of policies that are no more.
    old: &'s [Arc<AdminPolicy>],
    policies: &'s mut Policies,
    admin: &'s mut AdminPolicies,
    renewed: Renewed,
}

impl State {
    /// Gives every pod the present versions of these policies.
    pub(super) fn renew(&mut self, old: &[Arc<AdminPolicy>]) {
        let mut renewing = Renewing {
            old,
            policies: &mut self.policies,
            admin: &mut self.admin,
            renewed: Renewed::new(),
        };
        let has_admin = |of: &Isolation| of.admin.is_some();
        let entries = self.store.pods.values();
        let entries: Vec<Arc<PodEntry>> = entries
            .filter(|entry| has_admin(&entry.ingress) || has_admin(&entry.egress))
            .cloned()
            .collect();
        for entry in entries {
            let ingress = renewing.present(Direction::Ingress, &entry.ingress);
            let egress = renewing.present(Direction::Egress, &entry.egress);
            if Arc::ptr_eq(&ingress, &entry.ingress) && Arc::ptr_eq(&egress, &entry.egress) {
                continue;
            }
            self.store.pods.insert(Arc::new(PodEntry {
                uid: entry.uid.clone(),
                seen_as: entry.seen_as,
                groups: entry.groups.clone(),
                ingress,
                egress,
                pod: Arc::clone(&entry.pod),
            }));
        }
    }
}

impl Renewing<'_> {
    /// The isolation itself, if it has no policy that is no more.
    fn present(&mut self, direction: Direction, isolation: &Arc<Isolation>) -> Arc<Isolation> {
        let Some(admin) = &isolation.admin else {
            return Arc::clone(isolation);
        };
        let key = (direction, Arc::as_ptr(isolation));
        if let Some((_, present)) = self.renewed.get(&key) {
            return Arc::clone(present);
        }
        let is_old = |held: &Arc<AdminPolicy>| self.old.iter().any(|old| Arc::ptr_eq(old, held));
        let present = if admin.policies.iter().any(is_old) {
            self.policies.renewed(direction, isolation, self.admin)
        } else {
            Arc::clone(isolation)
        };
        let held = (Arc::clone(isolation), Arc::clone(&present));
        self.renewed.insert(key, held);
        present
    }
}
