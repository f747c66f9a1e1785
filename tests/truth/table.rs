//! The table as a whole: a file with every cell, and a summary for people.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use polproof_proto::v1::InconclusiveReason;
use polproof_tests::lab::enforcers;
use polproof_tests::lab::tap::What;

use crate::cell::{family_name, protocol_name};
use crate::facts::Fact;
use crate::verdict::{Row, Verdict};

/// The first line of the file.
const HEAD: &str = "enforcer,scene,topology,protocol,family,path,state,policies,attempts,delivered,answered,back,verdict,finding,excuses";

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
                Verdict::Missed(..) | Verdict::Open(_) => counts.excused += 1,
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

/// Why nothing was found in a cell.
fn excuses_of(row: &Row) -> impl Iterator<Item = InconclusiveReason> {
    let excuses: &[_] = match &row.verdict {
        Verdict::Missed(_, excuses) | Verdict::Open(excuses) => excuses,
        Verdict::Found(_) | Verdict::Silent | Verdict::False(_) => &[],
    };
    excuses.iter().copied()
}

/// The enforcer, and in which way it was tried.
fn tried(enforcer: &str, label: Option<&str>) -> String {
    label.map_or_else(
        || enforcer.to_owned(),
        |label| format!("{enforcer} ({label})"),
    )
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
    let verdict = match &row.verdict {
        Verdict::Found(_) => "found",
        Verdict::Silent => "silent",
        Verdict::Missed(_, excuses) if excuses.is_empty() => "missed",
        Verdict::Missed(..) => "excused",
        Verdict::Open(_) => "open",
        Verdict::False(_) => "FALSE",
    };
    let excuses: Vec<String> = excuses_of(row).map(|why| format!("{why:?}")).collect();
    let excuses = excuses.join(" ");
    format!(
        "{},{},{},{},{},{},{},{},{},{},{},{},{verdict},{},{excuses}\n",
        row.enforcer,
        row.label.unwrap_or_default(),
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
        let of = rows.iter().filter(|row| row.enforcer == entry.name);
        let mut ways: BTreeMap<Option<&str>, Vec<&Row>> = BTreeMap::new();
        for row in of {
            ways.entry(row.label).or_default().push(row);
        }
        for (label, of) in ways {
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} |",
                tried(entry.name, label),
                entry.does,
                entry.like,
                recognised(&of),
                Counts::of(of.iter().copied()).silent
            );
        }
    }
    let path = beside.with_file_name("enforcers.md");
    std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))
}

/// Kinds and their number, and why nothing was said of the rest.
fn recognised(rows: &[&Row]) -> String {
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    let mut reasons = BTreeSet::new();
    for row in rows {
        let kind = match &row.verdict {
            Verdict::Found(kind) => format!("{kind:?}"),
            Verdict::Missed(..) | Verdict::Open(_) => "inconclusive".to_owned(),
            Verdict::False(_) => "FALSE".to_owned(),
            Verdict::Silent => continue,
        };
        *kinds.entry(kind).or_insert(0) += 1;
        reasons.extend(excuses_of(row));
    }
    if kinds.is_empty() {
        return "sound".to_owned();
    }
    let kinds: Vec<String> = kinds
        .iter()
        .map(|(kind, count)| format!("{kind} {count}"))
        .collect();
    let reasons: Vec<String> = reasons.iter().map(|why| format!("{why:?}")).collect();
    if reasons.is_empty() {
        return kinds.join(", ");
    }
    format!("{} ({})", kinds.join(", "), reasons.join(", "))
}

/// The summary: by enforcer, by what was found, and what was left out.
pub(crate) fn summary(
    rows: &[Row],
    impossible: &BTreeMap<&'static str, usize>,
    groups: usize,
) -> String {
    let mut text = String::from("\nThe truth table\n");
    let mut by_enforcer: BTreeMap<String, Vec<&Row>> = BTreeMap::new();
    for row in rows {
        let tried = tried(&row.enforcer, row.label);
        by_enforcer.entry(tried).or_default().push(row);
    }
    let width = by_enforcer.keys().map(String::len).max().unwrap_or(0);
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
        let line = match &row.verdict {
            Verdict::Missed(kind, reasons) if reasons.is_empty() => format!("{kind:?}: no excuse"),
            Verdict::Missed(kind, reasons) => format!("{kind:?}: {reasons:?}"),
            Verdict::Open(reasons) => format!("left open: {reasons:?}"),
            Verdict::Found(_) | Verdict::Silent | Verdict::False(_) => continue,
        };
        *excuses.entry(line).or_insert(0) += 1;
    }
    for (why, count) in excuses {
        let _ = writeln!(text, "  not found {count:>5}  {why}");
    }
    for (why, count) in impossible {
        let _ = writeln!(text, "  left out  {:>5}  {why}", count * groups);
    }
    text
}
