//! Compiled policies, and which of them isolate a pod.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use smallvec::SmallVec;

use super::admin::{AdminPolicies, AdminSelection};
use super::groups::{GroupKey, Groups};
use super::index::SelectorIndex;
use crate::evaluate::{CompiledRule, Isolation, Peers, Ports};
use crate::model::{Direction, NamespacedName, NetworkPolicy, Pod, Rule, Selector};

/// The number of one version of a policy; never given twice.
type PolicyNumber = u64;

/// Policies by number, sorted by policy name.
type Selection = SmallVec<[PolicyNumber; 4]>;

#[derive(Debug)]
pub(super) struct CompiledPolicy {
    pub(super) policy: Arc<NetworkPolicy>,
    /// The group of each selector peer, to be given back.
    pub(super) groups: Vec<GroupKey>,
    selector: Arc<Selector>,
    ingress: Vec<CompiledRule>,
    egress: Vec<CompiledRule>,
}

#[derive(Debug, Default)]
pub(super) struct Policies {
    last: PolicyNumber,
    numbers: HashMap<NamespacedName, PolicyNumber>,
    compiled: HashMap<PolicyNumber, CompiledPolicy>,
    selecting: HashMap<Arc<str>, SelectorIndex<PolicyNumber>>,
    isolations: HashMap<(Direction, Selection, AdminSelection), Weak<Isolation>>,
    isolations_after_prune: usize,
    nobody: Arc<Isolation>,
}

impl CompiledPolicy {
    /// Compiles what is effective of a policy. `new_group` hears of groups that no other
    /// policy has.
    fn new(
        policy: &Arc<NetworkPolicy>,
        groups: &mut Groups,
        mut new_group: impl FnMut(&GroupKey),
    ) -> Self {
        let mut keys = Vec::new();
        let mut compile = |effective: bool, rules: &[Rule]| {
            if !effective {
                return Vec::new();
            }
            let compiled = rules.iter().enumerate().map(|(index, rule)| CompiledRule {
                policy: 0,
                rule: index,
                ports: Ports::compile(&rule.ports),
                peers: Peers::compile(&rule.peers, |peer| {
                    let key = GroupKey::of(peer, &policy.id.namespace)?;
                    let (id, new) = groups.acquire(&key);
                    if new {
                        new_group(&key);
                    }
                    keys.push(key);
                    Some(id)
                }),
            });
            compiled.collect()
        };
        Self {
            ingress: compile(policy.isolates_ingress, &policy.ingress),
            egress: compile(policy.isolates_egress, &policy.egress),
            selector: Arc::new(policy.pod_selector.clone()),
            policy: Arc::clone(policy),
            groups: keys,
        }
    }
}

impl Policies {
    pub(super) fn insert(
        &mut self,
        policy: &Arc<NetworkPolicy>,
        groups: &mut Groups,
        new_group: impl FnMut(&GroupKey),
    ) {
        let compiled = CompiledPolicy::new(policy, groups, new_group);
        self.last = self.last.wrapping_add(1);
        self.numbers.insert(policy.id.clone(), self.last);
        self.selecting
            .entry(Arc::clone(&policy.id.namespace))
            .or_default()
            .insert(self.last, &compiled.selector);
        self.compiled.insert(self.last, compiled);
    }

    pub(super) fn remove(&mut self, id: &NamespacedName) -> Option<CompiledPolicy> {
        let number = self.numbers.remove(id)?;
        let compiled = self.compiled.remove(&number)?;
        if let Some(index) = self.selecting.get_mut(&id.namespace) {
            index.remove(number, &compiled.selector);
            if index.is_empty() {
                self.selecting.remove(&id.namespace);
            }
        }
        Some(compiled)
    }

    /// What isolates a pod that no policy selects.
    pub(super) fn nobody(&self) -> Arc<Isolation> {
        Arc::clone(&self.nobody)
    }

    /// What isolates a pod for ingress and for egress, beside the policies of the tiers around.
    pub(super) fn isolating(
        &mut self,
        pod: &Pod,
        admin: &mut AdminPolicies,
        selected_by: &AdminSelection,
    ) -> (Arc<Isolation>, Arc<Isolation>) {
        let mut selecting = Selection::new();
        if let Some(index) = self.selecting.get(&pod.id.namespace) {
            index.matching(&pod.labels, |number| selecting.push(number));
        }
        if selecting.len() > 1 {
            selecting.sort_unstable_by_key(|number| {
                self.compiled.get(number).map(|of| &of.policy.id.name)
            });
        }
        (
            self.isolation(Direction::Ingress, &selecting, admin, selected_by),
            self.isolation(Direction::Egress, &selecting, admin, selected_by),
        )
    }

    /// The isolation that these policies make together; the same one for the same policies.
    fn isolation(
        &mut self,
        direction: Direction,
        selecting: &Selection,
        admin: &mut AdminPolicies,
        selected_by: &AdminSelection,
    ) -> Arc<Isolation> {
        let isolates = |number: &PolicyNumber| {
            self.compiled.get(number).is_some_and(|of| match direction {
                Direction::Ingress => of.policy.isolates_ingress,
                Direction::Egress => of.policy.isolates_egress,
            })
        };
        let selection: Selection = selecting.iter().copied().filter(isolates).collect();
        let around = admin.with_rules(direction, selected_by);
        self.made_of(direction, selection, around, admin)
    }

    /// An isolation that the present versions of its policies make together.
    pub(super) fn renewed(
        &mut self,
        direction: Direction,
        isolation: &Isolation,
        admin: &mut AdminPolicies,
    ) -> Arc<Isolation> {
        let present = |policy: &Arc<NetworkPolicy>| self.numbers.get(&policy.id).copied();
        let selection = isolation.policies.iter().filter_map(present).collect();
        let around = isolation.admin.as_ref();
        let around = around.map_or_else(AdminSelection::new, |of| admin.present(&of.policies));
        self.made_of(direction, selection, around, admin)
    }

    fn made_of(
        &mut self,
        direction: Direction,
        selection: Selection,
        around: AdminSelection,
        admin: &mut AdminPolicies,
    ) -> Arc<Isolation> {
        if selection.is_empty() && around.is_empty() {
            return Arc::clone(&self.nobody);
        }
        let key = (direction, selection, around);
        if let Some(isolation) = self.isolations.get(&key).and_then(Weak::upgrade) {
            return isolation;
        }
        let mut policies = Vec::with_capacity(key.1.len());
        let mut rules = Vec::new();
        for compiled in key.1.iter().filter_map(|number| self.compiled.get(number)) {
            let of = match direction {
                Direction::Ingress => &compiled.ingress,
                Direction::Egress => &compiled.egress,
            };
            rules.extend(of.iter().cloned().map(|rule| CompiledRule {
                policy: policies.len(),
                ..rule
            }));
            policies.push(Arc::clone(&compiled.policy));
        }
        let isolation = Arc::new(Isolation {
            policies: policies.into(),
            rules: rules.into(),
            admin: admin.rules(direction, &key.2),
        });
        self.isolations.insert(key, Arc::downgrade(&isolation));
        isolation
    }

    /// Forgets isolations that nobody has any more, when they may be half of all.
    pub(super) fn prune(&mut self) {
        if self.isolations.len() > self.isolations_after_prune.saturating_mul(2).max(64) {
            self.isolations.retain(|_, held| held.strong_count() > 0);
            self.isolations_after_prune = self.isolations.len();
        }
    }
}
