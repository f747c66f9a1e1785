//! The answer of an audit, as every output tells it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use polproof_cluster::{Origin, Origins, SourceKind, View};
use polproof_policy::lint::suppress::{Place, Sorted};
use polproof_policy::lint::{self, Finding, LINTS, Lint, Posture, Severity, Summary};
use polproof_policy::model::{Kind, NamespacedName};
use serde::Serialize;

use super::baseline::{Baseline, Identity};
use super::controls::{self, Control};
use super::scope::Scope;
use crate::source::Loaded;

/// What a report is made of.
pub(super) struct Taken<'a> {
    pub(super) loaded: &'a Loaded,
    pub(super) summary: Summary,
    pub(super) postures: Vec<Posture>,
    pub(super) sorted: Sorted,
    pub(super) scope: &'a Scope,
    pub(super) exempt: &'a [String],
    pub(super) baseline: Option<&'a Baseline>,
    pub(super) fail_on: Option<Severity>,
}

/// Everything, in the form of `-o json`. Its names are part of the product's interface.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// `X NetworkPolicies found across Y namespaces`.
    pub(super) summary: String,
    pub(super) source: Source,
    /// The namespaces that were asked for; empty: all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) only_namespaces: Vec<String>,
    pub(super) counts: Counts,
    /// The severity from which on a finding fails; absent: none does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) fail_on: Option<Severity>,
    /// What the reader should know of this audit before believing it.
    pub(super) notes: Vec<String>,
    pub(super) namespaces: Vec<Posture>,
    /// The live ones: counting them is safe.
    pub(super) findings: Vec<Reported>,
    /// How many are in `suppressed_findings`.
    pub(super) suppressed: usize,
    pub(super) suppressed_findings: Vec<Reported>,
    /// Suppressions that suppress nothing.
    #[serde(rename = "ineffective_suppressions")]
    pub(super) ineffective: Vec<Ineffective>,
    /// Of the baseline, what is found no more.
    pub(super) resolved: Vec<Identity>,
    pub(super) controls: Vec<Control>,
    /// The lints that looked.
    #[serde(rename = "lints", serialize_with = "ids")]
    pub(super) lints: Vec<&'static Lint>,
    /// Namespaces that an option takes NP001 to NP004 off.
    pub(super) exempt_namespaces: Vec<String>,
    /// Kinds in the files that mean nothing to the engine.
    pub(super) passed_over: BTreeMap<String, usize>,
    /// Whether known findings are told from new ones.
    #[serde(skip)]
    pub(super) has_baseline: bool,
    /// When. Not in the output for programs, which is the same for the same objects.
    #[serde(skip)]
    pub(super) at: Timestamp,
}

fn ids<S: serde::Serializer>(lints: &[&'static Lint], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(lints.iter().map(|lint| lint.id))
}

/// What was read.
#[derive(Debug, Serialize)]
pub(super) struct Source {
    /// `manifests` or `cluster`.
    pub(super) kind: &'static str,
    /// A path, `standard input`, `cluster (context prod)`.
    pub(super) name: String,
}

/// How many.
#[derive(Debug, Default, Serialize)]
pub(super) struct Counts {
    #[serde(flatten)]
    pub(super) of: Summary,
    pub(super) findings: BySeverity,
    pub(super) suppressed: usize,
    /// Of the live ones, those that the baseline has.
    pub(super) known: usize,
    pub(super) resolved: usize,
    /// Those that make the command fail.
    pub(super) failing: usize,
}

/// Live findings by severity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct BySeverity {
    pub(super) high: usize,
    pub(super) medium: usize,
    pub(super) low: usize,
    pub(super) info: usize,
    pub(super) total: usize,
}

impl BySeverity {
    /// Counts.
    pub(super) fn of<'a>(findings: impl IntoIterator<Item = &'a Reported>) -> Self {
        let mut counts = Self::default();
        for finding in findings {
            counts.total += 1;
            match finding.severity {
                Severity::High => counts.high += 1,
                Severity::Medium => counts.medium += 1,
                Severity::Low => counts.low += 1,
                Severity::Info => counts.info += 1,
            }
        }
        counts
    }
}

impl fmt::Display for BySeverity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.total == 0 {
            return f.write_str("no findings");
        }
        let of = [
            (self.high, "high"),
            (self.medium, "medium"),
            (self.low, "low"),
            (self.info, "info"),
        ];
        let parts: Vec<_> = of
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, name)| format!("{count} {name}"))
            .collect();
        write!(
            f,
            "{} ({})",
            plural(self.total, "finding"),
            parts.join(", ")
        )
    }
}

impl Counts {
    /// The live findings, for a sentence.
    pub(super) fn live(&self) -> String {
        self.findings.to_string()
    }
}

