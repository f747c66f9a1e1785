//! `cargo xtask churn`: minutes of random changes under traffic, with a correct enforcer and with one that fails now and then.

use anyhow::Result;
use clap::Args;

use crate::process::run;
use crate::setup::{self, Need};
use crate::workspace::Workspace;
use crate::{build, workspace};

/// Options of `cargo xtask churn`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How long each of the two trials lasts.
    #[arg(long, value_name = "MINUTES", default_value_t = 10)]
    minutes: u64,
    /// The random changes of an earlier run, as it printed it.
    #[arg(long)]
    seed: Option<u64>,
    /// Only the trial whose name holds this: "correct", "fails".
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

/// `cargo xtask churn`.
pub(crate) fn command(workspace: &Workspace, options: &Options) -> Result<()> {
    setup::install(workspace, Need::Demo)?;
    build::bpf_object(workspace)?;
    build::binaries(workspace, false)?;
    if !workspace::is_root() {
        anyhow::bail!(
            "it loads BPF programs and makes network namespaces, which only root may do: run it as root"
        );
    }
    let mut command = workspace.cargo();
    command
        .args([
            "test",
            "--locked",
            "-p",
            "polproof-tests",
            "--test",
            "churn",
            "--",
        ])
        .arg("--nocapture")
        .args(&options.only)
        .env("POLPROOF_CHURN_SECONDS", (options.minutes * 60).to_string());
    if let Some(seed) = options.seed {
        command.env("POLPROOF_CHURN_SEED", seed.to_string());
    }
    run("churn", &mut command)
}
