//! Findings that somebody has accepted, with the reason.
//!
//! ```text
//! annotations of the objects -\
//!                              sort: live findings | suppressed ones with their reasons | what suppressed nothing
//! rules of a file ------------/
//! ```
//!
//! A suppression without a reason suppresses nothing: an auditor asks why, and the person who knew is gone. One that is
//! expired, or that no finding matches (any more), is named: else it would hide the next finding of that name.

mod day;
mod written;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

pub use day::Day;
pub use written::{Rule, RuleProblem};

use super::Finding;
use crate::model::{Annotations, Kind, NamespacedName};
use crate::state::Snapshot;

/// The annotation of a NetworkPolicy, an admin policy, a pod or a namespace: `NP022: why; NP003: why`.
pub const ANNOTATION: &str = "polproof.io/suppress";

/// Where a suppression is written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// In the annotation of an object.
    Annotation(Kind, NamespacedName),
    /// In a file, which entry.
    File(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Annotation(kind, id) if id.namespace.is_empty() => {
                write!(f, "annotation of {} {}", kind.name(), id.name)
            }
            Self::Annotation(kind, id) => write!(f, "annotation of {} {id}", kind.name()),
            Self::File(entry) => f.write_str(entry),
        }
    }
}

/// A finding that is accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suppressed {
    /// The finding.
    pub finding: Finding,
    /// Why it is accepted.
    pub reason: String,
    /// Where that is written.
    pub by: Place,
}

/// A suppression that has no effect.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ineffective {
    /// Where it is written.
    pub by: Place,
    /// What is wrong with it, and what to do.
    pub problem: String,
}

/// Findings, parted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sorted {
    /// Those that nothing suppresses, in the order in which they came.
    pub live: Vec<Finding>,
    /// The others.
    pub suppressed: Vec<Suppressed>,
    /// Suppressions without a reason, expired ones, and those that match nothing.
    pub ineffective: Vec<Ineffective>,
}

/// What one annotation says of one lint.
struct Note {
    by: Place,
    /// Pods of one workload carry the same annotation: it has an effect if it has one on any of them.
    carrier: (Place, &'static str),
    lint: &'static str,
    reason: String,
}

/// Parts findings by the annotations of their objects and namespaces, and by the rules of a file. The nearest one gives
/// the reason: the object's own, the namespace's, the file's.
pub fn sort(findings: Vec<Finding>, snapshot: &Snapshot, rules: &[Rule], today: Day) -> Sorted {
    let mut sorted = Sorted::default();
    let notes = annotations(snapshot, &mut sorted.ineffective);
    let mut by_lint: BTreeMap<&str, Vec<(usize, &Rule)>> = BTreeMap::new();
    for (index, rule) in rules.iter().enumerate() {
        by_lint.entry(rule.lint).or_default().push((index, rule));
    }
    let mut effective = BTreeSet::new();
    let mut matched = BTreeSet::new();
    for finding in findings {
        let namespace = (Kind::Namespace, finding_namespace(&finding));
        let own = notes.get(&finding.object).into_iter().flatten();
        let namespaces = (namespace != finding.object)
            .then(|| notes.get(&namespace))
            .flatten();
        let mut why = None;
        for note in own.chain(namespaces.into_iter().flatten()) {
            if note.lint == finding.lint {
                effective.insert(&note.carrier);
                why.get_or_insert_with(|| (note.reason.clone(), note.by.clone()));
            }
        }
        for (index, rule) in by_lint.get(finding.lint).into_iter().flatten() {
            if rule.is_about(&finding.subject) {
                matched.insert(*index);
                if !rule.is_over(today) {
                    why.get_or_insert_with(|| (rule.reason.clone(), rule.by.clone()));
                }
            }
        }
        match why {
            Some((reason, by)) => sorted.suppressed.push(Suppressed {
                finding,
                reason,
                by,
            }),
            None => sorted.live.push(finding),
        }
    }
    let idle: BTreeMap<_, _> = notes
        .values()
        .flatten()
        .filter(|note| !effective.contains(&note.carrier))
        .map(|note| (&note.carrier, note))
        .collect();
    for note in idle.values() {
        sorted.ineffective.push(Ineffective {
            by: note.by.clone(),
            problem: format!(
                "suppresses {}, which is not found there (any more): remove it",
                note.lint
            ),
        });
    }
    for (index, rule) in rules.iter().enumerate() {
        if let Some(problem) = rule.idle(today, matched.contains(&index)) {
            let by = rule.by.clone();
            sorted.ineffective.push(Ineffective { by, problem });
        }
    }
    sorted
}

/// The namespace that a finding lies in, as a namespace is identified; of a cluster-scoped object one that is none.
fn finding_namespace(finding: &Finding) -> NamespacedName {
    let (kind, id) = &finding.object;
    match kind {
        Kind::Namespace => id.clone(),
        _ => NamespacedName::new("", Arc::clone(&id.namespace)),
    }
}

type Notes = BTreeMap<(Kind, NamespacedName), Vec<Note>>;

fn annotations(snapshot: &Snapshot, problems: &mut Vec<Ineffective>) -> Notes {
    let mut notes = Notes::new();
    let mut said = BTreeSet::new();
    let mut take = |kind: Kind, id: NamespacedName, carrier: NamespacedName, on: &Annotations| {
        let Some(text) = on.get(ANNOTATION) else {
            return;
        };
        let by = Place::Annotation(kind, id.clone());
        let carrier = Place::Annotation(kind, carrier);
        let list: &mut Vec<Note> = notes.entry((kind, id)).or_default();
        for entry in written::entries(text) {
            match entry {
                Ok((lints, reason)) => list.extend(lints.into_iter().map(|lint| Note {
                    by: by.clone(),
                    carrier: (carrier.clone(), lint),
                    lint,
                    reason: reason.clone(),
                })),
                // Once for all pods of a workload.
                Err(problem) if said.insert((carrier.clone(), problem.clone())) => {
                    let by = by.clone();
                    problems.push(Ineffective { by, problem });
                }
                Err(_) => {}
            }
        }
    };
    for namespace in snapshot.namespaces() {
        let id = NamespacedName::new("", Arc::clone(&namespace.name));
        take(Kind::Namespace, id.clone(), id, &namespace.annotations);
    }
    for policy in snapshot.policies() {
        let id = policy.id.clone();
        take(Kind::NetworkPolicy, id.clone(), id, &policy.annotations);
    }
    for policy in snapshot.admin_policies() {
        let id = NamespacedName::new("", Arc::clone(&policy.name));
        take(policy.kind.kind(), id.clone(), id, &policy.annotations);
    }
    for pod in snapshot.pods().filter(|pod| !pod.annotations.is_empty()) {
        let (kind, name) = pod.workload();
        let workload = NamespacedName::new(Arc::clone(&pod.id.namespace), format!("{kind} {name}"));
        take(Kind::Pod, pod.id.clone(), workload, &pod.annotations);
    }
    notes
}

#[cfg(test)]
mod tests;
