//! The tiers put together: Admin, then NetworkPolicy, then, where no NetworkPolicy isolates the pod, Baseline.

use super::admin::{AdminRules, Asked, CompiledAdminRule, Found, Reading, find};
use super::connection::{Connection, End, isolation_of};
use super::network_policy::{self, Standing, by_rule};
use super::rules::{Isolation, PodEntry};
use super::{AdminRef, Decision, DirectionVerdict, Expectation, UnknownReason};
use crate::model::{Action, Direction};

const fn allow(decision: Decision<'_>) -> DirectionVerdict<'_> {
    DirectionVerdict {
        expectation: Expectation::Allow,
        decision,
        isolating: &[],
    }
}

/// The verdict of one direction.
pub(super) fn judge<'s>(direction: Direction, of: &Connection<'s, '_>) -> DirectionVerdict<'s> {
    let (entry, on_host_network) = match of.governed(direction) {
        End::Node(_) | End::External => return allow(Decision::NotGoverned),
        End::Pod(entry) => (entry, false),
        End::Host(entry) => (entry, true),
    };
    let verdict = match &isolation_of(direction, entry).admin {
        None => network_policy::judge(direction, entry, of),
        Some(rules) => judge_around(direction, entry, rules, of),
    };
    if !on_host_network {
        return verdict;
    }
    // Commonly not governed. Who sees the pod behind the node's address may govern it.
    DirectionVerdict {
        expectation: match verdict.expectation {
            Expectation::Allow => Expectation::Allow,
            Expectation::Deny | Expectation::Unknown(_) => {
                Expectation::Unknown(UnknownReason::HostNetworkPod)
            }
        },
        ..allow(Decision::NotGoverned)
    }
}

/// The verdict on a pod that the tiers around NetworkPolicy speak of; apart, so that the others' stays short.
#[inline(never)]
fn judge_around<'s>(
    direction: Direction,
    governed: &'s PodEntry,
    rules: &'s AdminRules,
    of: &Connection<'_, '_>,
) -> DirectionVerdict<'s> {
    let isolation = isolation_of(direction, governed);
    if of.peer(direction).is_pod(governed) {
        return DirectionVerdict {
            isolating: &isolation.policies,
            ..allow(Decision::Exempt)
        };
    }
    let mut tiers = Tiers {
        isolation,
        rules,
        asked: Asked {
            direction,
            governed,
            of,
        },
        standing: None,
        open: false,
    };
    tiers.judge()
}

/// All tiers, with what has been found out about them for one question.
struct Tiers<'s, 'c> {
    isolation: &'s Isolation,
    rules: &'s AdminRules,
    asked: Asked<'s, 'c>,
    standing: Option<Standing<'s>>,
    /// Whether readings of the API matter, as far as has been seen.
    open: bool,
}

/// What comes out in one reading.
#[derive(Clone, Copy)]
struct Outcome<'s> {
    /// With policies of one rank in order of name.
    allowed: bool,
    decision: Decision<'s>,
    /// In some order of these.
    can_allow: bool,
    can_deny: bool,
    /// Whether the Admin tier may leave it to the others.
    left_to_others: bool,
}

impl<'s> Outcome<'s> {
    const fn of(allowed: bool, decision: Decision<'s>) -> Self {
        Self {
            allowed,
            decision,
            can_allow: allowed,
            can_deny: !allowed,
            left_to_others: false,
        }
    }
}

