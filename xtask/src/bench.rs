//! `cargo xtask bench`: measures the engine and the BPF programs, and compares with the goals.
//!
//! Every benchmark prints its figures as lines of JSON, `{"name": ..., "value": ..., "unit": ...}`; all else that it
//! prints is for people and goes through.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde::Deserialize;

use crate::build;
use crate::process::{capture, complain, say};
use crate::setup::{self, Need};
use crate::workspace::{Workspace, is_root};

/// Options of `cargo xtask bench`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Write the figures into docs/PERFORMANCE.md.
    #[arg(long)]
    update: bool,
    /// Only the engine: needs neither root nor a BPF toolchain.
    #[arg(long)]
    engine_only: bool,
}

/// One figure.
#[derive(Clone, Debug, Deserialize, PartialEq)]
struct Figure {
    name: String,
    value: f64,
    #[serde(default)]
    unit: String,
}

/// What a figure should be.
#[derive(Clone, Copy, Debug)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

/// A promise: the figure's name, and its bound in the unit of the figure.
struct Goal {
    name: &'static str,
    bound: Bound,
}

const GOALS: [Goal; 5] = [
    Goal {
        name: "verdicts_per_second",
        bound: Bound::AtLeast(5e6),
    },
    Goal {
        name: "compile_ms",
        bound: Bound::AtMost(300.0),
    },
    Goal {
        name: "pod_change_us_median",
        bound: Bound::AtMost(50.0),
    },
    Goal {
        name: "bpf.established.ingress.net",
        bound: Bound::AtMost(5.0),
    },
    Goal {
        name: "bpf.established.egress.net",
        bound: Bound::AtMost(5.0),
    },
];

const BEGIN: &str = "<!-- figures: begin (written by cargo xtask bench --update) -->";
const END: &str = "<!-- figures: end -->";

/// `cargo xtask bench`.
pub(crate) fn command(workspace: &Workspace, options: &Options) -> Result<()> {
    let mut figures = Vec::new();
    let mut failures = Vec::new();
    let mut measure = |what: &str, measured: Result<Vec<Figure>>| match measured {
        Ok(found) => figures.extend(found),
        Err(error) => {
            complain(&format!("NOT MEASURED {what}: {error:#}"));
            failures.push(what.to_owned());
        }
    };
    measure("engine", engine(workspace));
    if !options.engine_only {
        measure("BPF programs", programs(workspace));
    }
    ensure!(!figures.is_empty(), "nothing could be measured");
    let table = table(&figures);
    say(format_args!("\n{table}"));
    if options.update {
        update(workspace, &table)?;
    }
    if !failures.is_empty() {
        bail!("could not measure: {}", failures.join(", "));
    }
    Ok(())
}

fn engine(workspace: &Workspace) -> Result<Vec<Figure>> {
    say("==> engine (cargo bench -p polproof-policy)");
    let mut command = workspace.cargo();
    command.args([
        "bench",
        "--locked",
        "--package",
        "polproof-policy",
        "--bench",
        "engine",
    ]);
    figures_of(&mut command)
}

fn programs(workspace: &Workspace) -> Result<Vec<Figure>> {
    ensure!(
        is_root(),
        "BPF programs can be loaded by root only: run `cargo xtask bench` as root"
    );
    setup::install(workspace, Need::Demo)?;
    build::bpf_object(workspace)?;
    // What is measured runs in the kernel, and both sides of a ratio run the same client: the
    // profile of the client does not matter.
    build::binaries(workspace, false)?;
    let binary = build::debug_binary(workspace, "polproof-bench-bpf")?;
    say("==> BPF programs (polproof-bench-bpf)");
    figures_of(&mut workspace.command(&binary))
}

/// Runs a benchmark and takes its figures out of what it prints.
fn figures_of(command: &mut Command) -> Result<Vec<Figure>> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("start the benchmark")?;
    let stdout = child.stdout.take().context("its stdout")?;
    let mut figures = Vec::new();
    for line in std::io::BufRead::lines(std::io::BufReader::new(stdout)) {
        let line = line.context("read the benchmark's output")?;
        match figure(&line)? {
            Some(figure) => figures.push(figure),
            None => say(line),
        }
    }
    let status = child.wait().context("wait for the benchmark")?;
    ensure!(status.success(), "the benchmark failed ({status})");
    ensure!(!figures.is_empty(), "the benchmark printed no figure");
    Ok(figures)
}

