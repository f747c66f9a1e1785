//! The matrix as JSON and YAML.

use std::collections::BTreeMap;

use polproof_policy::connectivity::{Access, Cell, Connectivity, EndKind, OwnNode, Ports, Segment};
use serde::Serialize;

use super::filter::Wanted;
use super::{Found, names};
use crate::args::Matrix as Options;

/// `polproof matrix -o json`.
#[derive(Debug, Serialize)]
pub(super) struct Matrix {
    /// Where the objects come from.
    source: String,
    /// `workload`, `namespace`, `pod`.
    by: &'static str,
    /// What pairs that are not listed come to: `deny`; null if --only or --port left pairs out.
    unlisted: Option<&'static str>,
    /// Pairs of different ends.
    totals: Totals,
    /// Every end.
    ends: Vec<End>,
    /// Every source to every destination of an item; a name in both stands for its pods among each other.
    connections: Vec<Connection>,
    /// hostNetwork workloads and the pods on the same node, which differ from those on others.
    own_node: Vec<Connection>,
}

#[derive(Debug, Serialize)]
struct Totals {
    pairs: u64,
    /// Every port is allowed.
    all_ports: u64,
    /// Some are.
    some_ports: u64,
    /// None is for sure, and some are left open by the API.
    unknown: u64,
    /// None.
    none: u64,
}

/// An end.
#[derive(Debug, Serialize)]
pub(crate) struct End {
    /// How it is named elsewhere in this document.
    pub(crate) name: String,
    /// `pods`, `host_network`, `outside`.
    pub(crate) kind: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) namespace: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) workload_kind: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) workload: String,
    /// Outside: the block.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) block: Option<String>,
    /// Outside: blocks within it that are ends of their own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) except: Vec<String>,
    /// Living pods.
    pub(crate) pods: usize,
}

impl From<&polproof_policy::connectivity::End> for End {
    fn from(end: &polproof_policy::connectivity::End) -> Self {
        Self {
            name: end.to_string(),
            kind: match end.kind {
                EndKind::Pods => "pods",
                EndKind::HostNetwork => "host_network",
                EndKind::Outside => "outside",
            },
            namespace: end.namespace.to_string(),
            workload_kind: end.owner.to_string(),
            workload: end.name.to_string(),
            block: end.block.map(|net| net.to_string()),
            except: end.except.iter().map(ToString::to_string).collect(),
            pods: end.pods.len(),
        }
    }
}

#[derive(Debug, Serialize)]
struct Connection {
    sources: Vec<String>,
    destinations: Vec<String>,
    verdicts: Vec<Verdict>,
}

/// What holds for some ports.
#[derive(Debug, Serialize)]
pub(crate) struct Verdict {
    /// `IPv4`, `IPv6`.
    pub(crate) families: Vec<&'static str>,
    /// `TCP`, `UDP`, `SCTP`.
    pub(crate) protocol: String,
    /// The first port.
    pub(crate) first_port: u16,
    /// The last port.
    pub(crate) last_port: u16,
    #[serde(flatten)]
    pub(crate) access: Verdictual,
}

/// A verdict with what belongs to it.
#[derive(Debug, Serialize)]
pub(crate) struct Verdictual {
    /// `allow`, `deny`, `unknown`, `mixed`.
    pub(crate) verdict: &'static str,
    /// Of unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    /// Of mixed: pairs of pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pod_pairs: Option<Pairs>,
}

/// Pairs of pods.
#[derive(Debug, Serialize)]
pub(crate) struct Pairs {
    allow: u64,
    deny: u64,
    unknown: u64,
}

impl From<&Access> for Verdictual {
    fn from(access: &Access) -> Self {
        Self {
            verdict: names::word(access),
            reason: match access {
                Access::Unknown(reason) => Some(reason.to_string()),
                Access::Allow | Access::Deny | Access::Mixed(_) => None,
            },
            pod_pairs: match access {
                Access::Mixed(of) => Some(Pairs {
                    allow: of.allow,
                    deny: of.deny,
                    unknown: of.unknown,
                }),
                Access::Allow | Access::Deny | Access::Unknown(_) => None,
            },
        }
    }
}

