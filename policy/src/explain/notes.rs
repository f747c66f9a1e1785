//! What is worth knowing of an end beside the walk: policies that are not evaluated, and policies that miss it by a slip.

use super::labels::Whose;
use super::words::Words;
use crate::evaluate::Expectation;
use crate::model::{Direction, ForeignKind};

/// The most notes of one sort.
const MOST: usize = 3;

/// The notes on the end that `words` are about.
pub(super) fn notes(words: &Words<'_>, expectation: Expectation) -> Vec<String> {
    let mut notes = slips(words);
    notes.extend(foreign(words, expectation));
    notes.extend(refused(words, expectation));
    notes
}

/// Policies that would select the pod but for what looks like a slip of the keyboard.
fn slips(words: &Words<'_>) -> Vec<String> {
    let pod = &words.governed.pod;
    let name = format!("pod {}", pod.id);
    let whose = Whose::Pod(&pod.id.namespace, &name);
    words
        .snapshot
        .policies()
        .filter(|policy| {
            policy.id.namespace == pod.id.namespace
                && match words.direction {
                    Direction::Ingress => policy.isolates_ingress,
                    Direction::Egress => policy.isolates_egress,
                }
        })
        .filter_map(|policy| {
            let lack = words.census.lack(&policy.pod_selector, &pod.labels, whose);
            (lack.slips > 0 && lack.slips == lack.missing.len()).then(|| {
                format!(
                    "policy {} does not select it: {}",
                    policy.id,
                    lack.missing.join(" and ")
                )
            })
        })
        .take(MOST)
        .collect()
}

/// Policies of a CNI's own API that may select the pod.
fn foreign(words: &Words<'_>, expectation: Expectation) -> Vec<String> {
    let pod = &words.governed.pod;
    let found: Vec<String> = words
        .snapshot
        .foreign_policies_of(pod)
        .filter_map(|policy| {
            let effect = match words.direction {
                Direction::Ingress => policy.ingress,
                Direction::Egress => policy.egress,
            };
            let may = match expectation {
                Expectation::Allow if effect.may_block => "it may block this",
                Expectation::Deny if effect.may_admit => "it may let this through",
                Expectation::Unknown(_) if effect.may_admit || effect.may_block => {
                    "it may decide this"
                }
                Expectation::Allow | Expectation::Deny | Expectation::Unknown(_) => return None,
            };
            let kind = match policy.kind {
                ForeignKind::CalicoNetworkPolicy => "Calico's NetworkPolicy",
                ForeignKind::CalicoGlobalNetworkPolicy => "Calico's GlobalNetworkPolicy",
                ForeignKind::CiliumNetworkPolicy | ForeignKind::CiliumClusterwideNetworkPolicy => {
                    policy.kind.kind().name()
                }
            };
            let id = if policy.id.namespace.is_empty() {
                policy.id.name.to_string()
            } else {
                policy.id.to_string()
            };
            Some(format!(
                "{kind} {id} also selects pod {} and is not evaluated: {may}",
                pod.id
            ))
        })
        .collect();
    let more = found.len().saturating_sub(MOST);
    let mut notes: Vec<String> = found.into_iter().take(MOST).collect();
    if more > 0 {
        notes.push(format!("and {more} more of CNIs' own policies"));
    }
    notes
}

/// Policies that no API server would take, in the pod's namespace.
fn refused(words: &Words<'_>, expectation: Expectation) -> Option<String> {
    let namespace = &words.governed.pod.id.namespace;
    let names = words.snapshot.store.refused.of(namespace);
    // The sentence of an open verdict has them already.
    if names.is_empty() || matches!(expectation, Expectation::Unknown(_)) {
        return None;
    }
    let shown: Vec<_> = names
        .iter()
        .take(MOST)
        .map(|name| format!("{namespace}/{name}"))
        .collect();
    let more = match names.len().saturating_sub(MOST) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Some(format!(
        "left out because no API server would take it: policy {}{more}",
        shown.join(", ")
    ))
}
