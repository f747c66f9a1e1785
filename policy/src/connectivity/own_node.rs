//! A pod and a hostNetwork pod on the same node. The node of a pod is let in whatever the policies say, so that these
//! pairs differ from all others of their workloads, and are told apart from them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Cell, Connectivity, EndKind, FAMILIES, address};

/// A pair of ends that have pods on one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnNode {
    /// End.
    pub source: usize,
    /// End.
    pub destination: usize,
    /// The verdict between pods on one node.
    pub cell: Cell,
}

/// End, and the classes of its pod by family.
type OnNode = (usize, [Option<usize>; 2]);

/// Pairs of classes with their numbers of pairs of pods.
type Counted = BTreeMap<(usize, usize), u64>;

impl Connectivity {
    /// The verdicts between hostNetwork pods and the pods of their nodes, for the wanted pairs of ends.
    pub fn own_node(&mut self, wanted: impl Fn(usize, usize) -> bool) -> Vec<OwnNode> {
        if !self.ends.iter().any(|end| end.kind == EndKind::HostNetwork) {
            return Vec::new();
        }
        let mut nodes: BTreeMap<Arc<str>, (Vec<OnNode>, Vec<OnNode>)> = BTreeMap::new();
        for (at, end) in self.ends.iter().enumerate() {
            for pod in &end.pods {
                let Some(node) = &pod.node else { continue };
                let (hosts, others) = nodes.entry(Arc::clone(node)).or_default();
                let classes = FAMILIES.map(|family| address(pod, family).map(|ip| (family, ip)));
                let classes = classes.map(|of| {
                    let (family, ip) = of?;
                    let parts = self.parts.get(at)?;
                    let parts = parts.get(usize::from(family == FAMILIES[1]))?;
                    // Most ends have one class, and there is nothing to look for.
                    match parts.as_slice() {
                        [(class, _)] => Some(*class),
                        _ => parts.iter().map(|(class, _)| *class).find(|class| {
                            self.classes.classes.get(*class).is_some_and(|class| {
                                class.members.iter().any(|member| {
                                    member.ip == ip
                                        && member.pod.as_ref().is_some_and(|of| of.uid == pod.uid)
                                })
                            })
                        }),
                    }
                });
                if end.kind == EndKind::HostNetwork {
                    hosts.push((at, classes));
                } else {
                    others.push((at, classes));
                }
            }
        }
        let mut pairs: BTreeMap<(usize, usize), [Counted; 2]> = BTreeMap::new();
        let mut count = |source: &OnNode, destination: &OnNode| {
            if !wanted(source.0, destination.0) {
                return;
            }
            let counts = pairs.entry((source.0, destination.0)).or_default();
            for ((from, to), counts) in source.1.iter().zip(&destination.1).zip(counts) {
                if let (Some(from), Some(to)) = (from, to) {
                    *counts.entry((*from, *to)).or_default() += 1;
                }
            }
        };
        for (hosts, others) in nodes.values() {
            for (at, host) in hosts.iter().enumerate() {
                for other in others {
                    count(host, other);
                    count(other, host);
                }
                let besides = hosts.iter().enumerate().filter(|(of, _)| *of != at);
                for (_, other) in besides {
                    count(host, other);
                }
            }
        }
        let mut found = Vec::with_capacity(pairs.len());
        for ((source, destination), counts) in pairs {
            let mut cell = Cell::default();
            for (counts, family) in counts.iter().zip(&mut cell.families) {
                let mut weighted = Vec::with_capacity(counts.len());
                for ((a, b), pairs) in counts {
                    let both = self
                        .classes
                        .both(&self.snapshot, &mut self.cells, *a, *b, true);
                    weighted.extend(both.map(|id| (id, *pairs)));
                }
                *family = self.cells.sum(&weighted);
            }
            if cell.is_some() {
                found.push(OwnNode {
                    source,
                    destination,
                    cell,
                });
            }
        }
        found
    }
}
