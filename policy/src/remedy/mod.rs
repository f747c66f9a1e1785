//! The manifests that remedy what an audit finds.
//!
//! ```text
//! Snapshot --audit--> findings --edits--> corrected policies --isolate, dns, counterpart--> new policies --audit--> what is left
//! ```
//!
//! Nothing is guessed that could open more than was open: a new policy isolates, or admits what an existing rule already says;
//! a correction follows a suggestion of its finding. The result is audited before anybody sees it, and what it leaves is part
//! of the answer.

mod correct;
mod counterpart;
mod dns;
mod edits;
mod isolate;
mod manifest;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use edits::Edit;
use edits::Edits;
pub use manifest::network_policy as manifest;

use crate::lint::{self, Audit, Finding, Input};
use crate::model::{NamespacedName, NetworkPolicy, Object, Uid};
use crate::state::{Snapshot, State};

/// What may be written.
#[derive(Clone, Debug)]
pub struct Choice {
    /// Default-deny for egress, too, with DNS allowed: applications that connect to the outside must then be given rules.
    pub egress: bool,
    /// Only these namespaces; empty for all.
    pub namespaces: BTreeSet<String>,
    /// Never these: those of the cluster's own components, which people isolate with care.
    pub leave: BTreeSet<String>,
}

impl Default for Choice {
    fn default() -> Self {
        Self {
            egress: true,
            namespaces: BTreeSet::new(),
            leave: BTreeSet::new(),
        }
    }
}

impl Choice {
    /// Whether something may be written for a namespace.
    pub fn takes(&self, namespace: &str) -> bool {
        !self.leave.contains(namespace)
            && (self.namespaces.is_empty() || self.namespaces.contains(namespace))
    }
}

/// A policy to be added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewPolicy {
    /// It; its UID is only a stand-in.
    pub policy: Arc<NetworkPolicy>,
    /// What it is for, in a sentence.
    pub purpose: String,
    /// The findings that it remedies, `NP001 shop`.
    pub remedies: Vec<String>,
}

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Remedy {
    /// Policies to be added, by namespace and name.
    pub policies: Vec<NewPolicy>,
    /// Corrections of policies that are there, by namespace and name.
    pub edits: Vec<Edit>,
    /// The audit before.
    pub before: Audit,
    /// The audit of the cluster with all of it done.
    pub after: Audit,
}

/// How often corrections and new policies may call for further ones.
const ROUNDS: usize = 4;

/// Works out what remedies the findings of a cluster, but for those that are accepted: `live` leaves those out.
pub fn remedy(
    input: Input<'_>,
    options: &lint::Options,
    choice: &Choice,
    live: &dyn Fn(Vec<Finding>, &Snapshot) -> Vec<Finding>,
) -> Remedy {
    let mut draft = Draft::new(input, choice, live);
    let before = draft.audit(options);
    let mut edits = Edits::default();
    let mut after = before.clone();
    for _ in 0..ROUNDS {
        if !edits.add(&after, options, &mut draft) {
            break;
        }
        after = draft.audit(options);
    }
    let corrected = after.clone();
    if isolate::add(&corrected, &mut draft) {
        after = draft.audit(options);
    }
    for _ in 0..ROUNDS {
        let count = draft.new.len();
        dns::add(&after, options, &mut draft);
        counterpart::add(&corrected, &after, &mut draft);
        if draft.new.len() == count {
            break;
        }
        after = draft.audit(options);
    }
    if draft.prune(&after) {
        after = draft.audit(options);
    }
    Remedy {
        policies: draft.new.into_values().collect(),
        edits: edits.finish(),
        before,
        after,
    }
}

/// The cluster as it will be.
struct Draft<'a> {
    input: Input<'a>,
    choice: &'a Choice,
    state: State,
    snapshot: Snapshot,
    live: &'a dyn Fn(Vec<Finding>, &Snapshot) -> Vec<Finding>,
    new: BTreeMap<NamespacedName, NewPolicy>,
}

impl<'a> Draft<'a> {
    fn new(
        input: Input<'a>,
        choice: &'a Choice,
        live: &'a dyn Fn(Vec<Finding>, &Snapshot) -> Vec<Finding>,
    ) -> Self {
        let held = input.snapshot;
        let state = State::of(held.objects(), held.refused_policies());
        let snapshot = state.snapshot();
        Self {
            input,
            choice,
            state,
            snapshot,
            live,
            new: BTreeMap::new(),
        }
    }

    fn input(&self) -> Input<'_> {
        Input {
            snapshot: &self.snapshot,
            refused: self.input.refused,
        }
    }

    fn audit(&self, options: &lint::Options) -> Audit {
        let mut audit = lint::audit(self.input(), options);
        audit.findings = (self.live)(audit.findings, &self.snapshot);
        audit
    }

    fn replace(&mut self, policy: &Arc<NetworkPolicy>) {
        self.state.apply(Object::NetworkPolicy(Arc::clone(policy)));
        self.snapshot = self.state.snapshot();
    }

    /// Adds a policy, under a name that no policy has, unless a new one says the same already: it was no help, then.
    fn add(&mut self, mut policy: NetworkPolicy, purpose: String, remedies: Vec<String>) {
        if self
            .new
            .values()
            .any(|new| says_the_same(&new.policy, &policy))
        {
            return;
        }
        let taken = |id: &NamespacedName| self.snapshot.policy_named(id).is_some();
        let plain = Arc::clone(&policy.id.name);
        let mut number = 2_usize;
        while taken(&policy.id) {
            policy.id.name = Arc::from(format!("{plain}-{number}"));
            number = number.saturating_add(1);
        }
        policy.uid = Uid(Arc::from(format!("NetworkPolicy/{}", policy.id)));
        let policy = Arc::new(policy);
        self.replace(&policy);
        let new = NewPolicy {
            policy: Arc::clone(&policy),
            purpose,
            remedies,
        };
        self.new.insert(policy.id.clone(), new);
    }

    /// Takes back what remedied nothing, such as a rule for a connection that an admin policy denies. Whether there was any.
    fn prune(&mut self, after: &Audit) -> bool {
        let left: BTreeSet<String> = after
            .findings
            .iter()
            .map(|finding| format!("{} {}", finding.lint, finding.subject))
            .collect();
        let is_useless = |new: &NewPolicy| {
            !new.remedies.is_empty() && new.remedies.iter().all(|finding| left.contains(finding))
        };
        let useless: Vec<Arc<NetworkPolicy>> = self
            .new
            .values()
            .filter(|new| is_useless(new))
            .map(|new| Arc::clone(&new.policy))
            .collect();
        for policy in &useless {
            self.new.remove(&policy.id);
            let object = Object::NetworkPolicy(Arc::clone(policy));
            self.state.delete(&object.key());
        }
        self.snapshot = self.state.snapshot();
        !useless.is_empty()
    }
}

fn says_the_same(a: &NetworkPolicy, b: &NetworkPolicy) -> bool {
    a.id.namespace == b.id.namespace
        && a.pod_selector == b.pod_selector
        && (a.isolates_ingress, a.isolates_egress) == (b.isolates_ingress, b.isolates_egress)
        && (&a.ingress, &a.egress) == (&b.ingress, &b.egress)
}