/// A cell, segment by segment and families of one verdict together.
pub(super) fn rows(
    matrix: &Connectivity,
    wanted: &Wanted,
    cell: &Cell,
) -> Vec<(Vec<&'static str>, Segment)> {
    let mut rows = Vec::new();
    for (families, ports) in matrix.verdicts(cell) {
        let families: Vec<_> = families.into_iter().map(names::family).collect();
        let segments = wanted.segments(&ports);
        rows.extend(segments.into_iter().map(|of| (families.clone(), of)));
    }
    rows
}

impl Matrix {
    pub(super) fn of(found: &mut Found, options: &Options) -> Self {
        let wanted = &found.wanted;
        let name = |matrix: &Connectivity, ends: &[usize]| -> Vec<String> {
            let ends = ends.iter().filter_map(|end| matrix.ends().get(*end));
            ends.map(ToString::to_string).collect()
        };
        let verdicts = |matrix: &Connectivity, cell: &Cell| -> Vec<Verdict> {
            let rows = rows(matrix, wanted, cell).into_iter();
            rows.map(|(families, of)| Verdict {
                families,
                protocol: of.protocol.to_string(),
                first_port: of.first,
                last_port: of.last,
                access: Verdictual::from(&of.access),
            })
            .collect()
        };
        let near = own_node(&mut found.matrix, wanted);
        let matrix = &found.matrix;
        let connections = found.connections.iter();
        Self {
            source: found.name.clone(),
            by: match options.by {
                crate::args::By::Workload => "workload",
                crate::args::By::Namespace => "namespace",
                crate::args::By::Pod => "pod",
            },
            unlisted: (options.only.is_none() && options.port.is_none()).then_some("deny"),
            totals: Totals {
                pairs: found.totals.pairs,
                all_ports: found.totals.all,
                some_ports: found.totals.some,
                unknown: found.totals.unknown,
                none: found.totals.none,
            },
            ends: matrix.ends().iter().map(End::from).collect(),
            connections: connections
                .map(|of| Connection {
                    sources: name(matrix, &of.sources),
                    destinations: name(matrix, &of.destinations),
                    verdicts: verdicts(matrix, &of.cell),
                })
                .collect(),
            own_node: near
                .iter()
                .map(|(sources, destinations, cell)| Connection {
                    sources: name(matrix, sources),
                    destinations: name(matrix, destinations),
                    verdicts: verdicts(matrix, cell),
                })
                .collect(),
        }
    }
}

/// Pairs on one node, those of one source and one verdict together: (sources, destinations, verdict).
pub(super) fn own_node(
    matrix: &mut Connectivity,
    wanted: &Wanted,
) -> Vec<(Vec<usize>, Vec<usize>, Cell)> {
    let ends = matrix.ends().to_vec();
    let pairs = matrix.own_node(|source, destination| wanted.pair(source, destination, &ends));
    let keeps = |cell: &Cell| {
        let mut verdicts = matrix.verdicts(cell).into_iter();
        verdicts.any(|(_, ports): (_, std::sync::Arc<Ports>)| wanted.keeps(&ports, |_| true))
    };
    let mut by_source: BTreeMap<(usize, Cell), Vec<usize>> = BTreeMap::new();
    for OwnNode {
        source,
        destination,
        cell,
    } in pairs
    {
        if keeps(&cell) {
            by_source
                .entry((source, cell))
                .or_default()
                .push(destination);
        }
    }
    let mut folded: BTreeMap<(Vec<usize>, Cell), Vec<usize>> = BTreeMap::new();
    for ((source, cell), destinations) in by_source {
        folded.entry((destinations, cell)).or_default().push(source);
    }
    folded
        .into_iter()
        .map(|((destinations, cell), sources)| (sources, destinations, cell))
        .collect()
}
