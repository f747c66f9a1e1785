//! The walk of the admin and the baseline tier.
//!
//! The verdict is the engine's; which rule matches is said here by the objects as written, so that a rule that passes a
//! connection on, or is never reached, can be shown, too.

use std::sync::Arc;

use super::words::{Miss, NO_POD, Port, WHOLE, Words};
use super::{PolicyExplanation, TierName};
use crate::evaluate::{End, SeenAs, rank};
use crate::model::{
    Action, AdminPeer, AdminPolicy, AdminPort, AdminRule, Direction, Labels, Pod, PortMatch,
    Selector, Subject, Tier,
};

/// What a tier comes to, by the objects as written.
pub(super) struct Walked {
    pub(super) policies: Vec<PolicyExplanation>,
    pub(super) came_to: CameTo,
}

/// How far the walk got.
pub(super) enum CameTo {
    /// There is no policy of this tier in the cluster.
    Empty,
    /// None selects the pod.
    NobodySelects(usize),
    /// Some select it, and no rule matches.
    NoMatch(usize),
    /// A rule matches.
    Rule {
        action: Action,
        /// `rule 0 "name" of AdminNetworkPolicy x`.
        rule: String,
    },
}

/// `rule 0 "name" of AdminNetworkPolicy x`.
pub(super) fn rule_name(policy: &AdminPolicy, direction: Direction, index: usize) -> String {
    let name = rules(policy, direction)
        .get(index)
        .and_then(|rule| rule.name.as_deref());
    rule_called(policy, index, name)
}

fn rule_called(policy: &AdminPolicy, index: usize, name: Option<&str>) -> String {
    let name = name.map(|name| format!(" {name:?}")).unwrap_or_default();
    format!(
        "rule {index}{name} of {} {}",
        policy.kind.kind().name(),
        policy.name
    )
}

fn rules(policy: &AdminPolicy, direction: Direction) -> &[AdminRule] {
    match direction {
        Direction::Ingress => &policy.ingress,
        Direction::Egress => &policy.egress,
    }
}

/// Walks a tier for the end that `words` are about.
pub(super) fn walk(words: &Words<'_>, tier: Tier) -> Walked {
    let of_tier: Vec<&Arc<AdminPolicy>> = words
        .snapshot
        .admin_policies()
        .filter(|policy| policy.tier == tier)
        .collect();
    let mut selecting: Vec<_> = of_tier
        .iter()
        .copied()
        .filter(|policy| subject(words, &policy.subject))
        .collect();
    selecting.sort_by_key(|policy| (rank(policy), policy.kind, Arc::clone(&policy.name)));
    let mut came_to = match (of_tier.len(), selecting.len()) {
        (0, _) => CameTo::Empty,
        (held, 0) => CameTo::NobodySelects(held),
        (_, selecting) => CameTo::NoMatch(selecting),
    };
    let mut policies = Vec::new();
    for policy in selecting {
        let mut lines = Vec::new();
        if matches!(came_to, CameTo::Rule { .. }) {
            lines.push("not reached".to_owned());
        } else if rules(policy, words.direction).is_empty() {
            lines.push(format!("it has no {} rules", words.direction));
        } else {
            for (index, rule) in rules(policy, words.direction).iter().enumerate() {
                let (line, matched) = words.admin_rule(index, rule);
                lines.push(line);
                if let Some(action) = matched {
                    came_to = CameTo::Rule {
                        action,
                        rule: rule_name(policy, words.direction, index),
                    };
                    break;
                }
            }
        }
        policies.push(PolicyExplanation {
            policy: policy.name.to_string(),
            kind: policy.kind.kind().name().to_owned(),
            tier: match tier {
                Tier::Admin => TierName::Admin,
                Tier::Baseline => TierName::Baseline,
            },
            priority: (policy.kind != crate::model::AdminKind::BaselineAdminNetworkPolicy)
                .then_some(policy.priority),
            rules: lines,
        });
    }
    Walked { policies, came_to }
}

fn subject(words: &Words<'_>, subject: &Subject) -> bool {
    let entry = words.governed;
    if entry.seen_as != SeenAs::Pod {
        return false;
    }
    let pod: &Pod = &entry.pod;
    let namespace = words.snapshot.namespace_labels(&pod.id.namespace);
    match subject {
        Subject::Namespaces(selector) => selector.matches(&namespace),
        Subject::Pods { namespaces, pods } => {
            namespaces.matches(&namespace) && pods.matches(&pod.labels)
        }
    }
}

const fn verb(action: Action) -> &'static str {
    match action {
        Action::Allow => "allows it",
        Action::Deny => "denies it",
        Action::Pass => "passes it on",
    }
}

