use super::*;
use crate::args::When;
use crate::audit::sample;

fn shown(report: &Report, format: Format, all: bool) -> String {
    render(report, all, &Screen::new(format, When::Never))
}

/// Whether a text is there, wherever its lines are broken.
fn has(text: &str, expected: &str) -> bool {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    words(text).contains(&words(expected))
}

#[test]
fn the_first_line_is_the_summary_and_nothing_else() {
    for (report, line) in [
        (
            sample::empty(),
            "0 NetworkPolicies found across 0 namespaces",
        ),
        (
            sample::clean(),
            "2 NetworkPolicies found across 1 namespaces",
        ),
        (
            sample::full(),
            "3 NetworkPolicies found across 1 namespaces",
        ),
    ] {
        for format in [Format::Table, Format::Wide] {
            let text = shown(&report, format, false);
            assert_eq!(text.lines().next(), Some(line), "{text}");
        }
    }
}

#[test]
fn findings_are_grouped_and_told_with_what_to_do() {
    let text = shown(&sample::full(), Format::Table, false);
    for expected in [
        "HIGH NP001",
        "MEDIUM NP004",
        "12 pods of Deployment shop/web egress",
        "legacy     0         4     no",
        "15/15",
        "try: app=frontend",
        "deploy/net pol/api #1%.yaml:12",
        "Other policies: 1 AdminNetworkPolicy.",
        "Passed over: 3 ConfigMap.",
        "Refused: 1 object",
        "polproof fix deploy",
        "19 findings (3 high, 14 medium, 1 low, 1 info); 2 accepted",
        "3 fail (--fail-on high): exit code 1.",
    ] {
        assert!(has(&text, expected), "{expected}: {text}");
    }
    assert!(!text.contains("CIS 5.3.2"), "{text}");
}

#[test]
fn wide_has_controls_policies_and_reasons() {
    let text = shown(&sample::full(), Format::Wide, false);
    for expected in [
        "CIS 5.3.2, CIS EKS 4.3.2",
        "not assessed",
        "policies: shop/egress",
        "Accepted: HIGH NP001",
        "(annotation of Namespace sandbox)",
    ] {
        assert!(has(&text, expected), "{expected}: {text}");
    }
}

#[test]
fn what_others_wrote_cannot_steer_a_terminal() {
    for format in [Format::Table, Format::Wide] {
        let text = shown(&sample::full(), format, true);
        assert!(
            !text.contains('\u{1b}') && text.contains("\\u{1b}"),
            "{text}"
        );
    }
}

#[test]
fn a_long_list_is_cut_and_says_so() {
    let mut report = sample::full();
    let one = report
        .findings
        .iter()
        .find(|of| of.id.lint == "NP034")
        .cloned();
    for (number, mut finding) in std::iter::repeat_n(one, 30).flatten().enumerate() {
        finding.id.subject = format!("shop/api:ingress[{}].from[1]", number + 1);
        report.findings.push(finding);
    }
    let cut = shown(&report, Format::Table, false);
    assert!(cut.contains("and 23 more (--all shows them)"), "{cut}");
    let whole = shown(&report, Format::Table, true);
    assert!(
        !whole.contains("more (--all") && whole.contains("ingress[30]"),
        "{whole}"
    );
}
