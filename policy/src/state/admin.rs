//! Compiled policies of the tiers around NetworkPolicy, and which of them select a pod.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use smallvec::SmallVec;

use super::groups::{GroupKey, Groups};
use crate::evaluate::{
    AdminRules, Blocks, CompiledAdminRule, GroupId, Peers, Ports, are_all, rank,
};
use crate::model::{
    Action, AdminPeer, AdminPolicy, AdminRule, Direction, Kind, NamespacedName, Subject, Tier,
};

/// The number of one version of a policy; never given twice.
type PolicyNumber = u64;

/// Policies by number, in the order in which their rules are asked.
pub(super) type AdminSelection = SmallVec<[PolicyNumber; 2]>;

#[derive(Debug)]
pub(super) struct CompiledAdminPolicy {
    policy: Arc<AdminPolicy>,
    pub(super) subject: GroupKey,
    /// The group of the subject and of each selector peer, to be given back.
    pub(super) groups: Vec<GroupKey>,
    subject_id: GroupId,
    ingress: Vec<CompiledAdminRule>,
    egress: Vec<CompiledAdminRule>,
}

#[derive(Debug, Default)]
pub(super) struct AdminPolicies {
    last: PolicyNumber,
    numbers: HashMap<(Kind, NamespacedName), PolicyNumber>,
    compiled: HashMap<PolicyNumber, CompiledAdminPolicy>,
    by_subject: HashMap<GroupId, SmallVec<[PolicyNumber; 1]>>,
    selections: HashMap<(Direction, AdminSelection), Weak<AdminRules>>,
}

impl CompiledAdminPolicy {
    fn new(
        policy: &Arc<AdminPolicy>,
        groups: &mut Groups,
        mut new_group: impl FnMut(&GroupKey),
    ) -> Self {
        let mut keys = Vec::new();
        let mut group = |key: GroupKey| {
            let (id, new) = groups.acquire(&key);
            if new {
                new_group(&key);
            }
            keys.push(key);
            id
        };
        let subject = match &policy.subject {
            Subject::Namespaces(namespaces) => GroupKey::selected(namespaces, None),
            Subject::Pods { namespaces, pods } => GroupKey::selected(namespaces, Some(pods)),
        };
        let subject_id = group(subject.clone());
        let mut compile = |rules: &[AdminRule]| -> Vec<CompiledAdminRule> {
            let rules = rules.iter().enumerate();
            rules
                .filter_map(|(index, rule)| compile_rule(policy, index, rule, &mut group))
                .collect()
        };
        Self {
            ingress: compile(&policy.ingress),
            egress: compile(&policy.egress),
            policy: Arc::clone(policy),
            subject,
            subject_id,
            groups: keys,
        }
    }

    fn rules(&self, direction: Direction) -> &[CompiledAdminRule] {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }

    fn has_rules(&self, direction: Direction) -> bool {
        // As written: a policy whose rules come to nothing still speaks of the direction.
        match direction {
            Direction::Ingress => !self.policy.ingress.is_empty(),
            Direction::Egress => !self.policy.egress.is_empty(),
        }
    }
}

/// None for a rule that matches nothing.
fn compile_rule(
    policy: &AdminPolicy,
    index: usize,
    rule: &AdminRule,
    group: &mut impl FnMut(GroupKey) -> GroupId,
) -> Option<CompiledAdminRule> {
    let compiled = |action, peers, nodes: Vec<_>, domain_names| CompiledAdminRule {
        policy: 0,
        rule: index,
        rank: rank(policy),
        action,
        ports: Ports::compile_admin(&rule.ports),
        peers,
        nodes: nodes.into(),
        domain_names,
    };
    if rule.fails_closed() {
        return (rule.action != Action::Allow)
            .then(|| compiled(Action::Deny, Peers::Everyone, Vec::new(), false));
    }
    let mut any_pod = false;
    let mut groups = SmallVec::new();
    let mut networks = Vec::new();
    let mut nodes = Vec::new();
    let mut domain_names = false;
    for peer in &rule.peers {
        match peer {
            AdminPeer::Namespaces(namespaces) if are_all(namespaces, None) => any_pod = true,
            AdminPeer::Namespaces(namespaces) => {
                groups.push(group(GroupKey::selected(namespaces, None)));
            }
            AdminPeer::Pods { namespaces, pods } if are_all(namespaces, Some(pods)) => {
                any_pod = true;
            }
            AdminPeer::Pods { namespaces, pods } => {
                groups.push(group(GroupKey::selected(namespaces, Some(pods))));
            }
            AdminPeer::Nodes(selector) => nodes.push(selector.clone()),
            AdminPeer::Networks(nets) => networks.extend(nets),
            AdminPeer::DomainNames(_) => domain_names = true,
            AdminPeer::Unrecognised => {}
        }
    }
    let blocks = Blocks::compile(networks.into_iter().map(|net| (net, &[] as &[_])));
    let peers = Peers::some(any_pod, groups, blocks);
    Some(compiled(rule.action, peers, nodes, domain_names))
}