impl Words<'_> {
    /// The line of one rule, and what it does if it matches.
    fn admin_rule(&self, index: usize, rule: &AdminRule) -> (String, Option<Action>) {
        let name = rule
            .name
            .as_deref()
            .map(|name| format!(" {name:?}"))
            .unwrap_or_default();
        let action = match rule.action {
            Action::Allow => "Allow",
            Action::Deny => "Deny",
            Action::Pass => "Pass",
        };
        let head = format!("rule {index}{name} ({action})");
        let names: Vec<_> = rule
            .ports
            .iter()
            .map(|port| match port {
                AdminPort::Of(_, _) => None,
                AdminPort::Named(name) => Some(PortMatch::Named(Arc::clone(name))),
            })
            .collect();
        let ports: Vec<Port<'_>> = rule
            .ports
            .iter()
            .zip(&names)
            .filter_map(|(port, named)| match (port, named) {
                (AdminPort::Of(protocol, port), _) => Some(Port {
                    protocol: Some(*protocol),
                    port,
                }),
                (AdminPort::Named(_), Some(port)) => Some(Port {
                    protocol: None,
                    port,
                }),
                (AdminPort::Named(_), None) => None,
            })
            .collect();
        let does = match rule.action {
            Action::Deny | Action::Pass if rule.fails_closed() => Action::Deny,
            action => action,
        };
        let port = self.ports(&ports).and_then(|text| {
            let numbered = |port: &Port<'_>| !matches!(port.port, PortMatch::Named(_));
            let by_number = ports.iter().any(|port| numbered(port) && self.port_matches(port));
            if ports.is_empty() || by_number || !matches!(self.destination, End::Host(_)) {
                return Ok(text);
            }
            Err(Miss::new(
                WHOLE,
                "the destination is on its node's network and counts as the node, which has no names for ports",
            ))
        });
        match (self.admin_peers(rule), port) {
            (Ok(peer), Ok(port)) => (format!("{head} {}: {peer}, {port}", verb(does)), Some(does)),
            (Err(miss), Ok(_)) | (Ok(_), Err(miss)) => {
                (format!("{head} does not match: {}", miss.text), None)
            }
            (Err(peer), Err(port)) => (
                format!("{head} does not match: {}, and {}", peer.text, port.text),
                None,
            ),
        }
    }

    fn admin_peers(&self, rule: &AdminRule) -> Result<String, Miss> {
        if rule.fails_closed() {
            return match rule.action {
                Action::Allow => Err(Miss::new(
                    NO_POD,
                    "one of its peers has no field that is known, so it allows nobody",
                )),
                Action::Deny | Action::Pass => Ok(
                    "everybody, to be on the safe side, as one of its peers has no field that is known"
                        .to_owned(),
                ),
            };
        }
        let mut nearest: Option<Miss> = None;
        for peer in &rule.peers {
            match self.admin_peer(peer) {
                Ok(matched) => return Ok(matched),
                Err(miss) => {
                    if nearest.as_ref().is_none_or(|n| miss.distance < n.distance) {
                        nearest = Some(miss);
                    }
                }
            }
        }
        Err(nearest.unwrap_or_else(|| Miss::new(usize::MAX, "it has no peers")))
    }

    fn admin_peer(&self, peer: &AdminPeer) -> Result<String, Miss> {
        // A selector of pods is never about the policy's namespace: it has none.
        let own = Arc::from("");
        match peer {
            AdminPeer::Namespaces(namespaces) => self.selected(Some(namespaces), None, &own),
            AdminPeer::Pods { namespaces, pods } => {
                self.selected(Some(namespaces), Some(pods), &own)
            }
            AdminPeer::Nodes(selector) => self.node(selector),
            AdminPeer::Networks(networks) => {
                let mut nearest = None;
                for cidr in networks {
                    match self.block(cidr, &[]) {
                        Ok(matched) => return Ok(matched),
                        Err(miss) => nearest = nearest.or(Some(miss)),
                    }
                }
                Err(nearest.unwrap_or_else(|| Miss::new(NO_POD, "it names no network")))
            }
            AdminPeer::DomainNames(names) => {
                let listed: Vec<&str> = names.iter().take(3).map(|name| &**name).collect();
                Err(Miss::new(
                    1,
                    format!(
                        "what {} means at the moment is not known here",
                        listed.join(", ")
                    ),
                ))
            }
            AdminPeer::Unrecognised => Err(Miss::new(NO_POD, "it has no field that is known")),
        }
    }

    /// Whether the peer is a node, or a pod on its network, that a selector selects. One whose object is not known has no
    /// labels.
    fn node(&self, selector: &Selector) -> Result<String, Miss> {
        let name = match self.peer {
            End::Node(name) => Some(name),
            End::Host(entry) => entry.pod.node.as_deref(),
            End::Pod(_) | End::External => return Err(Miss::new(NO_POD, "the peer is no node")),
        };
        let mut nodes = self.snapshot.nodes();
        let node = nodes.find(|node| Some(&*node.name) == name);
        let shown = match (name, node) {
            (Some(name), Some(_)) => format!("node {name}"),
            (Some(name), None) => format!("node {name}, which is not known,"),
            (None, _) => "its node, which is not known,".to_owned(),
        };
        let none = Labels::new();
        if selector.matches(node.map_or(&none, |node| &node.labels)) {
            Ok(format!("{shown} is one with {selector}"))
        } else {
            Err(Miss::new(4, format!("{shown} is none with {selector}")))
        }
    }
}
