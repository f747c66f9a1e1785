//! The figures in docs/PERFORMANCE.md: each section's table stands between two marks of its own.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::Section;
use crate::process::{capture, say};
use crate::workspace::Workspace;

/// Writes the tables of what was measured, and leaves the others as they are.
pub(super) fn update(workspace: &Workspace, tables: &[(Section, String)]) -> Result<()> {
    let path = workspace.root().join("docs/PERFORMANCE.md");
    let mut text =
        std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let conditions = conditions();
    for (section, table) in tables {
        let name = section.name();
        text = replaced(&text, name, &format!("{conditions}\n\n{table}")).with_context(|| {
            format!(
                "{} lacks the lines {} and {}",
                path.display(),
                begin(name),
                end(name)
            )
        })?;
    }
    std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    say(format_args!("wrote {}", path.display()));
    Ok(())
}

fn begin(section: &str) -> String {
    format!("<!-- {section}: begin (written by cargo xtask bench --update) -->")
}

fn end(section: &str) -> String {
    format!("<!-- {section}: end -->")
}

fn replaced(text: &str, section: &str, block: &str) -> Option<String> {
    let (begin, end) = (begin(section), end(section));
    let (before, rest) = text.split_once(&begin)?;
    let (_, after) = rest.split_once(&end)?;
    Some(format!("{before}{begin}\n\n{block}\n\n{end}{after}"))
}

/// When and on what it was measured.
fn conditions() -> String {
    let date = capture(Command::new("date").args(["-u", "+%Y-%m-%d"])).unwrap_or_default();
    // The version alone: what follows it names a build, and says nothing to a reader.
    let kernel = read_line("/proc/sys/kernel/osrelease");
    let kernel = kernel.split('-').next().unwrap_or_default();
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or("unknown CPU", |(_, model)| model.trim());
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    // A busy machine measures itself: the reader must be able to see that.
    let load = read_line("/proc/loadavg");
    let load = load.split_whitespace().next().unwrap_or("unknown");
    format!(
        "Measured on {}, Linux {kernel}, {count} x {model}, load {load}, by `cargo xtask bench --update`.",
        date.trim()
    )
}

fn read_line(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path)
        .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use clap::ValueEnum as _;

    use super::*;

    #[test]
    fn only_the_text_between_the_marks_of_the_section_is_replaced() {
        let of = |name: &str, text: &str| format!("{}\n{text}\n{}\n", begin(name), end(name));
        let text = format!("a\n{}b\n{}z\n", of("engine", "old"), of("audit", "old"));
        assert_eq!(
            replaced(&text, "engine", "new").unwrap(),
            format!("a\n{}b\n{}z\n", of("engine", "\nnew\n"), of("audit", "old"))
        );
        assert_eq!(replaced("no marks", "engine", "new"), None);
    }

    #[test]
    fn every_section_has_its_place_in_the_document() {
        let workspace = Workspace::find().unwrap();
        let path = workspace.root().join("docs/PERFORMANCE.md");
        let text = std::fs::read_to_string(path).unwrap();
        for section in Section::value_variants() {
            assert!(replaced(&text, section.name(), "").is_some(), "{section:?}");
        }
    }
}
