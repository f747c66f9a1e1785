//! Default-deny for namespaces that lack it (NP001, NP002, NP003).

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Draft;
use crate::lint::Audit;
use crate::model::{NamespacedName, NetworkPolicy, Selector, Uid, Written};

/// What a namespace lacks.
#[derive(Default)]
struct Lack {
    ingress: bool,
    egress: bool,
    findings: Vec<String>,
}

/// Whether there was any.
pub(super) fn add(audit: &Audit, draft: &mut Draft<'_>) -> bool {
    let mut lacking: BTreeMap<String, Lack> = BTreeMap::new();
    for finding in &audit.findings {
        let (ingress, egress) = match finding.lint {
            "NP001" => (true, true),
            "NP002" => (true, false),
            "NP003" => (false, true),
            _ => continue,
        };
        let egress = egress && draft.choice.egress;
        if !(ingress || egress) || !draft.choice.takes(&finding.subject) {
            continue;
        }
        let lack = lacking.entry(finding.subject.clone()).or_default();
        lack.ingress |= ingress;
        lack.egress |= egress;
        lack.findings
            .push(format!("{} {}", finding.lint, finding.subject));
    }
    let any = !lacking.is_empty();
    for (namespace, lack) in lacking {
        let (name, purpose) = match (lack.ingress, lack.egress) {
            (true, true) => ("default-deny", "nobody connects to or from its pods"),
            (true, false) => ("default-deny-ingress", "nobody connects to its pods"),
            (false, _) => ("default-deny-egress", "its pods connect to nobody"),
        };
        let purpose = format!("namespace {namespace}: {purpose} but by a rule of another policy");
        let policy = policy(&namespace, name, lack.ingress, lack.egress);
        draft.add(policy, purpose, lack.findings);
    }
    any
}

/// A policy without rules that isolates every pod of a namespace.
pub(super) fn policy(namespace: &str, name: &str, ingress: bool, egress: bool) -> NetworkPolicy {
    NetworkPolicy {
        id: NamespacedName::new(namespace, name),
        uid: Uid(Arc::from("")),
        generation: 0,
        pod_selector: Selector::default(),
        isolates_ingress: ingress,
        isolates_egress: egress,
        ingress: Vec::new(),
        egress: Vec::new(),
        written: Written {
            policy_types: true,
            ingress: false,
            egress: false,
        },
        annotations: Default::default(),
    }
}
