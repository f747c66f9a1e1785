//! `polproof fix`: the manifests that remedy what audit finds.

mod folder;
mod kyverno;

use std::collections::BTreeMap;
use std::path::Path;

use polproof_policy::lint::{self, Audit, Finding, Input, Severity, suppress};
use polproof_policy::model::Kind;
use polproof_policy::remedy::{self, Choice, Edit, NewPolicy, Remedy};
use serde::Serialize;

use crate::args::{Fix as Options, Format};
use crate::audit::{scope, suppressions};
use crate::failure::{FINE, Failure};
use crate::output::{Screen, note};
use crate::source;

/// Namespaces of the cluster's own components: a default-deny there stops the cluster unless it is made with care.
const COMPONENTS: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];

/// Findings that are left and named.
const LEFT_SHOWN: usize = 10;

/// What `-o json` and `-o yaml` show.
#[derive(Serialize)]
struct Fixes {
    /// NetworkPolicies to be added.
    policies: Vec<New>,
    /// Corrections of NetworkPolicies that are there.
    patches: Vec<Patch>,
    /// Findings by severity before.
    before: BTreeMap<String, usize>,
    /// Findings by severity with all of it applied.
    after: BTreeMap<String, usize>,
    /// The findings that are left.
    left: Vec<Left>,
}

#[derive(Serialize)]
struct New {
    purpose: String,
    remedies: Vec<String>,
    manifest: serde_json::Value,
}

#[derive(Serialize)]
struct Patch {
    namespace: String,
    name: String,
    remedies: Vec<String>,
    /// A JSON patch (RFC 6902).
    operations: Vec<serde_json::Value>,
}

#[derive(Serialize)]
struct Left {
    lint: &'static str,
    subject: String,
    severity: Severity,
    message: String,
}

/// Writes what remedies the findings.
pub(crate) async fn run(options: &Options, screen: &Screen) -> Result<u8, Failure> {
    let choice = choice(options);
    if options.kyverno {
        screen.write(&kyverno::policy(&choice)?)?;
        return Ok(FINE);
    }
    let settings = scope::settings(&options.assumptions)?;
    let rules = match &options.suppressions {
        Some(path) => suppressions::read(path)?,
        None => Vec::new(),
    };
    let today = crate::audit::today()?;
    let loaded = source::load(options.path.as_deref(), &options.source).await?;
    source::note_refused(&loaded);
    let view = &loaded.view;
    scope::are_there(&choice.namespaces, view)?;
    let refused: Vec<lint::Refused> = source::refused(view);
    let input = Input {
        snapshot: &view.snapshot,
        refused: &refused,
    };
    let remedy = remedy::remedy(input, &settings, &choice, &|findings, snapshot| {
        suppress::sort(findings, snapshot, &rules, today).live
    });
    if let Some(folder) = &options.out {
        folder::write(folder, &remedy, options.force)?;
    } else if matches!(screen.format, Format::Json | Format::Yaml) {
        screen.document(&fixes(&remedy)?)?;
    } else {
        screen.write(&text(&remedy)?)?;
    }
    if view.snapshot.pods().next().is_none() {
        note(&format!(
            "there are no pods and no workloads in {}: what depends on them cannot be remedied; give what has them, too",
            loaded.name
        ));
    }
    report(&remedy, &choice, &loaded.name, options.out.as_deref());
    Ok(FINE)
}

fn choice(options: &Options) -> Choice {
    let namespaces: std::collections::BTreeSet<String> =
        options.namespaces.iter().cloned().collect();
    Choice {
        egress: !options.ingress_only,
        leave: COMPONENTS
            .iter()
            .map(|name| (*name).to_owned())
            .filter(|name| !namespaces.contains(name))
            .collect(),
        namespaces,
    }
}

/// A policy as YAML, without the comments.
fn yaml(new: &NewPolicy) -> Result<String, Failure> {
    serde_saphyr::to_string(&remedy::manifest(&new.policy))
        .map_err(|error| Failure::usage(format!("cannot write YAML: {error}")))
}

/// A stream that `kubectl apply -f -` takes; corrections are comments, because they are no objects.
fn text(remedy: &Remedy) -> Result<String, Failure> {
    let mut text = String::new();
    for new in &remedy.policies {
        text.push_str("---\n");
        text.push_str(&comment(&new.purpose, &new.remedies));
        text.push_str(&yaml(new)?);
    }
    for edit in &remedy.edits {
        text.push_str(&format!(
            "---\n{}# {}\n",
            comment(
                &format!("NetworkPolicy {}: corrected", edit.policy),
                &edit.remedies
            ),
            command(edit)?
        ));
    }
    Ok(text)
}

