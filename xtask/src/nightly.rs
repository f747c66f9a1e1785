//! `cargo xtask nightly`: what takes too long for every change. The engine against the reference over many random
//! clusters, hostile manifests at full size, and mutants of the engine where cargo-mutants is installed.

use anyhow::{Result, bail};
use clap::Args;

use crate::process::{capture, complain, run, say};
use crate::workspace::Workspace;

/// Options of `cargo xtask nightly`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Random clusters for each property.
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    cases: u32,
    /// Also plant faults in policy/src/evaluate and see that the tests notice (hours; needs cargo-mutants).
    #[arg(long)]
    mutants: bool,
}

/// `cargo xtask nightly`.
pub(crate) fn command(workspace: &Workspace, options: &Options) -> Result<()> {
    let cases = options.cases.to_string();
    let mut failed = Vec::new();
    let mut step = |what: &str, arguments: &[&str], cases: &str| {
        say(format_args!("==> {what}"));
        let mut command = workspace.cargo();
        command.args(arguments).env("PROPTEST_CASES", cases);
        if let Err(error) = run(what, &mut command) {
            complain(&format!("FAILED {what}: {error:#}"));
            failed.push(what.to_owned());
        }
    };
    let release = |package, target| {
        [
            "test",
            "--release",
            "--locked",
            "-p",
            package,
            "--test",
            target,
        ]
    };
    step(
        "the engine against the reference",
        &release("polproof-policy", "properties"),
        &cases,
    );
    step(
        "hostile manifests at full size",
        &release("polproof-cluster", "manifests_hostile"),
        &cases,
    );
    if options.mutants {
        if capture(workspace.cargo().args(["mutants", "--version"])).is_err() {
            bail!("cargo-mutants is not installed; to do: cargo install --locked cargo-mutants");
        }
        step(
            "mutants of the engine",
            &[
                "mutants",
                "-p",
                "polproof-policy",
                "--file",
                "policy/src/evaluate/**",
            ],
            "300",
        );
    }
    if failed.is_empty() {
        return Ok(());
    }
    bail!("failed: {}", failed.join(", "))
}