fn figure(line: &str) -> Result<Option<Figure>> {
    if !line.trim_start().starts_with('{') {
        return Ok(None);
    }
    let figure: Figure = serde_json::from_str(line)
        .with_context(|| format!("the benchmark printed a figure that is none: {line}"))?;
    ensure!(
        figure.value.is_finite(),
        "{}: {} is no figure",
        figure.name,
        figure.value
    );
    Ok(Some(figure))
}

fn table(figures: &[Figure]) -> String {
    let goals: BTreeMap<&str, Bound> = GOALS.iter().map(|goal| (goal.name, goal.bound)).collect();
    let mut rows = vec![["figure", "measured", "goal", ""].map(str::to_owned)];
    for figure in figures {
        let (goal, met) = match goals.get(figure.name.as_str()) {
            Some(Bound::AtLeast(bound)) => {
                (format!(">= {}", number(*bound)), figure.value >= *bound)
            }
            Some(Bound::AtMost(bound)) => {
                (format!("<= {}", number(*bound)), figure.value <= *bound)
            }
            None => (String::new(), true),
        };
        let verdict = match (goal.is_empty(), met) {
            (true, _) => "",
            (false, true) => "met",
            (false, false) => "NOT MET",
        };
        let measured = format!("{} {}", number(figure.value), figure.unit);
        rows.push([
            figure.name.clone(),
            measured.trim_end().to_owned(),
            goal,
            verdict.to_owned(),
        ]);
    }
    for goal in &GOALS {
        if !figures.iter().any(|figure| figure.name == goal.name) {
            rows.push([
                goal.name.to_owned(),
                "not measured".to_owned(),
                String::new(),
                String::new(),
            ]);
        }
    }
    markdown(&rows)
}

/// A Markdown table that is also readable as text.
fn markdown(rows: &[[String; 4]]) -> String {
    let mut widths = [3usize; 4];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut lines = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        let cells: Vec<String> = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        lines.push(format!("| {} |", cells.join(" | ")));
        if index == 0 {
            let dashes = widths.map(|width| "-".repeat(width));
            lines.push(format!("| {} |", dashes.join(" | ")));
        }
    }
    lines.join("\n")
}

fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 1e6 => format!("{:.2} M", value / 1e6),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

fn update(workspace: &Workspace, table: &str) -> Result<()> {
    let path = workspace.root().join("docs/PERFORMANCE.md");
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let block = format!("{}\n\n{table}", conditions());
    let text = replaced(&text, &block)
        .with_context(|| format!("{} lacks the lines {BEGIN} and {END}", path.display()))?;
    std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    say(format_args!("wrote {}", path.display()));
    Ok(())
}

fn replaced(text: &str, block: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n\n{block}\n\n{END}{after}"))
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

    use super::*;

    fn named(name: &str, value: f64) -> Figure {
        Figure {
            name: name.into(),
            value,
            unit: "u".into(),
        }
    }

    #[test]
    fn figures_are_taken_out_of_the_output_and_a_broken_one_is_an_error() {
        let read = figure(r#"{"name":"compile_ms","value":12.5,"unit":"u"}"#).unwrap();
        assert_eq!(read, Some(named("compile_ms", 12.5)));
        assert_eq!(figure("running 1 benchmark").unwrap(), None);
        assert!(figure(r#"{"name":"x"}"#).is_err());
    }

    #[test]
    fn the_table_says_what_was_met_and_what_was_not_measured() {
        let text = table(&[
            named("compile_ms", 400.0),
            named("verdicts_per_second", 6e6),
            named("other", 1.0),
        ]);
        let line = |name: &str| {
            text.lines()
                .find(|line| line.contains(name))
                .unwrap()
                .to_owned()
        };
        assert!(line("compile_ms").contains("NOT MET"), "{text}");
        assert!(line("verdicts_per_second").contains("| met"), "{text}");
        assert!(
            line("pod_change_us_median").contains("not measured"),
            "{text}"
        );
        assert!(!line("other").contains("met"), "{text}");
    }

    #[test]
    fn only_the_text_between_the_markers_is_replaced() {
        let text = format!("a\n{BEGIN}\nold\n{END}\nz\n");
        assert_eq!(
            replaced(&text, "new").unwrap(),
            format!("a\n{BEGIN}\n\nnew\n\n{END}\nz\n")
        );
        assert_eq!(replaced("no markers", "new"), None);
    }
}
