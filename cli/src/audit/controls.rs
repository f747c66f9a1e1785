//! What findings mean for the controls that auditors ask for.
//!
//! | control | fails by | cannot be assessed |
//! | --- | --- | --- |
//! | CIS 5.3.1 | - | from objects: whether the CNI enforces is proved by running agents |
//! | CIS 5.3.2 | a namespace with pods and without any policy (NP001); any policy meets it | without pods, or without NP001 |
//! | NIST, CWE | a live finding of medium severity or worse of a lint that names the control | without pods, or where a lint that names it was left out |
//!
//! Lower findings are observations: they are hygiene, and not the control's failure. A finding that is accepted with a
//! reason is an exception: it does not fail the control, and is counted beside it. A known finding (baseline) fails it.

use std::collections::BTreeMap;

use polproof_policy::lint::{LINTS, Lint, Severity};
use serde::Serialize;

use super::baseline::Identity;
use super::report::Report;

/// How a control stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Status {
    /// Nothing speaks against it.
    Pass,
    /// Findings do.
    Fail,
    /// The objects cannot say.
    NotAssessed,
}

impl Status {
    /// In words.
    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::NotAssessed => "not assessed",
        }
    }
}

/// A control.
#[derive(Debug, Serialize)]
pub(super) struct Control {
    /// `CIS 5.3.2`.
    pub(super) id: &'static str,
    /// The same one in other editions.
    pub(super) also: &'static [&'static str],
    pub(super) title: &'static str,
    pub(super) status: Status,
    /// What decides, and for one that is not assessed what would answer it.
    pub(super) reading: String,
    /// The lints that decide.
    pub(super) lints: Vec<&'static str>,
    /// How many findings fail it.
    pub(super) failing: usize,
    /// Lower findings.
    pub(super) observations: usize,
    /// Findings that are accepted with a reason.
    pub(super) exceptions: usize,
    /// Those that fail it.
    pub(super) findings: Vec<Identity>,
    /// By namespace, where the control is about namespaces.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) namespaces: BTreeMap<String, Status>,
}

struct Definition {
    id: &'static str,
    also: &'static [&'static str],
    title: &'static str,
    by: By,
}

enum By {
    /// Running agents, not objects.
    Proof,
    /// Namespaces without any policy.
    Namespaces,
    /// Lints that name it.
    References,
}

const DEFINITIONS: [Definition; 6] = [
    Definition {
        id: "CIS 5.3.1",
        also: &[],
        title: "the CNI in use supports NetworkPolicies",
        by: By::Proof,
    },
    Definition {
        id: "CIS 5.3.2",
        also: &["CIS EKS 4.3.2"],
        title: "all namespaces have NetworkPolicies defined",
        by: By::Namespaces,
    },
    Definition {
        id: "NIST SC-7",
        also: &[],
        title: "boundary protection",
        by: By::References,
    },
    Definition {
        id: "NIST SC-7(5)",
        also: &[],
        title: "deny by default, allow by exception",
        by: By::References,
    },
    Definition {
        id: "NIST AC-4",
        also: &[],
        title: "information flow enforcement",
        by: By::References,
    },
    Definition {
        id: "CWE-284",
        also: &[],
        title: "improper access control",
        by: By::References,
    },
];

/// The lint that decides CIS 5.3.2.
const NO_POLICY: &str = "NP001";
/// A policy that selects no pod: among policies alone, all of them are such, and it says nothing.
const SELECTS_NOTHING: &str = "NP030";

/// Assesses each control.
pub(super) fn assess(report: &Report) -> Vec<Control> {
    let assessed = DEFINITIONS.iter().map(|definition| match definition.by {
        By::Proof => proof(definition),
        By::Namespaces => namespaces(definition, report),
        By::References => references(definition, report),
    });
    assessed.collect()
}

fn proof(definition: &Definition) -> Control {
    Control {
        id: definition.id,
        also: definition.also,
        title: definition.title,
        status: Status::NotAssessed,
        reading: "objects do not say whether anything enforces them; `polproof status` shows what was proved on each node"
            .to_owned(),
        lints: Vec::new(),
        failing: 0,
        observations: 0,
        exceptions: 0,
        findings: Vec::new(),
        namespaces: BTreeMap::new(),
    }
}

fn namespaces(definition: &Definition, report: &Report) -> Control {
    let mut control = by_lints(definition, report, Severity::Info, |lint| {
        lint.id == NO_POLICY
    });
    let mut by_namespace = BTreeMap::new();
    for posture in report.namespaces.iter().filter(|of| of.governed_pods > 0) {
        let name = posture.namespace.to_string();
        let status = if posture.policies > 0 {
            Status::Pass
        } else if report.exempt_namespaces.contains(&name) {
            Status::NotAssessed
        } else {
            Status::Fail
        };
        by_namespace.insert(name, status);
    }
    for accepted in &report.suppressed_findings {
        if accepted.id.lint == NO_POLICY {
            by_namespace.insert(accepted.id.subject.clone(), Status::Pass);
        }
    }
    control.namespaces = by_namespace;
    if control.status != Status::NotAssessed {
        "a namespace with pods must have at least one NetworkPolicy, whatever that allows; the stricter reading is SC-7(5)"
            .clone_into(&mut control.reading);
        if !report.exempt_namespaces.is_empty() {
            control.reading.push_str("; exempt by option: ");
            control
                .reading
                .push_str(&report.exempt_namespaces.join(", "));
        }
    }
    control
}

