//! `cargo xtask bench`: measures the engine, the audit, the matrix, the command and the BPF programs, and compares with the goals.
//!
//! Every benchmark prints its figures as lines of JSON, `{"of": ..., "name": ..., "value": ..., "unit": ...}`; all else that it
//! prints is for people and goes through.

mod command;
mod document;
mod figure;

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};

use crate::build;
use crate::process::{complain, elapsed, say};
use crate::setup::{self, Need};
use crate::workspace::{Workspace, is_root};
use figure::{Figure, table};

/// Options of `cargo xtask bench`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Write the figures of what is measured into docs/PERFORMANCE.md.
    #[arg(long)]
    update: bool,
    /// Only these; may be given several times. All but `bpf` need neither root nor a BPF toolchain.
    #[arg(long, value_name = "SECTION", value_enum)]
    only: Vec<Section>,
}

/// What is measured by one program, and stands in one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Section {
    /// Verdicts, compiling, changes
    Engine,
    /// The lints
    Audit,
    /// Who may talk to whom
    Matrix,
    /// The command, end to end
    Command,
    /// What a packet pays; needs root
    Bpf,
}

impl Section {
    /// As it is asked for, and as its place in docs/PERFORMANCE.md is marked.
    const fn name(self) -> &'static str {
        match self {
            Self::Engine => "engine",
            Self::Audit => "audit",
            Self::Matrix => "matrix",
            Self::Command => "command",
            Self::Bpf => "bpf",
        }
    }

    fn measure(self, workspace: &Workspace) -> Result<Vec<Figure>> {
        match self {
            Self::Engine => figures_of(&mut policy_bench(workspace, "engine")),
            Self::Audit => figures_of(&mut policy_bench(workspace, "audit")),
            Self::Matrix => figures_of(&mut policy_bench(workspace, "connectivity")),
            Self::Command => command::measure(workspace),
            Self::Bpf => programs(workspace),
        }
    }
}

/// `cargo xtask bench`.
pub(crate) fn command(workspace: &Workspace, options: &Options) -> Result<()> {
    let wanted: &[Section] = match options.only.as_slice() {
        [] => Section::value_variants(),
        only => only,
    };
    let mut measured = false;
    let mut failures = Vec::new();
    for section in wanted {
        let start = Instant::now();
        match section.measure(workspace).and_then(some) {
            Ok(figures) => {
                let table = table(*section, &figures);
                say(format_args!(
                    "\n{table}\n\n    {}: {}\n",
                    section.name(),
                    elapsed(start)
                ));
                measured = true;
                // At once: who ends a long run keeps what it has measured.
                if options.update {
                    document::update(workspace, &[(*section, table)])?;
                }
            }
            Err(error) => {
                complain(&format!("NOT MEASURED {}: {error:#}", section.name()));
                failures.push(section.name());
            }
        }
    }
    ensure!(measured, "nothing could be measured");
    if !failures.is_empty() {
        bail!("could not measure: {}", failures.join(", "));
    }
    Ok(())
}

fn some(figures: Vec<Figure>) -> Result<Vec<Figure>> {
    ensure!(!figures.is_empty(), "the benchmark printed no figure");
    Ok(figures)
}

/// A benchmark of `policy`.
fn policy_bench(workspace: &Workspace, name: &str) -> Command {
    say(format_args!(
        "==> cargo bench -p polproof-policy --bench {name}"
    ));
    let mut command = workspace.cargo();
    command.args(["bench", "--locked", "--package", "polproof-policy"]);
    command.args(["--bench", name]);
    command
}

fn programs(workspace: &Workspace) -> Result<Vec<Figure>> {
    ensure!(
        is_root(),
        "BPF programs can be loaded by root only: run `cargo xtask bench` as root"
    );
    setup::install(workspace, Need::Demo)?;
    build::bpf_object(workspace)?;
    // The agent is measured as it ships.
    build::binaries(workspace, true)?;
    let binary = build::release_binary(workspace, "polproof-bench-bpf")?;
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
        match Figure::read(&line)? {
            Some(figure) => figures.push(figure),
            None => say(line),
        }
    }
    let status = child.wait().context("wait for the benchmark")?;
    ensure!(status.success(), "the benchmark failed ({status})");
    Ok(figures)
}
