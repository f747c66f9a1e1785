//! The findings, and what they mean for the controls.

use super::{MOST_OF_A_LINT, Page, tone, wrap};
use crate::audit::controls::{Control, Status};
use crate::audit::group::{Group, Section, sections};
use crate::output::Tone;
use crate::printable::printable;

impl Page<'_> {
    pub(super) fn section(&self, section: &Section<'_>) -> String {
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

    pub(super) fn suppressed(&self) -> String {
        let mut text = String::new();
        for section in sections(&self.report.suppressed_findings) {
            text.push_str("\nAccepted: ");
            text.push_str(&self.section(&section));
        }
        text
    }

    pub(super) fn controls(&self) -> String {
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
}