/// A finding, told.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Reported {
    #[serde(flatten)]
    pub(super) id: Identity,
    pub(super) severity: Severity,
    pub(super) title: &'static str,
    pub(super) message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) suggest: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) by: Option<&'static str>,
    pub(super) object: ObjectName,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) workload: Option<Workload>,
    pub(super) policies: Vec<String>,
    pub(super) references: &'static [&'static str],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) location: Option<Location>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) suppressed: Option<Accepted>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) known: bool,
}

impl Reported {
    /// The namespace that it lies in, if any.
    pub(super) fn namespace(&self) -> Option<&str> {
        match self.object.kind {
            "Namespace" => Some(&self.object.name),
            _ => self.object.namespace.as_deref(),
        }
    }

    /// Whether it makes the command fail.
    pub(super) fn fails(&self, from: Option<Severity>) -> bool {
        !self.known && self.suppressed.is_none() && from.is_some_and(|from| self.severity >= from)
    }
}

/// The object to look at.
#[derive(Clone, Debug, Serialize)]
pub(super) struct ObjectName {
    pub(super) kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) namespace: Option<String>,
    pub(super) name: String,
}

/// The workload of a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct Workload {
    pub(super) kind: Arc<str>,
    pub(super) name: Arc<str>,
}

/// Where the object stands.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Location {
    pub(super) file: String,
    pub(super) line: u64,
}

/// Why a finding does not count.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Accepted {
    pub(super) reason: String,
    pub(super) by: String,
    /// Beside the object, and not in a file of its own.
    #[serde(skip)]
    pub(super) in_source: bool,
}

/// A suppression that suppresses nothing.
#[derive(Debug, Serialize)]
pub(super) struct Ineffective {
    pub(super) by: String,
    pub(super) problem: String,
}

impl Report {
    /// Puts together what is asked for.
    pub(super) fn new(taken: Taken<'_>) -> Self {
        let Taken {
            loaded,
            summary,
            postures,
            sorted,
            scope,
            exempt,
            baseline,
            fail_on,
        } = taken;
        let view = &loaded.view;
        let places = Places::new(&view.origins);
        let wanted = |finding: &Finding| {
            let (kind, id) = &finding.object;
            scope.has_lint(finding.lint) && scope.has_object(*kind, id)
        };
        let mut findings: Vec<_> = sorted
            .live
            .into_iter()
            .filter(wanted)
            .map(|finding| reported(finding, &places))
            .collect();
        let suppressed: Vec<_> = sorted
            .suppressed
            .into_iter()
            .filter(|suppressed| wanted(&suppressed.finding))
            .map(|suppressed| Reported {
                suppressed: Some(Accepted {
                    reason: suppressed.reason,
                    in_source: matches!(suppressed.by, Place::Annotation(..)),
                    by: suppressed.by.to_string(),
                }),
                ..reported(suppressed.finding, &places)
            })
            .collect();
        let mut resolved = Vec::new();
        if let Some(baseline) = baseline {
            for finding in &mut findings {
                finding.known = baseline.has(&finding.id);
            }
            let all = findings.iter().chain(&suppressed);
            let found: BTreeSet<_> = all.map(|finding| finding.id.clone()).collect();
            let gone = baseline.without(&found);
            resolved.extend(gone.filter(|earlier| scope.has_earlier(earlier)).cloned());
        }
        let summary = if scope.is_part() {
            part(view, scope)
        } else {
            summary
        };
        let lints: Vec<_> = LINTS.iter().filter(|of| scope.has_lint(of.id)).collect();
        let namespaces: Vec<_> = postures
            .into_iter()
            .filter(|posture| scope.has_namespace(&posture.namespace))
            .collect();
        let counts = Counts {
            findings: BySeverity::of(&findings),
            suppressed: suppressed.len(),
            known: findings.iter().filter(|finding| finding.known).count(),
            resolved: resolved.len(),
            failing: findings.iter().filter(|of| of.fails(fail_on)).count(),
            of: summary,
        };
        let mut report = Self {
            summary: counts.of.to_string(),
            source: Source {
                kind: match view.source {
                    SourceKind::Kubernetes => "cluster",
                    SourceKind::Manifests => "manifests",
                },
                name: loaded.name.clone(),
            },
            only_namespaces: scope.namespaces().map(str::to_owned).collect(),
            notes: notes(view, &counts.of),
            counts,
            fail_on,
            namespaces,
            findings,
            suppressed: suppressed.len(),
            suppressed_findings: suppressed,
            ineffective: sorted
                .ineffective
                .into_iter()
                .map(|idle| Ineffective {
                    by: idle.by.to_string(),
                    problem: idle.problem,
                })
                .collect(),
            resolved,
            controls: Vec::new(),
            lints,
            exempt_namespaces: exempt.to_vec(),
            passed_over: loaded.ignored.clone(),
            has_baseline: baseline.is_some(),
            at: Timestamp::now(),
        };
        report.controls = controls::assess(&report);
        report
    }
}

/// Where objects stand. A namespace that no file defines stands where the first object in it does, for code scanning
/// shows nothing that has no line.
struct Places<'a> {
    origins: &'a Origins,
    namespaces: BTreeMap<&'a str, &'a Origin>,
}

