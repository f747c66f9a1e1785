//! `cargo xtask demo`: what polproof does, seen on two nodes made of network namespaces.

use anyhow::{Result, bail};
use clap::Args;

use crate::setup::{self, Need};
use crate::workspace::Workspace;
use crate::{build, process};

/// Options of `cargo xtask demo`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Passed on to the demo (`--help` lists what it takes).
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// `cargo xtask demo`.
pub(crate) fn command(workspace: &Workspace, options: &Options) -> Result<()> {
    setup::install(workspace, Need::Demo)?;
    build::bpf_object(workspace)?;
    build::binaries(workspace, false)?;
    let demo = build::debug_binary(workspace, "polproof-demo")?;
    build::need_root("the demo", &demo)?;
    process::say("");
    // The demo's output is for people to read: nothing is added to it.
    let status = workspace.command(&demo).args(&options.arguments).status()?;
    if !status.success() {
        bail!("the demo failed ({status})");
    }
    Ok(())
}
