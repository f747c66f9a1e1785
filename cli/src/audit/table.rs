//! For people, in a terminal.

use polproof_policy::lint::{Posture, Severity};

use super::controls::{Control, Status};
use super::group::{Group, Section, sections};
use super::report::{Report, plural};
use crate::args::Format;
use crate::output::{Screen, Tone};
use crate::printable::printable;

/// Namespaces that are shown, unless all are wanted.
const MOST_NAMESPACES: usize = 20;
/// Findings of one lint that are shown, unless all are wanted.
const MOST_OF_A_LINT: usize = 8;
/// Columns of text that goes to no terminal, and the most that is good to read.
const READABLE: usize = 110;

/// The whole page.
pub(super) fn render(report: &Report, all: bool, screen: &Screen) -> String {
    let wide = screen.format == Format::Wide;
    let page = Page {
        report,
        all,
        wide,
        screen,
    };
    let mut text = page.head();
    text.push_str(&page.namespaces());
    let sections = sections(&report.findings);
    for section in &sections {
        text.push('\n');
        text.push_str(&page.section(section));
    }
    if wide {
        text.push_str(&page.suppressed());
        text.push('\n');
        text.push_str(&page.controls());
    }
    text.push('\n');
    text.push_str(&page.foot(&sections));
    text
}

/// What a severity looks like.
pub(super) const fn tone(severity: Severity) -> Tone {
    match severity {
        Severity::High => Tone::Bad,
        Severity::Medium => Tone::Warn,
        Severity::Low | Severity::Info => Tone::Plain,
    }
}

/// Adds text in lines that fit, each indented.
pub(super) fn wrap(to: &mut String, text: &str, indent: usize) {
    let room = terminal_size::terminal_size_of(std::io::stdout())
        .map_or(READABLE, |(terminal_size::Width(width), _)| {
            usize::from(width).min(READABLE)
        })
        .saturating_sub(indent)
        .max(20);
    let margin = " ".repeat(indent);
    let mut used = 0;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if used > 0 && used + 1 + length > room {
            to.push('\n');
            used = 0;
        }
        if used == 0 {
            to.push_str(&margin);
        } else {
            to.push(' ');
            used += 1;
        }
        to.push_str(word);
        used += length;
    }
    to.push('\n');
}

struct Page<'a> {
    report: &'a Report,
    all: bool,
    wide: bool,
    screen: &'a Screen,
}

