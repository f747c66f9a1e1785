//! The lints themselves: `--list` and `--explain`.

use polproof_policy::lint::{LINTS, Lint, Severity};
use serde::Serialize;

use super::scope;
use super::table::{tone, wrap};
use crate::failure::Failure;
use crate::output::{Screen, Tone};

#[derive(Serialize)]
struct Entry {
    lint: &'static str,
    severity: Severity,
    title: &'static str,
    references: &'static [&'static str],
    help: &'static str,
}

impl From<&Lint> for Entry {
    fn from(lint: &Lint) -> Self {
        Self {
            lint: lint.id,
            severity: lint.severity,
            title: lint.title,
            references: lint.references,
            help: lint.help,
        }
    }
}

/// Every lint, a row each.
pub(super) fn list(screen: &Screen) -> Result<(), Failure> {
    people_or_programs(screen, "--list")?;
    if !screen.for_people() {
        let all: Vec<Entry> = LINTS.iter().map(Entry::from).collect();
        return screen.document(&all);
    }
    let row = |lint: &Lint| {
        vec![
            (Tone::Plain, lint.id.to_owned()),
            (tone(lint.severity), lint.severity.to_string()),
            (Tone::Plain, lint.title.to_owned()),
            (Tone::Dim, lint.references.join(", ")),
        ]
    };
    let rows: Vec<_> = LINTS.iter().map(row).collect();
    let mut text = screen.table(&["LINT", "SEVERITY", "TITLE", "REFERENCES"], &rows);
    text.push_str("\npolproof audit --explain NP001 says why one matters and what to do.\n");
    screen.write(&text)
}

/// One lint in full.
pub(super) fn explain(id: &str, screen: &Screen) -> Result<(), Failure> {
    people_or_programs(screen, "--explain")?;
    let lint = scope::known(id)?;
    if !screen.for_people() {
        return screen.document(&Entry::from(lint));
    }
    let heading = format!("{}: {}", lint.id, lint.title);
    let mut text = screen.paint(Tone::Bold, &heading);
    text.push_str("\n\nSeverity: ");
    text.push_str(&screen.paint(tone(lint.severity), &lint.severity.to_string()));
    text.push_str("\nReferences: ");
    text.push_str(&lint.references.join(", "));
    text.push_str("\n\n");
    wrap(&mut text, lint.help, 0);
    screen.write(&text)
}

fn people_or_programs(screen: &Screen, flag: &str) -> Result<(), Failure> {
    use crate::args::Format::{Json, Table, Wide, Yaml};
    if matches!(screen.format, Table | Wide | Json | Yaml) {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "{flag} is printed as table, wide, json or yaml; for the findings leave {flag} out"
    )))
}
