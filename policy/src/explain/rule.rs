//! One rule of a NetworkPolicy in words: what it admits, or what is nearest to being admitted.

use std::fmt;
use std::sync::Arc;

use super::words::{Miss, Port, Words};
use crate::evaluate::Admits;
use crate::model::{Direction, Peer, PolicyPort, PortMatch, Rule};

/// A rule in words.
pub(super) struct RuleWords {
    pub(super) line: String,
    /// How far it is from admitting, and what is missing, if it does not admit.
    pub(super) miss: Option<Miss>,
}

impl Words<'_> {
    /// The line of one rule.
    pub(super) fn rule(
        &self,
        index: usize,
        rule: &Rule,
        level: Admits,
        namespace: &Arc<str>,
    ) -> RuleWords {
        let ports: Vec<Port<'_>> = rule
            .ports
            .iter()
            .map(|port| Port {
                protocol: Some(port.protocol),
                port: &port.port,
            })
            .collect();
        let port = self.ports(&ports);
        let peer = self.peers(&rule.peers, namespace);
        let admits = |line| RuleWords { line, miss: None };
        match (level, port, peer) {
            (Admits::Sure, Ok(port), Ok(peer)) => {
                admits(format!("rule {index} admits: {peer}, {port}"))
            }
            (Admits::Sure, _, _) => admits(format!("rule {index} admits")),
            (Admits::Open, port, peer) => {
                let what: Vec<_> = [peer, port]
                    .into_iter()
                    .map(|part| part.unwrap_or_else(|miss| miss.text))
                    .collect();
                admits(format!(
                    "rule {index} admits on some CNIs only: {}",
                    what.join("; ")
                ))
            }
            (Admits::No, port, peer) => {
                let miss = match (peer.err(), port.err()) {
                    (Some(peer), Some(port)) => Miss::new(
                        peer.distance.saturating_add(port.distance),
                        format!("{}, and {}", peer.text, port.text),
                    ),
                    (Some(miss), None) | (None, Some(miss)) => miss,
                    (None, None) => {
                        return admits(format!("rule {index} does not admit it"));
                    }
                };
                RuleWords {
                    line: format!("rule {index} does not: {}", miss.text),
                    miss: Some(miss),
                }
            }
        }
    }

    fn peers(&self, peers: &[Peer], namespace: &Arc<str>) -> Result<String, Miss> {
        if peers.is_empty() {
            return Ok(match self.direction {
                Direction::Ingress => "from everyone".to_owned(),
                Direction::Egress => "to everyone".to_owned(),
            });
        }
        let mut nearest: Option<Miss> = None;
        let mut by_block = None;
        for peer in peers {
            let matched = match peer {
                Peer::IpBlock { cidr, except } => self.block(cidr, except),
                Peer::Pods { namespaces, pods } => {
                    self.selected(namespaces.as_ref(), pods.as_ref(), namespace)
                }
            };
            match matched {
                // A selector is the better reason: it holds on every CNI.
                Ok(matched) if matches!(peer, Peer::Pods { .. }) => return Ok(matched),
                Ok(matched) => by_block = by_block.or(Some(matched)),
                Err(miss) => {
                    if nearest.as_ref().is_none_or(|n| miss.distance < n.distance) {
                        nearest = Some(miss);
                    }
                }
            }
        }
        match (by_block, nearest) {
            (Some(matched), _) => Ok(matched),
            (None, Some(miss)) => Err(miss),
            (None, None) => Err(Miss::new(usize::MAX, "no peer matches")),
        }
    }
}

impl fmt::Display for PolicyPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.port {
            PortMatch::Any => write!(f, "any/{}", self.protocol),
            PortMatch::Range(first, last) if first == last => {
                write!(f, "{first}/{}", self.protocol)
            }
            PortMatch::Range(first, last) => write!(f, "{first}-{last}/{}", self.protocol),
            PortMatch::Named(name) => write!(f, "{name}/{}", self.protocol),
        }
    }
}
