//! Ends and ports in words.

use std::collections::BTreeMap;

use polproof_policy::Family;
use polproof_policy::connectivity::{Access, End, EndKind, PROTOCOLS, Segment};

use crate::printable::printable;

/// Names before `and N more`.
const NAMED: usize = 3;

/// Many ends in few words: `everyone`, `shop/* (12)`, or names.
pub(crate) fn ends(all: &[End], some: &[usize], named: usize) -> String {
    let is_outside = |end: &End| end.kind == EndKind::Outside;
    let inside = all.iter().filter(|end| !is_outside(end)).count();
    let chosen: Vec<&End> = some.iter().filter_map(|end| all.get(*end)).collect();
    let chosen_inside = chosen.iter().filter(|end| !is_outside(end)).count();
    let mut words: Vec<String> = Vec::new();
    let whole = chosen_inside == inside && inside > 2;
    if whole {
        if chosen.len() == all.len() {
            return "everyone".to_owned();
        }
        words.push(format!("all {inside} workloads"));
    }
    let mut sizes: BTreeMap<&str, usize> = BTreeMap::new();
    for end in all.iter().filter(|end| !is_outside(end)) {
        *sizes.entry(&end.namespace).or_default() += 1;
    }
    let mut by_namespace: BTreeMap<&str, Vec<&End>> = BTreeMap::new();
    for end in chosen.iter().filter(|end| !is_outside(end)) {
        by_namespace.entry(&end.namespace).or_default().push(end);
    }
    if !whole {
        for (namespace, ends) in by_namespace {
            if ends.len() > 2 && sizes.get(namespace) == Some(&ends.len()) {
                words.push(format!("{namespace}/* ({})", ends.len()));
            } else {
                words.extend(ends.iter().map(ToString::to_string));
            }
        }
    }
    let outside: Vec<&&End> = chosen.iter().filter(|end| is_outside(end)).collect();
    let all_outside = all.iter().filter(|end| is_outside(end)).count();
    if outside.len() > 2 && outside.len() == all_outside {
        words.push("everything outside".to_owned());
    } else {
        words.extend(outside.iter().map(ToString::to_string));
    }
    let more = words.len().saturating_sub(named.max(1));
    words.truncate(named.max(1));
    let mut text = words.join(", ");
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    printable(text)
}

/// [`ends`] for a column of a table.
pub(crate) fn few(all: &[End], some: &[usize]) -> String {
    ends(all, some, NAMED)
}

/// `5432/TCP`, `8000-9000/TCP`, `all UDP`.
pub(crate) fn segment(of: &Segment) -> String {
    match (of.first, of.last) {
        (1, u16::MAX) => format!("all {}", of.protocol),
        (first, last) if first == last => format!("{first}/{}", of.protocol),
        (first, last) => format!("{first}-{last}/{}", of.protocol),
    }
}

/// Segments with one verdict: `all` if they are everything.
pub(crate) fn segments(of: &[Segment]) -> String {
    let whole = PROTOCOLS.iter().all(|protocol| {
        of.iter()
            .any(|of| of.protocol == *protocol && of.first == 1 && of.last == u16::MAX)
    });
    if whole {
        return "all".to_owned();
    }
    let words: Vec<String> = of.iter().map(segment).collect();
    words.join(", ")
}

/// `allow`, `deny`, `unknown: a pod to its own node`, `mixed: 2 of 6 pairs of pods allow`.
pub(crate) fn access(of: &Access) -> String {
    match of {
        Access::Allow => "allow".to_owned(),
        Access::Deny => "deny".to_owned(),
        Access::Unknown(reason) => format!("unknown: {reason}"),
        Access::Mixed(counts) => {
            let unknown = match counts.unknown {
                0 => String::new(),
                unknown => format!(", {unknown} unknown"),
            };
            format!(
                "mixed: {} of {} pairs of pods allow{unknown}",
                counts.allow,
                counts.total()
            )
        }
    }
}

/// The word of a verdict in JSON.
pub(crate) const fn word(of: &Access) -> &'static str {
    match of {
        Access::Allow => "allow",
        Access::Deny => "deny",
        Access::Unknown(_) => "unknown",
        Access::Mixed(_) => "mixed",
    }
}

/// `IPv4`.
pub(crate) const fn family(of: Family) -> &'static str {
    match of {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

/// Segments by verdict, in the order in which verdicts first appear; denials last.
pub(crate) fn by_access(segments: &[Segment]) -> Vec<(Access, Vec<Segment>)> {
    let mut found: Vec<(Access, Vec<Segment>)> = Vec::new();
    for segment in segments {
        match found
            .iter_mut()
            .find(|(access, _)| *access == segment.access)
        {
            Some((_, segments)) => segments.push(*segment),
            None => found.push((segment.access, vec![*segment])),
        }
    }
    found.sort_by_key(|(access, _)| *access == Access::Deny);
    found
}
