//! `cargo xtask truth`: what polproof says of every way of enforcing, compared with what really happened.

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::setup::{self, Need};
use crate::workspace::Workspace;
use crate::{build, process, test};

/// Options of `cargo xtask truth`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Every enforcer in every topology, and not only those that `cargo xtask test` tries.
    #[arg(long)]
    full: bool,
    /// Only the groups whose name holds this text: an enforcer, a topology, or `ENFORCER, TOPOLOGY`.
    #[arg(long, value_name = "FILTER")]
    only: Option<String>,
    /// Name the groups, and try none.
    #[arg(long)]
    list: bool,
}

/// `cargo xtask truth`.
pub(crate) fn command(workspace: &Workspace, options: &Options) -> Result<()> {
    setup::install(workspace, Need::Demo)?;
    build::bpf_object(workspace)?;
    let binary = test::build_tests(workspace)?
        .into_iter()
        .find(|binary| binary.target == "truth")
        .context("cargo built no test target truth")?;
    if !options.list {
        build::need_root("the truth table", &binary.executable)?;
    }
    let mut command = workspace.command(&binary.executable);
    if options.full {
        command.env("POLPROOF_TRUTH", "full");
    }
    if options.list {
        command.arg("--list");
    }
    command.args(&options.only);
    process::say("");
    // Its output is for people to read: nothing is added to it.
    let status = command.status().context("start the truth table")?;
    if !status.success() {
        bail!("the truth table does not hold ({status}); the file that it names has every cell");
    }
    Ok(())
}