impl Page<'_> {
    fn head(&self) -> String {
        let report = self.report;
        let of = &report.counts.of;
        let mut text = self.screen.paint(Tone::Bold, &report.summary);
        text.push_str("\n\n");
        let source = match report.source.kind {
            "manifests" => format!("manifests in {}", report.source.name),
            _ => report.source.name.clone(),
        };
        let only = if report.only_namespaces.is_empty() {
            String::new()
        } else {
            format!(", only {}", report.only_namespaces.join(", "))
        };
        let looked = format!(
            "Looked at {source}{only}: {}, {} that policies can govern.",
            plural(of.namespaces, "namespace"),
            plural(of.governed_pods, "pod"),
        );
        wrap(&mut text, &printable(looked), 0);
        if !of.other_policies.is_empty() {
            let others = of.other_policies.iter();
            let others: Vec<_> = others
                .map(|(kind, count)| format!("{count} {kind}"))
                .collect();
            wrap(
                &mut text,
                &format!("Other policies: {}.", others.join(", ")),
                0,
            );
        }
        if of.refused > 0 {
            let refused = format!(
                "Refused: {} that no API server would take (NP900): nothing of that is in force.",
                plural(of.refused, "object")
            );
            wrap(&mut text, &refused, 0);
        }
        if !report.passed_over.is_empty() {
            let kinds = report.passed_over.iter();
            let kinds: Vec<_> = kinds
                .map(|(kind, count)| format!("{count} {kind}"))
                .collect();
            let passed = format!("Passed over: {}.", kinds.join(", "));
            wrap(&mut text, &printable(passed), 0);
        }
        for note in &report.notes {
            let mut lines = String::new();
            wrap(&mut lines, &printable(format!("Note: {note}.")), 0);
            for line in lines.lines() {
                text.push_str(&self.screen.paint(Tone::Warn, line));
                text.push('\n');
            }
        }
        text
    }

    fn namespaces(&self) -> String {
        let mut shown: Vec<&Posture> = self.report.namespaces.iter().collect();
        if shown.is_empty() {
            return String::new();
        }
        let most = if self.all {
            usize::MAX
        } else {
            MOST_NAMESPACES
        };
        let hidden = shown.len().saturating_sub(most);
        if hidden > 0 {
            // Those that lack something stay.
            shown.sort_by_key(|posture| is_covered(posture));
            shown.truncate(most);
            shown.sort_by(|a, b| a.namespace.cmp(&b.namespace));
        }
        let rows: Vec<_> = shown
            .into_iter()
            .map(|posture| self.posture(posture))
            .collect();
        let head = [
            "NAMESPACE",
            "POLICIES",
            "PODS",
            "DENY-ALL INGRESS",
            "DENY-ALL EGRESS",
            "COVERED INGRESS",
            "COVERED EGRESS",
        ];
        let mut text = format!("\n{}", self.screen.table(&head, &rows));
        if hidden > 0 {
            text.push_str(&format!(
                "and {} more, the best covered ones (--all shows them)\n",
                plural(hidden, "namespace")
            ));
        }
        text
    }

    fn posture(&self, of: &Posture) -> Vec<(Tone, String)> {
        let pods = of.governed_pods;
        let deny = |there: bool| match (there, pods) {
            (true, _) => (Tone::Good, "yes".to_owned()),
            (false, 0) => (Tone::Dim, "no".to_owned()),
            (false, _) => (Tone::Bad, "no".to_owned()),
        };
        let covered = |covered: usize| match (covered, pods) {
            (_, 0) => (Tone::Dim, "-".to_owned()),
            (covered, pods) if covered >= pods => (Tone::Good, format!("{covered}/{pods}")),
            (covered, pods) => (Tone::Warn, format!("{covered}/{pods}")),
        };
        let exempt = self.report.exempt_namespaces.iter();
        let name = if exempt.clone().any(|name| **name == *of.namespace) {
            format!("{} (exempt)", of.namespace)
        } else {
            of.namespace.to_string()
        };
        vec![
            (Tone::Plain, printable(name)),
            (Tone::Plain, of.policies.to_string()),
            (Tone::Plain, pods.to_string()),
            deny(of.default_deny_ingress),
            deny(of.default_deny_egress),
            covered(of.covered_ingress),
            covered(of.covered_egress),
        ]
    }

    fn section(&self, section: &Section<'_>) -> String {
        let severity = section.severity.to_string().to_uppercase();
        let heading = format!("{severity} {}", section.lint);
        let mut text = format!(
            "{} {} ({})\n",
            self.screen.paint(tone(section.severity), &heading),
            section.title,
            section.len()
        );
        let most = if self.all { usize::MAX } else { MOST_OF_A_LINT };
        for group in section.groups.iter().take(most) {
            self.group(group, &mut text);
        }
        let hidden = section.groups.iter().skip(most);
        let hidden: usize = hidden.map(|group| group.findings.len()).sum();
        if hidden > 0 {
            text.push_str(&format!("  and {hidden} more (--all shows them)\n"));
        }
        text
    }

    fn group(&self, group: &Group<'_>, text: &mut String) {
        let first = group.first;
        let known = if first.known { " (known)" } else { "" };
        text.push_str("  ");
        let what = printable(format!("{}{known}", group.what));
        text.push_str(&self.screen.paint(Tone::Bold, &what));
        if let Some(place) = &first.location {
            let place = printable(format!("  {}:{}", place.file, place.line));
            text.push_str(&self.screen.paint(Tone::Dim, &place));
        }
        text.push('\n');
        let example = if group.findings.len() > 1 {
            "for example: "
        } else {
            ""
        };
        wrap(text, &printable(format!("{example}{}", first.message)), 4);
        if let Some(suggest) = &first.suggest {
            wrap(text, &printable(format!("try: {suggest}")), 4);
        }
        if let Some(accepted) = &first.suppressed {
            let why = format!("accepted: {} ({})", accepted.reason, accepted.by);
            wrap(text, &printable(why), 4);
        }
        if self.wide && !first.policies.is_empty() {
            let policies = format!("policies: {}", first.policies.join(", "));
            wrap(text, &printable(policies), 4);
        }
    }

    fn suppressed(&self) -> String {
        let mut text = String::new();
        for section in sections(&self.report.suppressed_findings) {
            text.push_str("\nAccepted: ");
            text.push_str(&self.section(&section));
        }
        text
    }

    fn controls(&self) -> String {
        let row = |control: &Control| {
            let tone = match control.status {
                Status::Pass => Tone::Good,
                Status::Fail => Tone::Bad,
                Status::NotAssessed => Tone::Warn,
            };
            let names: Vec<_> = std::iter::once(control.id)
                .chain(control.also.iter().copied())
                .collect();
            vec![
                (Tone::Plain, names.join(", ")),
                (tone, control.status.words().to_owned()),
                (Tone::Plain, control.failing.to_string()),
                (Tone::Plain, control.observations.to_string()),
                (Tone::Plain, control.exceptions.to_string()),
                (
                    Tone::Plain,
                    printable(format!("{}: {}", control.title, control.reading)),
                ),
            ]
        };
        let rows: Vec<_> = self.report.controls.iter().map(row).collect();
        let head = [
            "CONTROL", "STATUS", "FAILING", "OBSERVED", "ACCEPTED", "READING",
        ];
        self.screen.table(&head, &rows)
    }

    fn foot(&self, sections: &[Section<'_>]) -> String {
        let report = self.report;
        let counts = &report.counts;
        let mut text = String::new();
        let mut said = counts.live();
        if report.has_baseline {
            said.push_str(&format!(
                "; {} known, {} resolved since the baseline",
                counts.known, counts.resolved
            ));
        }
        if report.suppressed > 0 {
            said.push_str(&format!("; {} accepted", report.suppressed));
            if !self.wide {
                said.push_str(" (-o wide shows the reasons)");
            }
        }
        said.push('.');
        if let Some(from) = report.fail_on {
            let failing = counts.failing;
            said.push_str(&match failing {
                0 => format!(" None that fails (--fail-on {from})."),
                _ => format!(
                    " {} (--fail-on {from}): exit code 1.",
                    match failing {
                        1 => "1 fails".to_owned(),
                        _ => format!("{failing} fail"),
                    }
                ),
            });
        }
        let mut first = said.chars();
        let said: String = first
            .next()
            .into_iter()
            .flat_map(char::to_uppercase)
            .chain(first)
            .collect();
        wrap(&mut text, &said, 0);
        for resolved in report.resolved.iter().take(MOST_OF_A_LINT) {
            let line = format!("resolved: {} {}", resolved.lint, resolved.subject);
            wrap(&mut text, &printable(line), 2);
        }
        let hidden = report.resolved.len().saturating_sub(MOST_OF_A_LINT);
        if hidden > 0 {
            text.push_str(&format!(
                "  and {hidden} more resolved (-o json names them)\n"
            ));
        }
        if let Some(worst) = sections.first() {
            let target = match (report.source.kind, report.source.name.as_str()) {
                ("manifests", "standard input") => " -".to_owned(),
                ("manifests", name) => format!(" {name}"),
                _ => String::new(),
            };
            let next = format!(
                "Next: `polproof fix{target}` writes policies that remedy what can be remedied by rule; `polproof audit --explain {}` \
                 says why a finding matters.",
                worst.lint
            );
            wrap(&mut text, &printable(next), 0);
        }
        text
    }
}

/// Whether nothing is to be done there.
const fn is_covered(posture: &Posture) -> bool {
    posture.governed_pods == 0
        || (posture.default_deny_ingress
            && posture.default_deny_egress
            && posture.covered_ingress >= posture.governed_pods
            && posture.covered_egress >= posture.governed_pods)
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn text_is_broken_between_words() {
        let mut text = String::new();
        wrap(&mut text, &"word ".repeat(60), 4);
        let longest = text.lines().map(str::len).max();
        assert!(
            longest <= Some(READABLE) && text.lines().count() > 2,
            "{text}"
        );
        assert!(
            text.lines().all(|line| line.starts_with("    word")),
            "{text}"
        );
    }
}