impl AdminPolicies {
    pub(super) fn insert(
        &mut self,
        policy: &Arc<AdminPolicy>,
        groups: &mut Groups,
        new_group: impl FnMut(&GroupKey),
    ) -> &CompiledAdminPolicy {
        let compiled = CompiledAdminPolicy::new(policy, groups, new_group);
        self.last = self.last.wrapping_add(1);
        let id = NamespacedName::new("", Arc::clone(&policy.name));
        self.numbers.insert((policy.kind.kind(), id), self.last);
        self.by_subject
            .entry(compiled.subject_id)
            .or_default()
            .push(self.last);
        self.compiled.entry(self.last).or_insert(compiled)
    }

    pub(super) fn remove(&mut self, key: &(Kind, NamespacedName)) -> Option<CompiledAdminPolicy> {
        let number = self.numbers.remove(key)?;
        let compiled = self.compiled.remove(&number)?;
        if let Some(of_subject) = self.by_subject.get_mut(&compiled.subject_id) {
            of_subject.retain(|held| *held != number);
            if of_subject.is_empty() {
                self.by_subject.remove(&compiled.subject_id);
            }
        }
        Some(compiled)
    }

    /// The policies that select a pod with these groups.
    pub(super) fn selecting(&self, groups: &[GroupId]) -> AdminSelection {
        let mut selecting = AdminSelection::new();
        if self.by_subject.is_empty() {
            return selecting;
        }
        let subjects = groups.iter().filter_map(|id| self.by_subject.get(id));
        selecting.extend(subjects.flatten().copied());
        selecting.sort_unstable_by_key(|number| {
            self.compiled
                .get(number)
                .map(|of| &of.policy)
                .map(|policy| (rank(policy), policy.kind, &policy.name))
        });
        selecting
    }

    /// Those of them that have rules of this direction.
    pub(super) fn with_rules(
        &self,
        direction: Direction,
        selecting: &AdminSelection,
    ) -> AdminSelection {
        let has_rules = |number: &&PolicyNumber| {
            self.compiled
                .get(*number)
                .is_some_and(|of| of.has_rules(direction))
        };
        selecting.iter().filter(has_rules).copied().collect()
    }

    /// The rules of these policies; the same ones for the same policies.
    pub(super) fn rules(
        &mut self,
        direction: Direction,
        selection: &AdminSelection,
    ) -> Option<Arc<AdminRules>> {
        if selection.is_empty() {
            return None;
        }
        let key = (direction, selection.clone());
        if let Some(rules) = self.selections.get(&key).and_then(Weak::upgrade) {
            return Some(rules);
        }
        // There are as many as there are combinations of subjects: few, and looked through seldom.
        self.selections.retain(|_, held| held.strong_count() > 0);
        let mut policies = Vec::with_capacity(selection.len());
        let (mut admin, mut baseline) = (Vec::new(), Vec::new());
        for compiled in selection.iter().filter_map(|at| self.compiled.get(at)) {
            let of_tier = match compiled.policy.tier {
                Tier::Admin => &mut admin,
                Tier::Baseline => &mut baseline,
            };
            let rules = compiled.rules(direction).iter().cloned();
            of_tier.extend(rules.map(|rule| CompiledAdminRule {
                policy: policies.len(),
                ..rule
            }));
            policies.push(Arc::clone(&compiled.policy));
        }
        let rules = Arc::new(AdminRules {
            policies: policies.into(),
            admin: admin.into(),
            baseline: baseline.into(),
        });
        self.selections.insert(key, Arc::downgrade(&rules));
        Some(rules)
    }
}
