//! Whether one policy's rules lie within another's, by their text alone: what lies within admits nothing more in any
//! cluster.

use std::cell::Cell;
use std::collections::HashSet;

use ipnet::IpNet;

use crate::model::{Peer, PolicyPort, PortMatch, Rule, Selector};

/// Comparisons of rules, peers and ports for the policies of one namespace. Real ones need thousands; the bound is for manifests
/// made to keep an audit busy, whose policies then count as not redundant.
const MOST: u32 = 20_000_000;

/// Compares, and gives up after so many comparisons.
pub(super) struct Within {
    left: Cell<u32>,
}

/// The rules of one policy and direction, to look for others within them.
pub(super) struct Wide<'a> {
    rules: &'a [Rule],
    /// The same rule is mostly there as it is.
    exact: HashSet<&'a Rule>,
}

impl<'a> Wide<'a> {
    pub(super) fn new(rules: &'a [Rule]) -> Self {
        Self {
            rules,
            exact: rules.iter().collect(),
        }
    }
}

impl Within {
    pub(super) const fn new() -> Self {
        Self {
            left: Cell::new(MOST),
        }
    }

    /// Whether the rule lies within one of these.
    pub(super) fn some_rule(&self, narrow: &Rule, wide: &Wide<'_>) -> bool {
        let mut wider = wide.rules.iter().take_while(|_| self.may_compare());
        self.may_compare()
            && (wide.exact.contains(narrow) || wider.any(|wide| self.rule(narrow, wide)))
    }

    /// Counts a comparison. False if there were too many.
    fn may_compare(&self) -> bool {
        let left = self.left.get().checked_sub(1);
        self.left.set(left.unwrap_or(0));
        left.is_some()
    }

    fn rule(&self, narrow: &Rule, wide: &Rule) -> bool {
        self.each_in_some(&narrow.ports, &wide.ports, port)
            && self.each_in_some(&narrow.peers, &wide.peers, peer)
    }

    /// An empty list is everything.
    fn each_in_some<T>(&self, narrow: &[T], wide: &[T], within: fn(&T, &T) -> bool) -> bool {
        if wide.is_empty() {
            return true;
        }
        let in_some = |narrow: &T| {
            let mut wide = wide.iter().take_while(|_| self.may_compare());
            wide.any(|wide| within(narrow, wide))
        };
        !narrow.is_empty() && narrow.iter().all(in_some)
    }
}

/// Whether `wide` selects all that `narrow` selects, because it requires nothing that `narrow` does not.
pub(super) fn is_wider(wide: &Selector, narrow: &Selector) -> bool {
    wide.match_labels
        .iter()
        .all(|(key, value)| narrow.match_labels.get(key) == Some(value))
        && wide
            .match_expressions
            .iter()
            .all(|required| narrow.match_expressions.contains(required))
}

fn peer(narrow: &Peer, wide: &Peer) -> bool {
    match (narrow, wide) {
        (
            Peer::Pods {
                namespaces: narrow_namespaces,
                pods: narrow_pods,
            },
            Peer::Pods { namespaces, pods },
        ) => {
            let same_scope = match (namespaces, narrow_namespaces) {
                (None, None) => true,
                (Some(wide), Some(narrow)) => is_wider(wide, narrow),
                (None, Some(_)) | (Some(_), None) => false,
            };
            same_scope
                && match (pods, narrow_pods) {
                    (None, _) => true,
                    (Some(wide), Some(narrow)) => is_wider(wide, narrow),
                    (Some(wide), None) => wide.is_empty(),
                }
        }
        (
            Peer::IpBlock {
                cidr: narrow,
                except: narrow_except,
            },
            Peer::IpBlock { cidr, except },
        ) => cidr.contains(narrow) && except.iter().all(|net| leaves(net, narrow, narrow_except)),
        (Peer::Pods { .. }, Peer::IpBlock { .. }) | (Peer::IpBlock { .. }, Peer::Pods { .. }) => {
            false
        }
    }
}

/// Whether an exception of the wider block takes nothing from the narrower one.
fn leaves(net: &IpNet, narrow: &IpNet, except: &[IpNet]) -> bool {
    let touches = narrow.contains(net) || net.contains(narrow);
    !touches || except.iter().any(|except| except.contains(net))
}