impl<'s> Tiers<'s, '_> {
    fn judge(&mut self) -> DirectionVerdict<'s> {
        let common = self.outcome(Reading::Common, true);
        let mut can_allow = common.can_allow;
        let mut can_deny = common.can_deny;
        let mut left_to_others = common.left_to_others;
        let mut also = |outcome: Outcome<'_>| {
            can_allow |= outcome.can_allow;
            can_deny |= outcome.can_deny;
            left_to_others |= outcome.left_to_others;
        };
        let own_node = matches!(
            self.standing,
            Some(Standing::Isolated { own_node: true, .. })
        );
        let mut enforced = common;
        if own_node {
            enforced = self.outcome(Reading::Common, false);
            also(enforced);
        }
        let mut certain = common.decision;
        if self.open {
            let other = self.outcome(Reading::Other, true);
            also(other);
            // What is certain although a name of a domain may mean the address is not decided by that name.
            if matches!(self.asked.of.peer(self.asked.direction), End::External) {
                certain = other.decision;
            }
            // In this reading the NetworkPolicies may be asked where they were not in the common one.
            if matches!(
                self.standing,
                Some(Standing::Isolated { own_node: true, .. })
            ) {
                also(self.outcome(Reading::Other, false));
            }
        }
        let refused = self.asked.of.refused;
        let expectation = match (can_allow, can_deny) {
            (true, true) if enforced.allowed != common.allowed => {
                Expectation::Unknown(UnknownReason::OwnNodeEgress)
            }
            (true, true) if common.can_allow && common.can_deny => {
                Expectation::Unknown(UnknownReason::EqualPriority)
            }
            (true, true) => Expectation::Unknown(self.reason_by_peer()),
            (_, false) => Expectation::Allow,
            // What cannot be read may let it through.
            (false, true)
                if refused.any_cluster_wide()
                    || (left_to_others
                        && refused.any_in(&self.asked.governed.pod.id.namespace)) =>
            {
                Expectation::Unknown(UnknownReason::RefusedPolicy)
            }
            (false, true) => Expectation::Deny,
        };
        DirectionVerdict {
            expectation,
            decision: match expectation {
                Expectation::Unknown(reason) if reason != UnknownReason::RefusedPolicy => {
                    common.decision
                }
                _ => certain,
            },
            isolating: &self.isolation.policies,
        }
    }

    /// What is open about the other end.
    const fn reason_by_peer(&self) -> UnknownReason {
        match self.asked.of.peer(self.asked.direction) {
            End::Pod(_) => UnknownReason::IpBlockOnPod,
            End::Host(_) => UnknownReason::HostNetworkPod,
            End::External => UnknownReason::DomainName,
            End::Node(_) => UnknownReason::OwnNodeEgress,
        }
    }

    fn outcome(&mut self, reading: Reading, own_node_is_reachable: bool) -> Outcome<'s> {
        let rules = self.rules;
        let found = find(&rules.admin, &self.asked, reading, &mut self.open);
        let left_to_others = found.pass || found.first.is_none();
        if !left_to_others {
            return self.by_rules(found, Outcome::of(true, Decision::NotIsolated));
        }
        let others = self.others(reading, own_node_is_reachable);
        Outcome {
            can_allow: found.allow || others.can_allow,
            can_deny: found.deny || others.can_deny,
            left_to_others: true,
            ..self.by_rules(found, others)
        }
    }

    /// The tiers after Admin.
    fn others(&mut self, reading: Reading, own_node_is_reachable: bool) -> Outcome<'s> {
        let Asked {
            direction,
            governed,
            of,
        } = self.asked;
        let standing = *self
            .standing
            .get_or_insert_with(|| network_policy::standing(direction, governed, of));
        match standing {
            Standing::NotIsolated => {
                let rules = self.rules;
                let found = find(&rules.baseline, &self.asked, reading, &mut self.open);
                let by_default = Outcome::of(true, Decision::NotIsolated);
                Outcome {
                    can_allow: found.allow || found.pass || found.first.is_none(),
                    can_deny: found.deny,
                    ..self.by_rules(found, by_default)
                }
            }
            Standing::Exempt => Outcome::of(true, Decision::Exempt),
            Standing::Isolated {
                sure: Some(rule), ..
            } => Outcome::of(true, by_rule(self.isolation, rule)),
            Standing::Isolated { own_node: true, .. } if own_node_is_reachable => {
                Outcome::of(true, Decision::NoRule)
            }
            Standing::Isolated {
                open: Some(rule), ..
            } => {
                self.open = true;
                // Of a pod the address is open, of a hostNetwork pod all that is a pod's.
                let admits = match of.peer(direction) {
                    End::Host(_) => reading == Reading::Other,
                    End::Pod(_) | End::Node(_) | End::External => reading == Reading::Common,
                };
                if admits {
                    Outcome::of(true, by_rule(self.isolation, rule))
                } else {
                    Outcome::of(false, Decision::NoRule)
                }
            }
            Standing::Isolated { .. } => Outcome::of(false, Decision::NoRule),
        }
    }

    /// What the rules found decide, in order of name; what they leave open is `otherwise`.
    fn by_rules(&self, found: Found<'s>, otherwise: Outcome<'s>) -> Outcome<'s> {
        match found.first {
            Some(rule) if rule.action != Action::Pass => Outcome {
                can_allow: found.allow,
                can_deny: found.deny,
                ..Outcome::of(rule.action == Action::Allow, self.decision(rule))
            },
            Some(_) | None => otherwise,
        }
    }

    fn decision(&self, rule: &CompiledAdminRule) -> Decision<'s> {
        match self.rules.policies.get(rule.policy) {
            Some(policy) => Decision::Admin(AdminRef {
                policy,
                rule: rule.rule,
            }),
            None => Decision::NotIsolated,
        }
    }
}
