//! The matrix as a graph for Graphviz.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use polproof_policy::connectivity::{Access, EndKind};

use super::{Found, names};
use crate::failure::Failure;

/// More edges than this are no picture, and layouts take hours.
const MOST: usize = 20_000;

/// Workloads in their namespaces, an arrow where something is allowed or open.
pub(super) fn graph(found: &Found) -> Result<String, Failure> {
    let matrix = &found.matrix;
    let edges: usize = found
        .connections
        .iter()
        .map(|of| of.sources.len().saturating_mul(of.destinations.len()))
        .fold(0, usize::saturating_add);
    if edges > MOST {
        return Err(Failure::usage(format!(
            "{edges} connections are too many for a graph (at most {MOST}): narrow it with -n, --from, --to or --port, \
             or give --by namespace"
        )));
    }
    let mut lines = String::new();
    let mut present: BTreeSet<usize> = BTreeSet::new();
    for connection in &found.connections {
        let mut labels: Vec<String> = Vec::new();
        let mut sure = false;
        for (families, ports) in matrix.verdicts(&connection.cell) {
            let segments = found.wanted.segments(&ports);
            let only = if families.len() == 1 && matrix.verdicts(&connection.cell).len() > 1 {
                families
                    .iter()
                    .map(|of| format!("{}: ", names::family(*of)))
                    .collect()
            } else {
                String::new()
            };
            for (access, segments) in names::by_access(&segments) {
                if access == Access::Deny && found.wanted.only.is_none() {
                    continue;
                }
                sure |= access == Access::Allow;
                let word = match access {
                    Access::Allow => String::new(),
                    of => format!(" ({})", names::access(&of)),
                };
                labels.push(format!("{only}{}{word}", names::segments(&segments)));
            }
        }
        let style = if sure { "" } else { ", style=dashed" };
        let label = escaped(&labels.join("\n"));
        for source in &connection.sources {
            for destination in &connection.destinations {
                if source == destination && !super::csv::has_others(matrix, *source) {
                    continue;
                }
                present.extend([*source, *destination]);
                let _ = writeln!(
                    lines,
                    "  n{source} -> n{destination} [label=\"{label}\"{style}];"
                );
            }
        }
    }
    let mut clusters: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, end) in matrix.ends().iter().enumerate() {
        let wanted = found.wanted.pair(at, at, matrix.ends());
        if present.contains(&at) || wanted {
            clusters.entry(&end.namespace).or_default().push(at);
        }
    }
    let mut text = "digraph connectivity {\n  rankdir=LR;\n  node [shape=box, fontname=\"sans-serif\"];\n  edge [fontname=\"sans-serif\", fontsize=10];\n".to_owned();
    for (number, (namespace, ends)) in clusters.iter().enumerate() {
        let inside = !namespace.is_empty();
        if inside {
            let _ = writeln!(
                text,
                "  subgraph cluster_{number} {{\n    label=\"{}\";",
                escaped(namespace)
            );
        }
        for at in ends {
            let Some(end) = matrix.ends().get(*at) else {
                continue;
            };
            let name = end.to_string();
            let short = name.strip_prefix(&format!("{namespace}/")).unwrap_or(&name);
            let shape = match end.kind {
                EndKind::Pods => "",
                EndKind::HostNetwork => ", style=dashed",
                EndKind::Outside => ", shape=ellipse",
            };
            let indent = if inside { "    " } else { "  " };
            let _ = writeln!(text, "{indent}n{at} [label=\"{}\"{shape}];", escaped(short));
        }
        if inside {
            text.push_str("  }\n");
        }
    }
    text.push_str(&lines);
    text.push_str("}\n");
    Ok(text)
}

/// Text within double quotes.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '"' => safe.push_str("\\\""),
            '\\' => safe.push_str("\\\\"),
            '\n' => safe.push_str("\\n"),
            other if other.is_control() => {}
            other => safe.push(other),
        }
    }
    safe
}
