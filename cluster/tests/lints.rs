//! The lints, case by case: `tests/fixtures/lints`, read as the command reads manifests.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use libtest_mimic::{Arguments, Failed, Trial};
use polproof_policy::lint::{self, Input, LINTS, Options, Refused};
use polproof_policy::model::{Labels, Selector};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    lint: String,
    #[expect(dead_code, reason = "for readers")]
    why: String,
    findings: Vec<Expected>,
    #[serde(default)]
    options: Given,
    /// The first line of the audit.
    summary: Option<String>,
    /// How far the namespaces are covered, as `-o json` has it.
    namespaces: Option<serde_json::Value>,
}

/// Options that are not the usual ones.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Given {
    exempt_namespaces: Vec<String>,
    dns: Vec<Dns>,
    dns_addresses: Vec<IpAddr>,
    metadata_addresses: Vec<IpAddr>,
    pod_cidrs: Vec<IpNet>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Dns {
    namespace: String,
    labels: Labels,
}

impl Given {
    fn options(&self) -> Options {
        let mut options = Options {
            exempt_namespaces: self.exempt_namespaces.clone(),
            dns_addresses: self.dns_addresses.clone(),
            metadata_addresses: self.metadata_addresses.clone(),
            pod_cidrs: self.pod_cidrs.clone(),
            ..Options::default()
        };
        if !self.dns.is_empty() {
            let selector = |dns: &Dns| Selector {
                match_labels: dns.labels.clone(),
                match_expressions: Vec::new(),
            };
            let dns = self.dns.iter();
            options.dns = dns
                .map(|dns| (dns.namespace.clone(), selector(dns)))
                .collect();
        }
        options
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    subject: String,
    severity: Option<String>,
    suggest: Option<String>,
    by: Option<String>,
}

fn main() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/lints");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .expect("tests/fixtures/lints is there")
        .map(|entry| entry.expect("it can be read").path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .collect();
    files.sort();
    let mut trials: Vec<Trial> = files
        .iter()
        .cloned()
        .map(|path| {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            Trial::test(name, move || run(&path).map_err(Failed::from))
        })
        .collect();
    trials.push(Trial::test(
        "every_lint_has_both_kinds_of_case",
        move || both_kinds(&files).map_err(Failed::from),
    ));
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

fn case(path: &Path) -> Result<Case, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    let first = text.split("\n---").next().unwrap_or_default();
    serde_saphyr::from_str(first).map_err(|error| error.to_string())
}

fn run(path: &Path) -> Result<(), String> {
    let case = case(path)?;
    let lint = lint::lint(&case.lint).ok_or(format!("there is no lint {}", case.lint))?;
    let view = polproof_cluster::manifests::load(path).map_err(|error| error.to_string())?;
    let refused: Vec<Refused> = view
        .refused
        .iter()
        .map(|refused| Refused {
            kind: refused.key.kind,
            id: refused.key.id.clone(),
            reason: refused.reason.clone(),
        })
        .collect();
    let input = Input {
        snapshot: &view.snapshot,
        refused: &refused,
    };
    let audit = lint::audit(input, &case.options.options());
    let summary = audit.summary.to_string();
    if case.summary.is_some_and(|expected| expected != summary) {
        return Err(format!("the summary is {summary:?}"));
    }
    let namespaces = serde_json::to_value(&audit.namespaces).map_err(|error| error.to_string())?;
    if case
        .namespaces
        .is_some_and(|expected| expected != namespaces)
    {
        return Err(format!("the namespaces are {namespaces:#}"));
    }
    let found: Vec<_> = audit
        .findings
        .iter()
        .filter(|finding| finding.lint == lint.id)
        .collect();
    let subjects: Vec<&str> = found.iter().map(|f| f.subject.as_str()).collect();
    let mut expected: Vec<&str> = case.findings.iter().map(|f| f.subject.as_str()).collect();
    expected.sort_unstable();
    if subjects != expected {
        return Err(format!(
            "found {subjects:?}, expected {expected:?}; all: {:#?}",
            audit.findings
        ));
    }
    for expected in &case.findings {
        for found in found.iter().filter(|f| f.subject == expected.subject) {
            let severity = found.severity.to_string();
            if expected.severity.as_ref().is_some_and(|s| *s != severity)
                || (expected.suggest.is_some() && expected.suggest != found.suggest)
                || expected
                    .by
                    .as_deref()
                    .is_some_and(|by| Some(by) != found.by)
            {
                return Err(format!("expected {expected:?}, found {found:?}"));
            }
        }
    }
    Ok(())
}

fn both_kinds(files: &[PathBuf]) -> Result<(), String> {
    let mut kinds: BTreeMap<String, (bool, bool)> = BTreeMap::new();
    for path in files {
        let case = case(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if !name.starts_with(&case.lint) {
            return Err(format!("{name} is about {}", case.lint));
        }
        let entry = kinds.entry(case.lint).or_default();
        entry.0 |= !case.findings.is_empty();
        entry.1 |= case.findings.is_empty();
    }
    let lacking: Vec<_> = LINTS
        .iter()
        .map(|lint| lint.id)
        .filter(|id| kinds.get(*id) != Some(&(true, true)))
        .collect();
    if lacking.is_empty() {
        Ok(())
    } else {
        Err(format!(
            "these lack a case with or a case without findings: {lacking:?}"
        ))
    }
}
