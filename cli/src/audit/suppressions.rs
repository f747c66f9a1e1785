//! `--suppressions FILE`.

use std::path::Path;

use polproof_policy::lint::suppress::Rule;
use serde::Deserialize;

use super::file;
use crate::failure::Failure;

/// Bytes of the file.
const MOST: u64 = 4 << 20;

/// As it is written. What is missing is said by the entry's number, so it is optional here.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    lint: Option<String>,
    subject: Option<String>,
    reason: Option<String>,
    until: Option<String>,
}

/// Reads the rules of a file.
pub(crate) fn read(path: &Path) -> Result<Vec<Rule>, Failure> {
    let text = file::read("--suppressions", path, MOST)?;
    parse(&path.display().to_string(), &text)
}

fn parse(path: &str, text: &str) -> Result<Vec<Rule>, Failure> {
    let entries: Option<Vec<Entry>> = serde_saphyr::from_str(text).map_err(|error| {
        Failure::usage(format!(
            "--suppressions {path}: {}; write a list of entries with lint, subject, reason and, if it ends, until",
            first_line(&error.to_string())
        ))
    })?;
    let entries = entries.into_iter().flatten().zip(1..);
    let rules = entries.map(|(entry, number): (Entry, usize)| {
        Rule::new(
            format!("{path}, entry {number}"),
            entry.lint.as_deref().unwrap_or_default(),
            entry.subject.as_deref().unwrap_or_default(),
            entry.reason.as_deref().unwrap_or_default(),
            entry.until.as_deref(),
        )
        .map_err(|error| Failure::usage(format!("--suppressions {error}")))
    });
    rules.collect()
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_without_a_reason_is_an_error_that_names_it() {
        let text = "- {lint: NP001, subject: a, reason: why}\n- {lint: NP001, subject: shop}\n";
        let error = parse("accepted.yaml", text).unwrap_err();
        assert_eq!(
            error.message,
            "--suppressions accepted.yaml, entry 2: NP001 shop has no reason: write why it is accepted"
        );
        assert_eq!(error.code, 2);
    }

    #[test]
    fn an_empty_file_accepts_nothing() {
        for text in ["", "# nothing yet\n", "[]"] {
            assert!(parse("f", text).unwrap().is_empty(), "{text:?}");
        }
    }

    #[test]
    fn what_is_no_list_of_entries_is_an_error() {
        for text in [
            "lint: NP001",
            "- NP001",
            "- {lnt: NP001}",
            "- {",
            "- {until: [1]}",
        ] {
            let error = parse("f", text).unwrap_err();
            assert!(
                error.message.starts_with("--suppressions f") && !error.message.contains('\n'),
                "{}",
                error.message
            );
        }
    }
}
