//! The policies behind a denial, whatever their kind, and the policies that may undo it without our knowing.

use std::sync::Arc;

use polproof_policy::model::{AdminPolicy, NetworkPolicy, PortMatch};
use polproof_policy::{
    Decision, Direction, DirectionVerdict, Endpoint, Kind, NamespacedName, Protocol, Snapshot,
};

use crate::finding::{DecidingPolicy, DeniedBy};

/// A policy that denies in one direction.
#[derive(Clone, Debug)]
pub(crate) enum Denier {
    /// It isolates, and none of its rules admits.
    Isolating(Arc<NetworkPolicy>),
    /// This rule of it says so.
    Rule(Arc<AdminPolicy>, usize),
}

impl Denier {
    /// Whether this is one policy, unchanged. By which of its rules it denies does not matter: that the ends' labels
    /// changed is no change of the policy, as with one that denies by having no rule for them.
    pub(crate) fn same_policy(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Isolating(a), Self::Isolating(b)) => Arc::ptr_eq(a, b) || a == b,
            (Self::Rule(a, _), Self::Rule(b, _)) => Arc::ptr_eq(a, b) || a == b,
            (Self::Isolating(_), Self::Rule(..)) | (Self::Rule(..), Self::Isolating(_)) => false,
        }
    }

    /// Whether a view holds the policy, unchanged.
    pub(crate) fn is_held_by(&self, snapshot: &Snapshot) -> bool {
        match self {
            Self::Isolating(policy) => snapshot
                .policy_named(&policy.id)
                .is_some_and(|held| Arc::ptr_eq(held, policy) || held == policy),
            Self::Rule(policy, _) => snapshot
                .admin_policies()
                .any(|held| Arc::ptr_eq(held, policy) || held == policy),
        }
    }

    /// Whether it might admit by a port that it names, and the destination does not: who enforces may know another port by
    /// that name.
    pub(crate) fn names_unknown_port(
        &self,
        direction: Direction,
        protocol: Protocol,
        destination: Endpoint<'_>,
    ) -> bool {
        let Self::Isolating(policy) = self else {
            return false;
        };
        let rules = match direction {
            Direction::Ingress => &policy.ingress,
            Direction::Egress => &policy.egress,
        };
        let knows = |name: &Arc<str>| match destination {
            Endpoint::Pod(pod) => pod
                .ports
                .iter()
                .any(|port| port.name.as_ref() == Some(name) && port.protocol == protocol),
            Endpoint::Node(_) | Endpoint::External => true,
        };
        rules.iter().flat_map(|rule| &rule.ports).any(|port| {
            port.protocol == protocol
                && matches!(&port.port, PortMatch::Named(name) if !knows(name))
        })
    }

    /// As a finding names it.
    pub(crate) fn deciding(&self, direction: Direction) -> DecidingPolicy {
        let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        match self {
            Self::Isolating(policy) => DecidingPolicy {
                direction,
                id: policy.id.clone(),
                kind: Kind::NetworkPolicy,
                uid: policy.uid.clone(),
                generation: policy.generation,
                by: DeniedBy::NoRule(number(match direction {
                    Direction::Ingress => policy.ingress.len(),
                    Direction::Egress => policy.egress.len(),
                })),
            },
            Self::Rule(policy, rule) => DecidingPolicy {
                direction,
                id: NamespacedName::new("", Arc::clone(&policy.name)),
                kind: policy.kind.kind(),
                uid: policy.uid.clone(),
                generation: policy.generation,
                by: DeniedBy::Rule(number(*rule)),
            },
        }
    }
}

impl PartialEq for Denier {
    /// The same policy, and the same rule of it.
    fn eq(&self, other: &Self) -> bool {
        let rule = |of: &Self| match of {
            Self::Isolating(_) => None,
            Self::Rule(_, rule) => Some(*rule),
        };
        rule(self) == rule(other) && self.same_policy(other)
    }
}

/// Those who deny in a direction that is denied: the rule that says so, or all that isolate.
pub(crate) fn of<'v>(said: &'v DirectionVerdict<'_>) -> impl Iterator<Item = Denier> + 'v {
    let rule = match said.decision {
        Decision::Admin(by) => Some(Denier::Rule(Arc::clone(by.policy), by.rule)),
        Decision::NotGoverned
        | Decision::NotIsolated
        | Decision::Exempt
        | Decision::Rule(_)
        | Decision::NoRule => None,
    };
    let isolating = if rule.is_some() { &[] } else { said.isolating };
    let isolating = isolating.iter().cloned().map(Denier::Isolating);
    rule.into_iter().chain(isolating)
}

/// Whether a policy that is not evaluated may admit what is denied to this end in this direction: one of a CNI's own API, or
/// a cluster-scoped one that was refused, so that it is not known whom it selects.
pub(crate) fn may_be_admitted(
    snapshot: &Snapshot,
    direction: Direction,
    end: Endpoint<'_>,
) -> bool {
    let Endpoint::Pod(pod) = end else {
        return false; // nothing but a pod is denied anything
    };
    snapshot.foreign_policies_of(pod).any(|policy| {
        match direction {
            Direction::Ingress => policy.ingress,
            Direction::Egress => policy.egress,
        }
        .may_admit
    }) || snapshot
        .refused_policies()
        .any(|refused| refused.namespace.is_empty())
}

/// Whether a policy that is not evaluated may deny what is allowed to this end: one of a CNI's own API, or one that was
/// refused, so that it is not known whom it isolates.
pub(crate) fn may_be_denied(snapshot: &Snapshot, end: Endpoint<'_>) -> bool {
    let Endpoint::Pod(pod) = end else {
        return false;
    };
    snapshot.foreign_policies_of(pod).next().is_some()
        || snapshot
            .refused_policies()
            .any(|refused| refused.namespace.is_empty() || refused.namespace == pod.id.namespace)
}

/// The policy by whose rule a direction is allowed; `None` where none isolates.
pub(crate) fn admitting(
    direction: Direction,
    said: &DirectionVerdict<'_>,
) -> Option<DecidingPolicy> {
    let rule = |rule: usize| DeniedBy::Rule(u32::try_from(rule).unwrap_or(u32::MAX));
    match said.decision {
        Decision::Admin(by) => {
            Some(Denier::Rule(Arc::clone(by.policy), by.rule).deciding(direction))
        }
        Decision::Rule(by) => Some(DecidingPolicy {
            by: by.rule.map_or(DeniedBy::NoRule(0), rule),
            ..Denier::Isolating(Arc::clone(by.policy)).deciding(direction)
        }),
        Decision::NotGoverned | Decision::NotIsolated | Decision::Exempt | Decision::NoRule => None,
    }
}
