//! What each finding about a policy asks to be changed in it.

use super::Choice;
use super::edits::rule_mut;
use crate::lint::Finding;
use crate::model::{NetworkPolicy, Peer, PolicyPort, PortMatch, Protocol};
use crate::state::Snapshot;

/// Where in a policy a subject points: `ns/policy:direction[i].from[j]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Spot<'a> {
    direction: &'a str,
    rule: usize,
    /// Position in `from`, `to` or `ports`.
    item: Option<usize>,
}

impl<'a> Spot<'a> {
    fn of(subject: &'a str) -> Option<Self> {
        let (_, spot) = subject.rsplit_once(':')?;
        let (first, item) = match spot.split_once('.') {
            Some((first, item)) => (first, Some(number(item)?)),
            None => (spot, None),
        };
        Some(Self {
            direction: first.split('[').next()?,
            rule: number(first)?,
            item,
        })
    }
}

/// The number in the brackets at the end.
fn number(text: &str) -> Option<usize> {
    let (_, number) = text.strip_suffix(']')?.rsplit_once('[')?;
    number.parse().ok()
}

/// Changes the policy as a finding suggests. Whether there was something to change.
pub(super) fn finding(
    policy: &mut NetworkPolicy,
    finding: &Finding,
    _snapshot: &Snapshot,
    choice: &Choice,
) -> bool {
    let spot = Spot::of(&finding.subject);
    match (finding.lint, spot) {
        ("NP043", Some(spot)) => dns_over_udp(policy, spot),
        ("NP052", Some(spot)) => useless_excepts(policy, spot),
        ("NP091", Some(spot)) => end_port(policy, spot),
        ("NP062", _) if choice.egress => {
            policy.written.policy_types = true;
            policy.isolates_egress = true;
            true
        }
        _ => false,
    }
}

fn dns_over_udp(policy: &mut NetworkPolicy, spot: Spot<'_>) -> bool {
    let Some(rule) = rule_mut(policy, spot.direction, spot.rule) else {
        return false;
    };
    rule.ports.push(PolicyPort {
        protocol: Protocol::Udp,
        port: PortMatch::Range(53, 53),
        end_port_written: false,
    });
    true
}

fn useless_excepts(policy: &mut NetworkPolicy, spot: Spot<'_>) -> bool {
    let peer =
        rule_mut(policy, spot.direction, spot.rule).and_then(|rule| rule.peers.get_mut(spot.item?));
    let Some(Peer::IpBlock { except, .. }) = peer else {
        return false;
    };
    let before = except.len();
    let all = except.clone();
    let mut position = 0_usize;
    except.retain(|net| {
        let at = position;
        position = position.saturating_add(1);
        !all.iter()
            .enumerate()
            .any(|(other, wide)| other != at && wide.contains(net) && (wide != net || other < at))
    });
    except.len() < before
}

fn end_port(policy: &mut NetworkPolicy, spot: Spot<'_>) -> bool {
    let port =
        rule_mut(policy, spot.direction, spot.rule).and_then(|rule| rule.ports.get_mut(spot.item?));
    port.is_some_and(|port| std::mem::take(&mut port.end_port_written))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_point_into_policies() {
        for (subject, direction, rule, item) in [
            ("shop/db:ingress[2]", "ingress", 2, None),
            ("shop/db:egress[0].to[3]", "egress", 0, Some(3)),
            ("shop/db:ingress[10].ports[11]", "ingress", 10, Some(11)),
        ] {
            let spot = Spot {
                direction,
                rule,
                item,
            };
            assert_eq!(Spot::of(subject), Some(spot), "{subject}");
        }
        for none in ["shop/db", "shop/db:egress", "shop/db:egress[x]", ""] {
            assert_eq!(Spot::of(none), None, "{none}");
        }
    }
}
