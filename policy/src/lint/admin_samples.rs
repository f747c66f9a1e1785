//! Admin policies for the tests of their lints.

use std::sync::Arc;

use super::{Input, Options, audit};
use crate::model::{AdminKind, AdminPolicy, Object, Selector, Subject, Tier, Uid};
use crate::state::State;

/// A policy about everything, without rules.
pub(super) fn policy(kind: AdminKind, name: &str, tier: Tier, priority: u16) -> AdminPolicy {
    AdminPolicy {
        kind,
        name: name.into(),
        uid: Uid(format!("{kind:?}/{name}").into()),
        generation: 1,
        tier,
        priority,
        subject: Subject::Namespaces(selector(&[])),
        ingress: Vec::new(),
        egress: Vec::new(),
        annotations: Default::default(),
    }
}

pub(super) fn selector(pairs: &[(&str, &str)]) -> Selector {
    Selector {
        match_labels: pairs
            .iter()
            .map(|(key, value)| ((*key).into(), (*value).into()))
            .collect(),
        match_expressions: Vec::new(),
    }
}

/// The subjects of a lint's findings in a cluster of these policies.
pub(super) fn audited(lint: &str, policies: Vec<AdminPolicy>) -> Vec<String> {
    let mut state = State::new();
    for policy in policies {
        state.apply(Object::AdminPolicy(Arc::new(policy)));
    }
    let snapshot = state.snapshot();
    let input = Input {
        snapshot: &snapshot,
        refused: &[],
    };
    let found = audit(input, &Options::default()).findings.into_iter();
    found
        .filter(|finding| finding.lint == lint)
        .map(|finding| finding.subject)
        .collect()
}
