//! `cargo xtask truth`: what polproof says of every way of enforcing, compared with what really happened.

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::runner::Binary;
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
    let binary = table(test::build_tests(workspace)?)
        .with_context(|| format!("cargo built no test target {TABLE}"))?;
    if !options.list {
        build::need_root("the truth table", &binary.executable)?;
    }
    let mut command = workspace.command(&binary.executable);
    command.envs(envs(options));
    if options.list {
        command.arg("--list");
    }
    command.args(&options.only);
    if let Some(only) = &options.only {
        let mut list = workspace.command(&binary.executable);
        let groups = process::capture(list.arg("--list").arg(only).envs(envs(options)))?;
        if !groups.lines().any(|line| line.ends_with(": test")) {
            bail!(
                "no group's name holds `{only}`; `cargo xtask truth --list` (with --full for all) names them"
            );
        }
    }
    process::say("");
    // Its output is for people to read: nothing is added to it.
    let status = command.status().context("start the truth table")?;
    if !status.success() {
        bail!("the truth table does not hold ({status}); the file that it names has every cell");
    }
    Ok(())
}

/// The test target, as package and name: other packages have a target of that name, too.
const TABLE: &str = "tests/truth";

fn table(binaries: Vec<Binary>) -> Option<Binary> {
    binaries.into_iter().find(|binary| binary.name == TABLE)
}

fn envs(options: &Options) -> Option<(&'static str, &'static str)> {
    options.full.then_some(("POLPROOF_TRUTH", "full"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_table_is_not_another_packages_test_of_that_name() {
        let of = |package: &str| Binary {
            name: format!("{package}/truth"),
            target: "truth".into(),
            executable: "x".into(),
            folder: package.into(),
        };
        let found = table(vec![of("flow"), of("tests")]).unwrap();
        assert_eq!(found.folder, std::path::Path::new("tests"));
        assert_eq!(table(vec![of("flow")]), None);
    }
}