fn references(definition: &Definition, report: &Report) -> Control {
    by_lints(definition, report, Severity::Medium, |lint| {
        lint.references.iter().any(|of| names(of, definition.id))
    })
}

/// Whether a reference of a lint is to this control: `NIST SC-7` and `NIST SC-7 (availability)` are, `NIST SC-7(5)` is not.
fn names(reference: &str, control: &str) -> bool {
    reference
        .strip_prefix(control)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
}

fn by_lints(
    definition: &Definition,
    report: &Report,
    from: Severity,
    is_evidence: impl Fn(&Lint) -> bool,
) -> Control {
    let lints: Vec<_> = LINTS.iter().filter(|lint| is_evidence(lint)).collect();
    let of = |id: &Identity| lints.iter().any(|lint| lint.id == id.lint);
    let live = report.findings.iter().filter(|finding| of(&finding.id));
    let pods = report.counts.of.governed_pods > 0;
    let (failing, lower): (Vec<_>, Vec<_>) = live.partition(|finding| {
        finding.severity >= from && (pods || finding.id.lint != SELECTS_NOTHING)
    });
    let accepted = report.suppressed_findings.iter();
    let exceptions = accepted.filter(|finding| of(&finding.id)).count();
    let left_out: Vec<_> = lints
        .iter()
        .filter(|lint| !report.lints.iter().any(|ran| ran.id == lint.id))
        .map(|lint| lint.id)
        .collect();
    let (status, reading) = if !failing.is_empty() {
        let reading = "fails by the findings of medium severity or worse that refer to it; lower ones are observations";
        (Status::Fail, reading.to_owned())
    } else if !left_out.is_empty() {
        let reading = format!(
            "{} was not looked at: leave out --lint and --skip",
            left_out.join(", ")
        );
        (Status::NotAssessed, reading)
    } else if !pods {
        let reading = "there are no pods here that policies can govern; audit the cluster, or add its workloads";
        (Status::NotAssessed, reading.to_owned())
    } else {
        let reading =
            "no finding of medium severity or worse refers to it; lower ones are observations";
        (Status::Pass, reading.to_owned())
    };
    Control {
        id: definition.id,
        also: definition.also,
        title: definition.title,
        status,
        reading,
        lints: lints.iter().map(|lint| lint.id).collect(),
        failing: failing.len(),
        observations: lower.len(),
        exceptions,
        findings: failing.iter().map(|finding| finding.id.clone()).collect(),
        namespaces: BTreeMap::new(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::audit::sample;

    fn status(report: &Report, id: &str) -> Status {
        let controls = assess(report);
        controls.iter().find(|of| of.id == id).unwrap().status
    }

    #[test]
    fn a_reference_is_not_taken_for_its_enhancement() {
        assert!(names("NIST SC-7", "NIST SC-7") && names("NIST SC-7 (availability)", "NIST SC-7"));
        assert!(!names("NIST SC-7(5)", "NIST SC-7") && !names("NIST SC-70", "NIST SC-7"));
    }

    #[test]
    fn objects_never_say_that_a_cni_enforces() {
        for report in [sample::empty(), sample::clean(), sample::full()] {
            assert_eq!(status(&report, "CIS 5.3.1"), Status::NotAssessed);
        }
    }

    #[test]
    fn without_pods_nothing_passes() {
        for control in assess(&sample::empty()) {
            assert_eq!(control.status, Status::NotAssessed, "{}", control.id);
        }
    }

    #[test]
    fn a_clean_cluster_passes() {
        for control in assess(&sample::clean()).iter().skip(1) {
            assert_eq!(control.status, Status::Pass, "{}", control.id);
        }
    }

    #[test]
    fn a_namespace_without_policies_fails_the_benchmark_by_name() {
        let controls = assess(&sample::full());
        let cis = controls.iter().find(|of| of.id == "CIS 5.3.2").unwrap();
        assert_eq!((cis.status, cis.failing), (Status::Fail, 1));
        assert_eq!(cis.lints, ["NP001"]);
        assert_eq!(cis.namespaces.get("legacy"), Some(&Status::Fail));
        assert_eq!(cis.namespaces.get("shop"), Some(&Status::Pass));
        let accepted = "sandbox has an accepted finding: an exception, and no failure";
        assert_eq!(
            cis.namespaces.get("sandbox"),
            Some(&Status::Pass),
            "{accepted}"
        );
        assert_eq!(cis.exceptions, 1, "{accepted}");
    }

    #[test]
    fn a_lint_that_was_left_out_leaves_its_control_open() {
        let mut report = sample::clean();
        report.lints.retain(|lint| lint.id != "NP001");
        assert_eq!(status(&report, "CIS 5.3.2"), Status::NotAssessed);
    }
}
