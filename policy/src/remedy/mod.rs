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
pub use manifest::network_policy as manifest;

use crate::lint::{self, Audit, Input};
use crate::model::{Kind, NamespacedName, NetworkPolicy, Object, Uid};
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
    fn takes(&self, namespace: &str) -> bool {
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

/// How often new policies may call for further ones.
const ROUNDS: usize = 4;

/// Works out what remedies the findings of a cluster.
pub fn remedy(input: Input<'_>, options: &lint::Options, choice: &Choice) -> Remedy {
    let before = lint::audit(input, options);
    let mut draft = Draft::new(input, choice);
    let edits = edits::of(&before, input, options, choice);
    for edit in &edits {
        draft.replace(&edit.corrected);
    }
    isolate::add(&before, &mut draft);
    let mut after = draft.audit(options);
    for _ in 0..ROUNDS {
        let count = draft.new.len();
        dns::add(&after, options, &mut draft);
        counterpart::add(&before, &after, &mut draft);
        if draft.new.len() == count {
            break;
        }
        after = draft.audit(options);
    }
    Remedy {
        policies: draft.new.into_values().collect(),
        edits,
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
    new: BTreeMap<NamespacedName, NewPolicy>,
}

impl<'a> Draft<'a> {
    fn new(input: Input<'a>, choice: &'a Choice) -> Self {
        let mut state = State::new();
        let mut by_kind: BTreeMap<Kind, Vec<Object>> = BTreeMap::new();
        for object in input.snapshot.objects() {
            by_kind.entry(object.key().kind).or_default().push(object);
        }
        for (kind, objects) in by_kind {
            state.reset(kind, objects);
        }
        state.set_refused_policies(input.snapshot.refused_policies());
        let snapshot = state.snapshot();
        Self {
            input,
            choice,
            state,
            snapshot,
            new: BTreeMap::new(),
        }
    }

    fn audit(&self, options: &lint::Options) -> Audit {
        let input = Input {
            snapshot: &self.snapshot,
            refused: self.input.refused,
        };
        lint::audit(input, options)
    }

    fn replace(&mut self, policy: &Arc<NetworkPolicy>) {
        self.state.apply(Object::NetworkPolicy(Arc::clone(policy)));
        self.snapshot = self.state.snapshot();
    }

    /// Adds a policy, unless one of that name is new already, under a name that no policy has.
    fn add(&mut self, mut policy: NetworkPolicy, purpose: String, remedies: Vec<String>) {
        let taken = |id: &NamespacedName| {
            self.new.contains_key(id) || self.snapshot.policies().any(|policy| policy.id == *id)
        };
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
}
