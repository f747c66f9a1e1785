//! Checks for CI: JUnit XML, a testcase each.

use quick_junit::{NonSuccessKind, Report as Junit, TestCase, TestCaseStatus, TestSuite};

use super::{Report, text};
use crate::args::{Format, When};
use crate::failure::Failure;
use crate::output::Screen;

pub(super) fn junit(report: &Report) -> Result<String, Failure> {
    // Never in colour.
    let screen = Screen::new(Format::Junit, When::Never);
    let mut junit = Junit::new("polproof check");
    let mut suite = TestSuite::new(report.file.as_str());
    for check in &report.checks {
        let status = match check.result {
            "passed" => TestCaseStatus::success(),
            result => {
                let (kind, message) = if result == "failed" {
                    (
                        NonSuccessKind::Failure,
                        format!(
                            "expected {}; {} of {} pairs came out otherwise{}",
                            check.expect,
                            check.failed,
                            check.evaluated,
                            check
                                .failures
                                .first()
                                .map(|first| format!(", first {}", text::pair(first)))
                                .unwrap_or_default()
                        ),
                    )
                } else {
                    (
                        NonSuccessKind::Error,
                        check.error.clone().unwrap_or_default(),
                    )
                };
                let mut status = TestCaseStatus::non_success(kind);
                status.set_message(message.as_str());
                status.set_type(result);
                status.set_description(format!(
                    "{}:{}\n{}",
                    report.file,
                    check.line,
                    text::details(check, &screen)
                ));
                status
            }
        };
        let mut case = TestCase::new(check.name.as_str(), status);
        case.set_classname("polproof.check");
        case.set_assertions(usize::try_from(check.evaluated).unwrap_or(usize::MAX));
        suite.add_test_case(case);
    }
    junit.add_test_suite(suite);
    junit
        .to_string()
        .map_err(|error| Failure::usage(format!("cannot write JUnit: {error}")))
}