fn port(narrow: &PolicyPort, wide: &PolicyPort) -> bool {
    narrow.protocol == wide.protocol
        && match (&narrow.port, &wide.port) {
            (_, PortMatch::Any) => true,
            (PortMatch::Named(narrow), PortMatch::Named(wide)) => narrow == wide,
            (PortMatch::Range(first, last), PortMatch::Range(wide_first, wide_last)) => {
                wide_first <= first && last <= wide_last
            }
            (PortMatch::Any, _)
            | (PortMatch::Named(_), PortMatch::Range(..))
            | (PortMatch::Range(..), PortMatch::Named(_)) => false,
        }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::model::{Protocol, Requirement};

    fn selector(pairs: &[(&str, &str)]) -> Selector {
        Selector {
            match_labels: pairs
                .iter()
                .map(|(key, value)| ((*key).into(), (*value).into()))
                .collect(),
            match_expressions: Vec::new(),
        }
    }

    fn block(cidr: &str, except: &[&str]) -> Peer {
        Peer::IpBlock {
            cidr: cidr.parse().unwrap(),
            except: except.iter().map(|net| net.parse().unwrap()).collect(),
        }
    }

    fn tcp(port: PortMatch) -> PolicyPort {
        PolicyPort {
            protocol: Protocol::Tcp,
            port,
            end_port_written: false,
        }
    }

    #[test]
    fn a_selector_is_wider_if_it_requires_a_part_of_the_other() {
        let narrow = selector(&[("app", "db"), ("tier", "back")]);
        assert!(is_wider(&selector(&[("app", "db")]), &narrow));
        assert!(is_wider(&selector(&[]), &narrow));
        assert!(!is_wider(&narrow, &selector(&[("app", "db")])));
        let mut exists = selector(&[]);
        exists
            .match_expressions
            .push(Requirement::Exists("app".into()));
        assert!(!is_wider(&exists, &narrow), "syntactic only");
    }

    #[test]
    fn a_peer_without_namespace_selector_is_not_within_one_with_it() {
        let own = Peer::Pods {
            namespaces: None,
            pods: Some(selector(&[("app", "db")])),
        };
        let all = Peer::Pods {
            namespaces: Some(selector(&[])),
            pods: None,
        };
        assert!(!peer(&own, &all));
        let own_all = Peer::Pods {
            namespaces: None,
            pods: Some(selector(&[])),
        };
        assert!(peer(&own, &own_all));
        assert!(!peer(&own_all, &own));
    }

    #[test]
    fn a_block_lies_within_if_the_wider_one_cuts_nothing_of_it() {
        let wide = block("10.0.0.0/8", &["10.1.0.0/16"]);
        assert!(peer(&block("10.2.0.0/16", &[]), &wide));
        assert!(!peer(&block("10.1.2.0/24", &[]), &wide));
        assert!(!peer(&block("10.0.0.0/8", &[]), &wide));
        assert!(!peer(&block("10.0.0.0/8", &["10.1.0.0/17"]), &wide));
        assert!(peer(&block("10.0.0.0/12", &["10.0.0.0/15"]), &wide));
        assert!(!peer(&block("0.0.0.0/0", &[]), &wide));
        assert!(!peer(&block("fd00::/8", &[]), &wide));
    }

    #[test]
    fn ports_lie_within_ranges_and_names_within_names() {
        let within = |narrow, wide| port(&tcp(narrow), &tcp(wide));
        assert!(within(PortMatch::Range(80, 80), PortMatch::Range(1, 80)));
        assert!(!within(PortMatch::Range(80, 81), PortMatch::Range(1, 80)));
        assert!(!within(PortMatch::Any, PortMatch::Range(1, 65535)));
        assert!(within(PortMatch::Named("a".into()), PortMatch::Any));
        assert!(!within(
            PortMatch::Named("a".into()),
            PortMatch::Named("b".into())
        ));
        let udp = PolicyPort {
            protocol: Protocol::Udp,
            ..tcp(PortMatch::Any)
        };
        assert!(!port(&tcp(PortMatch::Any), &udp));
    }

    #[test]
    fn too_many_comparisons_come_to_nothing() {
        let rule = Rule {
            peers: vec![block("10.0.0.0/8", &[])],
            ports: Vec::new(),
        };
        let all = Rule {
            peers: Vec::new(),
            ports: Vec::new(),
        };
        let rules = [all];
        let within = Within::new();
        assert!(within.some_rule(&rule, &Wide::new(&rules)));
        within.left.set(1);
        assert!(!within.some_rule(&rule, &Wide::new(&rules)));
        assert!(!within.some_rule(&rule, &Wide::new(std::slice::from_ref(&rule))));
    }

    #[test]
    fn an_empty_list_is_everything() {
        let rule = |peers: Vec<Peer>, ports: Vec<PolicyPort>| Rule { peers, ports };
        let all = rule(vec![], vec![]);
        let one = rule(
            vec![block("10.0.0.0/8", &[])],
            vec![tcp(PortMatch::Range(1, 1))],
        );
        assert!(Within::new().rule(&one, &all));
        assert!(!Within::new().rule(&all, &one));
        assert!(Within::new().some_rule(&one, &Wide::new(&[all.clone(), one.clone()])));
        assert!(!Within::new().some_rule(&all, &Wide::new(&[one])));
    }
}
