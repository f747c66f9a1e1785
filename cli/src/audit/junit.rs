//! JUnit XML, for CI: a suite for each lint, a case for each finding.
//!
//! A case fails exactly if its finding makes the command fail (`--fail-on`, `--baseline`, suppressions). Other findings are
//! skipped cases with the reason, so that a dashboard shows them and the build goes on. A lint without findings is one
//! passing case.

use std::collections::BTreeMap;

use polproof_policy::lint;
use quick_junit::{NonSuccessKind, Report as Junit, TestCase, TestCaseStatus, TestSuite};

use super::report::{Report, Reported};
use crate::failure::Failure;

/// The document.
pub(super) fn render(report: &Report) -> Result<String, Failure> {
    let mut by_lint: BTreeMap<&str, Vec<&Reported>> = BTreeMap::new();
    for lint in &report.lints {
        by_lint.entry(lint.id).or_default();
    }
    for finding in report.findings.iter().chain(&report.suppressed_findings) {
        by_lint.entry(&finding.id.lint).or_default().push(finding);
    }
    let mut junit = Junit::new(format!("polproof audit: {}", report.summary));
    for (id, findings) in by_lint {
        let title = lint::lint(id).map_or("", |lint| lint.title);
        let mut suite = TestSuite::new(format!("{id} {title}").trim_end());
        if findings.is_empty() {
            let mut case = TestCase::new("no findings", TestCaseStatus::success());
            case.set_classname(id);
            suite.add_test_case(case);
        }
        for finding in findings {
            suite.add_test_case(case(finding, report));
        }
        junit.add_test_suite(suite);
    }
    junit
        .to_string()
        .map_err(|error| Failure::usage(format!("cannot write JUnit XML: {error}")))
}

fn case(finding: &Reported, report: &Report) -> TestCase {
    let mut status = if finding.fails(report.fail_on) {
        TestCaseStatus::non_success(NonSuccessKind::Failure)
    } else {
        TestCaseStatus::skipped()
    };
    let why = match (&finding.suppressed, finding.known) {
        (Some(accepted), _) => format!("accepted: {} ({}): ", accepted.reason, accepted.by),
        (None, true) => "known: ".to_owned(),
        (None, false) => String::new(),
    };
    status.set_message(format!("{why}{}", finding.message));
    status.set_type(finding.severity.to_string());
    let mut description = finding.message.clone();
    if let Some(suggest) = &finding.suggest {
        description.push_str(&format!("\ntry: {suggest}"));
    }
    if let Some(place) = &finding.location {
        description.push_str(&format!("\nat: {}:{}", place.file, place.line));
    }
    if !finding.policies.is_empty() {
        description.push_str(&format!("\npolicies: {}", finding.policies.join(", ")));
    }
    status.set_description(description);
    let mut case = TestCase::new(finding.id.subject.as_str(), status);
    case.set_classname(finding.id.lint.as_str());
    case
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::audit::sample;

    fn read(report: &Report) -> Junit {
        Junit::deserialize_from_str(&render(report).unwrap()).unwrap()
    }

    #[test]
    fn failures_are_what_makes_the_command_fail() {
        let mut report = sample::full();
        let junit = read(&report);
        assert_eq!((junit.failures, report.counts.failing), (3, 3));
        let cases: usize = junit
            .test_suites
            .iter()
            .map(|suite| suite.test_cases.len())
            .sum();
        assert!(cases >= report.findings.len() + report.suppressed);
        report.fail_on = None;
        assert_eq!(read(&report).failures, 0);
    }

    #[test]
    fn a_lint_without_findings_passes() {
        let report = sample::clean();
        let junit = read(&report);
        assert_eq!(junit.test_suites.len(), report.lints.len());
        assert_eq!((junit.tests, junit.failures), (report.lints.len(), 0));
    }
}
