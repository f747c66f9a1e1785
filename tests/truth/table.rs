//! The table as a whole: a file with every cell, and a summary for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use polproof_tests::lab::enforcers;
use polproof_tests::lab::tap::What;

use crate::cell::{family_name, protocol_name};
use crate::facts::Fact;
use crate::verdict::{Row, Verdict};

/// The first line of the file.
const HEAD: &str = "enforcer,topology,protocol,family,path,state,policies,attempts,delivered,answered,back,verdict,finding,excuses";

/// Verdicts, counted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) found: usize,
    pub(crate) silent: usize,
    pub(crate) excused: usize,
    pub(crate) missed: usize,
    pub(crate) wrong: usize,
}

impl Counts {
    pub(crate) fn of<'a>(rows: impl IntoIterator<Item = &'a Row>) -> Self {
        let mut counts = Self::default();
        for row in rows {
            match &row.verdict {
                Verdict::Found(_) => counts.found += 1,
                Verdict::Silent => counts.silent += 1,
                Verdict::Missed(_, excuses) if excuses.is_empty() => counts.missed += 1,
                Verdict::Missed(..) => counts.excused += 1,
                Verdict::False(_) => counts.wrong += 1,
            }
        }
        counts
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:>6} found {:>6} silent {:>5} excused {:>5} missed {:>4} false",
            self.found, self.silent, self.excused, self.missed, self.wrong
        )
    }
}

/// Writes every cell to `truth/cells.csv` in the folder that cargo builds in.
pub(crate) fn write(rows: &[Row]) -> Result<PathBuf> {
    let this = std::env::current_exe().context("find the running executable")?;
    // It is target/debug/deps/truth-HASH.
    let target = this.ancestors().nth(3).unwrap_or_else(|| Path::new("."));
    let path = target.join("truth/cells.csv");
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    }
    let mut text = format!("{HEAD}\n");
    for row in rows {
        text.push_str(&line(row));
    }
    std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

fn line(row: &Row) -> String {
    let cell = &row.cell;
    let mut arrived: BTreeMap<&str, usize> = BTreeMap::new();
    for (pod, _) in row.facts.iter().filter_map(|fact| fact.arrived.as_ref()) {
        *arrived.entry(pod).or_insert(0) += 1;
    }
    let arrived: Vec<String> = arrived
        .iter()
        .map(|(pod, count)| format!("{count} at {pod}"))
        .collect();
    let whats = |which: fn(&Fact) -> Option<What>| -> String {
        let mut whats: Vec<String> = row
            .facts
            .iter()
            .map(|fact| which(fact).map_or_else(|| "-".to_owned(), |what| what.to_string()))
            .collect();
        whats.sort_unstable();
        whats.dedup();
        whats.join(" ")
    };
    let found: Vec<String> = row
        .found
        .iter()
        .map(|(kind, destination)| format!("{kind:?} {destination}"))
        .collect();
    let (verdict, excuses) = match &row.verdict {
        Verdict::Found(_) => ("found", ""),
        Verdict::Silent => ("silent", ""),
        Verdict::Missed(_, excuses) if excuses.is_empty() => ("missed", ""),
        Verdict::Missed(_, excuses) => (
            "excused",
            &*excuses
                .iter()
                .map(|reason| format!("{reason:?}"))
                .collect::<Vec<_>>()
                .join(" "),
        ),
        Verdict::False(_) => ("FALSE", ""),
    };
    format!(
        "{},{},{},{},{},{},{},{},{},{},{},{verdict},{},{excuses}\n",
        row.enforcer,
        row.topology,
        protocol_name(cell.protocol),
        family_name(cell.family),
        cell.path,
        cell.state,
        row.said,
        row.facts.len(),
        arrived.join(" "),
        whats(|fact| fact.answer),
        whats(|fact| fact.back),
        found.join(" "),
    )
}

/// Writes what each enforcer is recognised as, beside the file of [`write`], as a table for people.
pub(crate) fn write_recognised(rows: &[Row], beside: &Path) -> Result<()> {
    let mut text = String::from(
        "| enforcer | does | like | recognised as | nothing to find in |\n| --- | --- | --- | --- | --- |\n",
    );
    for entry in enforcers::catalogue() {
        let of: Vec<&Row> = rows
            .iter()
            .filter(|row| row.enforcer == entry.name)
            .collect();
        if of.is_empty() {
            continue;
        }
        let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
        for row in &of {
            match &row.verdict {
                Verdict::Found(kind) => *kinds.entry(format!("{kind:?}")).or_insert(0) += 1,
                Verdict::Missed(..) => {
                    *kinds.entry("inconclusive".to_owned()).or_insert(0) += 1;
                }
                Verdict::False(_) => *kinds.entry("FALSE".to_owned()).or_insert(0) += 1,
                Verdict::Silent => {}
            }
        }
        let kinds: Vec<String> = kinds
            .iter()
            .map(|(kind, count)| format!("{kind} {count}"))
            .collect();
        let kinds = if kinds.is_empty() {
            "sound".to_owned()
        } else {
            kinds.join(", ")
        };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {kinds} | {} |",
            entry.name,
            entry.does,
            entry.like,
            Counts::of(of.iter().copied()).silent
        );
    }
    let path = beside.with_file_name("enforcers.md");
    std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))
}

/// The summary: by enforcer, by what was found, and what was left out.
pub(crate) fn summary(
    rows: &[Row],
    impossible: &BTreeMap<&'static str, usize>,
    groups: usize,
) -> String {
    let mut text = String::from("\nThe truth table\n");
    let mut by_enforcer: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
    for row in rows {
        by_enforcer.entry(&row.enforcer).or_default().push(row);
    }
    let width = by_enforcer.keys().map(|name| name.len()).max().unwrap_or(0);
    for (enforcer, rows) in &by_enforcer {
        let _ = write!(
            text,
            "  {enforcer:width$} {}",
            Counts::of(rows.iter().copied())
        );
        let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
        for row in rows {
            if let Verdict::Found(kind) = &row.verdict {
                *kinds.entry(format!("{kind:?}")).or_insert(0) += 1;
            }
        }
        let kinds: Vec<String> = kinds
            .iter()
            .map(|(kind, count)| format!("{kind} {count}"))
            .collect();
        let _ = writeln!(text, "   {}", kinds.join(", "));
    }
    let _ = writeln!(text, "  {:width$} {}", "all", Counts::of(rows));
    let mut excuses: BTreeMap<String, usize> = BTreeMap::new();
    for row in rows {
        if let Verdict::Missed(kind, reasons) = &row.verdict {
            let why = if reasons.is_empty() {
                "no excuse".to_owned()
            } else {
                format!("{reasons:?}")
            };
            *excuses.entry(format!("{kind:?}: {why}")).or_insert(0) += 1;
        }
    }
    for (why, count) in excuses {
        let _ = writeln!(text, "  not found {count:>5}  {why}");
    }
    for (why, count) in impossible {
        let _ = writeln!(text, "  left out  {:>5}  {why}", count * groups);
    }
    text
}
