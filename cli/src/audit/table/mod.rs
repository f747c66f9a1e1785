//! For people, in a terminal.

mod findings;
mod namespaces;
mod wrap;

use polproof_policy::lint::Severity;

use super::group::{Section, sections};
use super::report::{Report, plural};
use crate::args::Format;
use crate::output::{Screen, Tone};
use crate::printable::printable;
pub(super) use wrap::wrap;

/// Findings of one lint that are shown, unless all are wanted.
const MOST_OF_A_LINT: usize = 8;

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

#[cfg(test)]
mod tests;
