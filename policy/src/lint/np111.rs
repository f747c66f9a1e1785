//! NP111: admin rule never reached.

use super::catalog::Lint;
use super::cluster::Cluster;
use super::finding::{Findings, Severity};
use crate::model::{AdminPeer, AdminPort, AdminRule, Direction, NamespacedName};

pub(super) const LINT: Lint = Lint {
    id: "NP111",
    title: "admin rule never reached",
    severity: Severity::Low,
    references: &["NIST CM-6", "hygiene"],
    help: "The first rule of a policy that matches decides, and an earlier rule matches all that this one does, so it never \
           decides anything. Remove it, or move it before the wider rule if it was meant as an exception. Suppress this only \
           where rules are generated.",
    check,
};

fn check(cluster: &Cluster<'_>, findings: &mut Findings) {
    for policy in cluster.snapshot.admin_policies() {
        let directions = [
            (Direction::Ingress, &policy.ingress),
            (Direction::Egress, &policy.egress),
        ];
        for (direction, rules) in directions {
            for (index, rule) in rules.iter().enumerate() {
                let mut earlier = rules.iter().take(index);
                let Some(hiding) = earlier.position(|earlier| hides(earlier, rule)) else {
                    continue;
                };
                let name = rule
                    .name
                    .as_ref()
                    .map_or_else(String::new, |name| format!(" ({name})"));
                findings.add(
                    format!("{}:{direction}[{index}]", policy.name),
                    (
                        policy.kind.kind(),
                        NamespacedName::new("", policy.name.clone()),
                    ),
                    format!(
                        "rule {direction}[{index}]{name} is never reached: {direction}[{hiding}] matches all that it matches and comes first"
                    ),
                );
            }
        }
    }
}

/// Whether an earlier rule matches all that a later one does.
fn hides(earlier: &AdminRule, later: &AdminRule) -> bool {
    !earlier.fails_closed()
        && (earlier.ports.is_empty() || same_ports(&earlier.ports, &later.ports))
        && !later.peers.is_empty()
        && later.peers.iter().all(|peer| holds(earlier, peer))
}

fn holds(earlier: &AdminRule, peer: &AdminPeer) -> bool {
    let every_pod = |of: &AdminPeer| matches!(of, AdminPeer::Namespaces(all) if all.is_empty());
    match peer {
        AdminPeer::Namespaces(_) | AdminPeer::Pods { .. } => {
            earlier.peers.contains(peer) || earlier.peers.iter().any(every_pod)
        }
        AdminPeer::Nodes(_) | AdminPeer::Networks(_) | AdminPeer::DomainNames(_) => {
            earlier.peers.contains(peer)
        }
        // Two that we cannot read need not be the same.
        AdminPeer::Unrecognised => false,
    }
}

/// The same filter, in whatever order.
fn same_ports(one: &[AdminPort], other: &[AdminPort]) -> bool {
    let all_in =
        |some: &[AdminPort], others: &[AdminPort]| some.iter().all(|port| others.contains(port));
    one == other || (one.len() == other.len() && all_in(one, other) && all_in(other, one))
}

#[cfg(test)]
mod tests {
    use super::super::admin_samples::{audited, policy, selector};
    use super::*;
    use crate::model::{Action, AdminKind, PortMatch, Protocol, Tier};

    fn rule(peers: &[AdminPeer], ports: &[AdminPort]) -> AdminRule {
        AdminRule {
            name: None,
            action: Action::Deny,
            peers: peers.to_vec(),
            ports: ports.to_vec(),
        }
    }

    fn found(ingress: Vec<AdminRule>) -> Vec<String> {
        let kind = AdminKind::AdminNetworkPolicy;
        let mut admin = policy(kind, "p", Tier::Admin, 1);
        admin.ingress = ingress;
        audited("NP111", vec![admin])
    }

    fn tcp(port: u16) -> AdminPort {
        AdminPort::Of(Protocol::Tcp, PortMatch::Range(port, port))
    }

    #[test]
    fn a_rule_after_one_of_all_namespaces_is_never_reached() {
        let all = AdminPeer::Namespaces(selector(&[]));
        let some = AdminPeer::Namespaces(selector(&[("team", "a")]));
        let pods = AdminPeer::Pods {
            namespaces: selector(&[]),
            pods: selector(&[("app", "db")]),
        };
        let nodes = AdminPeer::Nodes(selector(&[]));
        let hidden = vec![
            rule(std::slice::from_ref(&all), &[]),
            rule(&[some.clone(), pods], &[tcp(1)]),
            rule(&[some.clone(), nodes], &[]),
        ];
        assert_eq!(found(hidden), ["p:ingress[1]"]);
        let exception_first = vec![rule(&[some], &[tcp(1)]), rule(&[all], &[])];
        assert!(found(exception_first).is_empty());
    }

    #[test]
    fn the_earlier_ports_must_be_none_or_the_same() {
        let peer = AdminPeer::Namespaces(selector(&[("team", "a")]));
        let one = |ports: &[AdminPort]| rule(std::slice::from_ref(&peer), ports);
        let rules = vec![
            one(&[tcp(1), tcp(2)]),
            one(&[tcp(2), tcp(1)]),
            one(&[tcp(1)]),
            one(&[]),
            one(&[tcp(9)]),
        ];
        assert_eq!(found(rules), ["p:ingress[1]", "p:ingress[4]"]);
    }

    #[test]
    fn a_rule_that_may_match_nothing_hides_none() {
        let all = AdminPeer::Namespaces(selector(&[]));
        let mut closed = rule(&[all.clone(), AdminPeer::Unrecognised], &[]);
        closed.action = Action::Allow;
        assert!(found(vec![closed, rule(&[all], &[])]).is_empty());
    }

    #[test]
    fn peers_that_are_not_known_are_not_taken_for_the_same() {
        let rules = vec![
            rule(&[AdminPeer::Unrecognised], &[]),
            rule(&[AdminPeer::Unrecognised], &[]),
        ];
        assert!(found(rules).is_empty());
    }
}