/// Why something is written, as lines of comment.
fn comment(purpose: &str, remedies: &[String]) -> String {
    let mut text = format!("# {purpose}\n");
    if !remedies.is_empty() {
        let shown: Vec<&str> = remedies
            .iter()
            .take(LEFT_SHOWN)
            .map(String::as_str)
            .collect();
        let more = match remedies.len().saturating_sub(LEFT_SHOWN) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        text.push_str(&format!("# remedies {}{more}\n", shown.join(", ")));
    }
    text
}

/// The correction as a command. Names and labels are of a character set without quotes.
fn command(edit: &Edit) -> Result<String, Failure> {
    let patch = serde_json::to_string(&edit.operations)
        .map_err(|error| Failure::usage(format!("cannot write JSON: {error}")))?;
    Ok(format!(
        "kubectl -n {} patch networkpolicy {} --type=json -p '{patch}'",
        edit.policy.namespace, edit.policy.name
    ))
}

fn fixes(remedy: &Remedy) -> Result<Fixes, Failure> {
    let policies: Result<Vec<New>, Failure> = remedy
        .policies
        .iter()
        .map(|new| {
            Ok(New {
                purpose: new.purpose.clone(),
                remedies: new.remedies.clone(),
                manifest: serde_json::to_value(remedy::manifest(&new.policy))
                    .map_err(|error| Failure::usage(format!("cannot write JSON: {error}")))?,
            })
        })
        .collect();
    let patches = remedy.edits.iter().map(|edit| Patch {
        namespace: edit.policy.namespace.to_string(),
        name: edit.policy.name.to_string(),
        remedies: edit.remedies.clone(),
        operations: edit.operations.clone(),
    });
    let left = remedy.after.findings.iter().map(|finding| Left {
        lint: finding.lint,
        subject: finding.subject.clone(),
        severity: finding.severity,
        message: finding.message.clone(),
    });
    Ok(Fixes {
        policies: policies?,
        patches: patches.collect(),
        before: counts(&remedy.before),
        after: counts(&remedy.after),
        left: left.collect(),
    })
}

fn counts(audit: &Audit) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for finding in &audit.findings {
        *counts.entry(finding.severity.to_string()).or_default() += 1;
    }
    counts
}

/// What a person should know, apart from the manifests.
fn report(remedy: &Remedy, choice: &Choice, source: &str, out: Option<&Path>) {
    let words = |audit: &Audit| {
        let counts = counts(audit);
        let words: Vec<String> = ["high", "medium", "low", "info"]
            .iter()
            .filter_map(|severity| {
                counts
                    .get(*severity)
                    .map(|count| format!("{count} {severity}"))
            })
            .collect();
        if words.is_empty() {
            "none".to_owned()
        } else {
            words.join(", ")
        }
    };
    if let Some(folder) = out {
        let how = if remedy.edits.is_empty() {
            ""
        } else {
            "; the corrections are patches of your own manifests: add those to the resources of its kustomization.yaml"
        };
        note(&format!("written to {}{how}", folder.display()));
    }
    note(&format!(
        "{} new NetworkPolicies, {} corrections for {source}; findings before: {}; with all of it applied: {}",
        remedy.policies.len(),
        remedy.edits.len(),
        words(&remedy.before),
        words(&remedy.after)
    ));
    let worth = |finding: &&Finding| finding.severity >= Severity::Medium;
    let left = remedy.after.findings.iter().filter(worth);
    let (taken, other): (Vec<_>, Vec<_>) =
        left.partition(|finding| choice.takes(namespace(finding)));
    for finding in taken.iter().take(LEFT_SHOWN) {
        note(&format!(
            "left: {} {} ({}): {}",
            finding.lint, finding.subject, finding.severity, finding.message
        ));
    }
    let more = taken.len().saturating_sub(LEFT_SHOWN);
    if more > 0 {
        note(&format!(
            "left: {more} more; `polproof audit` of the result lists them"
        ));
    }
    let mut alone: BTreeMap<&str, usize> = BTreeMap::new();
    let components = other.into_iter().map(namespace);
    for namespace in components.filter(|namespace| choice.leave.contains(*namespace)) {
        *alone.entry(namespace).or_default() += 1;
    }
    for (namespace, findings) in alone.iter().filter(|_| choice.namespaces.is_empty()) {
        note(&format!(
            "left alone: namespace {namespace} with {findings} {}: a default-deny there needs care; -n {namespace} writes it",
            if *findings == 1 {
                "finding"
            } else {
                "findings"
            }
        ));
    }
    if !remedy.policies.is_empty() {
        note(
            "a default-deny cuts every connection that no rule allows: hold `polproof diff` and `polproof matrix` against what \
             you know before you apply it",
        );
    }
}

/// The namespace that a finding lies in.
fn namespace(finding: &Finding) -> &str {
    match finding.object.0 {
        Kind::Namespace => &finding.object.1.name,
        _ => &finding.object.1.namespace,
    }
}