impl<'a> Places<'a> {
    fn new(origins: &'a Origins) -> Self {
        let mut namespaces: BTreeMap<&str, &Origin> = BTreeMap::new();
        for ((_, id), origin) in origins {
            let first = namespaces.entry(&id.namespace).or_insert(origin);
            if (&origin.file, origin.line) < (&first.file, first.line) {
                *first = origin;
            }
        }
        Self {
            origins,
            namespaces,
        }
    }

    fn of(&self, object: &(Kind, NamespacedName)) -> Option<Location> {
        let namespace = || match object {
            (Kind::Namespace, id) => self.namespaces.get(&*id.name).copied(),
            _ => None,
        };
        self.origins
            .get(object)
            .or_else(namespace)
            .filter(|origin| origin.file != Path::new("-"))
            .map(|origin| Location {
                file: origin.file.display().to_string(),
                line: origin.line,
            })
    }
}

fn reported(finding: Finding, places: &Places<'_>) -> Reported {
    let location = places.of(&finding.object);
    let (kind, id) = finding.object;
    let lint = lint::lint(finding.lint);
    Reported {
        id: Identity {
            lint: finding.lint.to_owned(),
            subject: finding.subject,
        },
        severity: finding.severity,
        title: lint.map_or("", |lint| lint.title),
        message: finding.message,
        suggest: finding.suggest,
        by: finding.by,
        object: ObjectName {
            kind: kind.name(),
            namespace: (!id.namespace.is_empty()).then(|| id.namespace.to_string()),
            name: id.name.to_string(),
        },
        workload: finding.workload.map(|(kind, name)| Workload { kind, name }),
        policies: finding.policies,
        references: lint.map_or(&[], |lint| lint.references),
        location,
        suppressed: None,
        known: false,
    }
}

/// The summary of some namespaces.
fn part(view: &View, scope: &Scope) -> Summary {
    let snapshot = &view.snapshot;
    let mut summary = Summary::default();
    let mut namespaces = BTreeSet::new();
    let mut with_policies = BTreeSet::new();
    for policy in snapshot.policies() {
        let namespace = &policy.id.namespace;
        if scope.has_namespace(namespace) {
            summary.network_policies += 1;
            with_policies.insert(namespace);
            namespaces.insert(namespace);
        }
    }
    for pod in snapshot.pods().filter(|pod| !pod.finished) {
        if scope.has_namespace(&pod.id.namespace) {
            summary.governed_pods += usize::from(!pod.host_network);
            namespaces.insert(&pod.id.namespace);
        }
    }
    let objects = snapshot.namespaces().map(|namespace| &namespace.name);
    namespaces.extend(objects.filter(|name| scope.has_namespace(name)));
    // Cluster-scoped policies hold for these namespaces, too.
    let admin = snapshot.admin_policies().map(|of| of.kind.kind());
    let foreign = snapshot
        .foreign_policies()
        .filter(|of| of.id.namespace.is_empty() || scope.has_namespace(&of.id.namespace))
        .map(|of| of.kind.kind());
    for kind in admin.chain(foreign) {
        *summary.other_policies.entry(kind.name()).or_default() += 1;
    }
    let refused = view.refused.iter();
    summary.refused = refused
        .filter(|of| scope.has_object(of.key.kind, &of.key.id))
        .count();
    summary.namespaces = namespaces.len();
    summary.namespaces_with_policies = with_policies.len();
    summary
}

fn notes(view: &View, summary: &Summary) -> Vec<String> {
    let mut notes = Vec::new();
    let pods = view.snapshot.count(Kind::Pod);
    let nothing = pods == 0
        && Kind::ALL.iter().all(|kind| view.snapshot.count(*kind) == 0)
        && view.refused.is_empty();
    if nothing {
        notes.push(
            "nothing that polproof knows was found there: check that it is the right path, and that what printed it did \
             not fail"
                .to_owned(),
        );
    } else if pods == 0 {
        notes.push(
            "there are no pods and no workloads here: what depends on pods cannot be said, neither that all is well nor what \
             is wrong. That is which pods and namespaces lack a policy (NP001 to NP004), DNS and metadata services (NP020 to \
             NP022) and ports; and a selector that matches no pod (NP030, NP031) may be right. Add the manifests of the \
             workloads, or audit a cluster (--context)"
                .to_owned(),
        );
    } else if summary.governed_pods == 0 {
        notes.push(
            "there are no pods here that policies can govern (they are finished, or on the host network)".to_owned(),
        );
    }
    if let Some(problem) = &view.problem {
        notes.push(problem.clone());
    }
    notes
}

/// `1 pod`, `2 pods`.
pub(super) fn plural(count: usize, noun: &str) -> String {
    match (count, noun.strip_suffix('y')) {
        (1, _) => format!("1 {noun}"),
        (_, Some(stem)) => format!("{count} {stem}ies"),
        (_, None) => format!("{count} {noun}s"),
    }
}
