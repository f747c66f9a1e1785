//! What a cell's findings are worth: found, rightly silent, missed or false.

use std::collections::{BTreeMap, BTreeSet};

use polproof_proto::v1::{FindingKind, InconclusiveReason};

use crate::cell::{Cell, Said};
use crate::expected::Expected;
use crate::facts::{Fact, brief};
use crate::findings::Found;

/// The verdict on a cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The finding that is right is there, and no other.
    Found(FindingKind),
    /// Nothing is to be found, and nothing was.
    Silent,
    /// The finding is not there, for one of these reasons; none: there is no excuse.
    Missed(FindingKind, Vec<InconclusiveReason>),
    /// Nothing may be found, since it cannot be known whose fault it is: for one of these reasons, which has to be told.
    Open(Vec<InconclusiveReason>),
    /// Findings are there that are wrong.
    False(Found),
}

/// Everything about one cell.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) enforcer: String,
    /// In which way it was tried, if not in the usual one.
    pub(crate) label: Option<&'static str>,
    pub(crate) topology: &'static str,
    pub(crate) cell: Cell,
    /// What the policies say when there is traffic.
    pub(crate) said: Said,
    pub(crate) facts: Vec<Fact>,
    /// Whether something else got through to the destination at that time, and was answered.
    pub(crate) way_open: bool,
    pub(crate) found: Found,
    pub(crate) verdict: Verdict,
}

impl Verdict {
    /// Of several reasons leaves those that were told of any cell of the group.
    pub(crate) fn keep_counted(&mut self, counted: &BTreeMap<InconclusiveReason, u64>) {
        if let Self::Missed(_, reasons) | Self::Open(reasons) = self {
            reasons.retain(|reason| counted.get(reason).is_some_and(|count| *count > 0));
        }
    }
}

/// Compares.
pub(crate) fn verdict(expected: &Expected, facts: &[Fact], found: &Found) -> Verdict {
    let reached: BTreeSet<&str> = facts
        .iter()
        .filter_map(|fact| Some(fact.arrived.as_ref()?.0.as_str()))
        .collect();
    let wrong: Found = found
        .iter()
        .filter(|(kind, destination)| {
            Some(*kind) != expected.right
                // Who is said to have been reached must have been.
                || *kind != FindingKind::OverBlocked && !reached.contains(destination.as_str())
        })
        .cloned()
        .collect();
    if !wrong.is_empty() {
        return Verdict::False(wrong);
    }
    match expected.right {
        None if expected.excuses.is_empty() => Verdict::Silent,
        None => Verdict::Open(expected.excuses.clone()),
        Some(kind) if found.is_empty() => Verdict::Missed(kind, expected.excuses.clone()),
        Some(kind) => Verdict::Found(kind),
    }
}

/// What is wrong with a group: false findings, misses without an excuse, and excuses that no counter bears out.
pub(crate) fn complaints(rows: &[Row], counted: &BTreeMap<InconclusiveReason, u64>) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut excused: BTreeMap<&[InconclusiveReason], u64> = BTreeMap::new();
    for row in rows {
        match &row.verdict {
            Verdict::Found(_) | Verdict::Silent => {}
            Verdict::False(found) => complaints.push(format!(
                "FALSE {}: {found:?}; {}",
                row.cell,
                brief(&row.facts)
            )),
            Verdict::Missed(kind, excuses) if excuses.is_empty() => complaints.push(format!(
                "MISSED {}: no {kind:?}; {}",
                row.cell,
                brief(&row.facts)
            )),
            Verdict::Missed(_, excuses) | Verdict::Open(excuses) => {
                *excused.entry(excuses).or_insert(0) += 1
            }
        }
    }
    for (reasons, misses) in excused {
        let count: u64 = reasons
            .iter()
            .map(|reason| counted.get(reason).copied().unwrap_or(0))
            .sum();
        if count < misses {
            complaints.push(format!(
                "MISSED {misses} cells that {reasons:?} would excuse, of which {count} were counted"
            ));
        }
    }
    complaints
}
