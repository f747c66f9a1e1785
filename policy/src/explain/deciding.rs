//! The policies that decided, for programs.

use crate::evaluate::{Decision, DirectionVerdict, Expectation, UnknownReason, Verdict};
use crate::model::Direction;

/// A policy that decided on a direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Deciding<'a> {
    /// Which direction.
    #[serde(serialize_with = "super::lower")]
    pub direction: Direction,
    /// `NetworkPolicy`, `AdminNetworkPolicy`, `BaselineAdminNetworkPolicy` or `ClusterNetworkPolicy`.
    pub kind: &'static str,
    /// Empty for a policy of the whole cluster.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// The rule that allows or denies; `None` for a policy that isolates the pod without a rule that admits.
    pub rule: Option<usize>,
}

/// The policies that decided: of an allowed direction the rule that admits it, of a denied one the policies that isolate
/// the pod, or the admin rule that denies it. Egress first.
pub fn deciding<'a>(verdict: &Verdict<'a>) -> impl Iterator<Item = Deciding<'a>> + use<'a> {
    of(Direction::Egress, &verdict.egress).chain(of(Direction::Ingress, &verdict.ingress))
}

fn of<'a>(
    direction: Direction,
    verdict: &DirectionVerdict<'a>,
) -> impl Iterator<Item = Deciding<'a>> + use<'a> {
    let one = match verdict.decision {
        Decision::Rule(by) => Some(Deciding {
            direction,
            kind: "NetworkPolicy",
            namespace: &by.policy.id.namespace,
            name: &by.policy.id.name,
            rule: by.rule,
        }),
        Decision::Admin(by) => Some(Deciding {
            direction,
            kind: by.policy.kind.kind().name(),
            namespace: "",
            name: &by.policy.name,
            rule: Some(by.rule),
        }),
        Decision::NotGoverned | Decision::NotIsolated | Decision::Exempt | Decision::NoRule => None,
    };
    let isolating = match verdict.decision {
        Decision::NoRule => verdict.isolating,
        Decision::NotGoverned
        | Decision::NotIsolated
        | Decision::Exempt
        | Decision::Rule(_)
        | Decision::Admin(_) => &[],
    };
    one.into_iter()
        .chain(isolating.iter().map(move |policy| Deciding {
            direction,
            kind: "NetworkPolicy",
            namespace: &policy.id.namespace,
            name: &policy.id.name,
            rule: None,
        }))
}

/// `allow`, `deny`, `unknown`.
pub const fn outcome_word(expectation: Expectation) -> &'static str {
    match expectation {
        Expectation::Allow => "allow",
        Expectation::Deny => "deny",
        Expectation::Unknown(_) => "unknown",
    }
}

/// A stable word for a reason; nothing for a known outcome.
pub const fn reason_word(expectation: Expectation) -> Option<&'static str> {
    let Expectation::Unknown(reason) = expectation else {
        return None;
    };
    Some(match reason {
        UnknownReason::OwnNodeEgress => "OwnNodeEgress",
        UnknownReason::IpBlockOnPod => "IpBlockOnPod",
        UnknownReason::HostNetworkPod => "HostNetworkPod",
        UnknownReason::MixedFamilies => "MixedFamilies",
        UnknownReason::RefusedPolicy => "RefusedPolicy",
        UnknownReason::EqualPriority => "EqualPriority",
        UnknownReason::DomainName => "DomainName",
    })
}
