//! The BPF object and then everything of the workspace.

use std::path::Path;

use anyhow::{Context, Result};
use clap::Args;

use crate::process::{complain, run, say};
use crate::setup::{self, Need};
use crate::workspace::Workspace;
use crate::{bpf, workspace};

/// Options of `cargo xtask build`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Optimised binaries, as they ship.
    #[arg(long)]
    release: bool,
    /// Only the BPF object.
    #[arg(long)]
    bpf_only: bool,
}

/// `cargo xtask build`.
pub(crate) fn command(workspace: &Workspace, options: &Options) -> Result<()> {
    setup::install(workspace, Need::Build)?;
    bpf_object(workspace)?;
    if options.bpf_only {
        return Ok(());
    }
    binaries(workspace, options.release)?;
    let folder = if options.release { "release" } else { "debug" };
    let folder = workspace.target().join(folder);
    for name in ["polproof-agent", "polproof-collector", "polproof"] {
        say(format_args!("    {}", folder.join(name).display()));
    }
    Ok(())
}

/// The BPF object, or why there is none: then the agent is built with an empty one, which it says
/// when it is started.
pub(crate) fn bpf_object(workspace: &Workspace) -> Result<()> {
    let compiler = bpf::find_compiler()
        .with_context(|| format!("no rustc here compiles for BPF: {}", bpf::remedy()))?;
    let linker = bpf::Linker::find()
        .filter(|linker| linker.reads(compiler.llvm))
        .with_context(|| {
            format!(
                "no bpf-linker here reads LLVM {}: {}",
                compiler.llvm,
                bpf::remedy()
            )
        })?;
    bpf::build(workspace, &compiler, &linker)
}

/// Every binary and library of the workspace.
pub(crate) fn binaries(workspace: &Workspace, release: bool) -> Result<()> {
    let mut command = workspace.cargo();
    command.args(["build", "--locked"]);
    if release {
        command.arg("--release");
    }
    run("cargo build", &mut command)
}

/// A debug binary.
pub(crate) fn debug_binary(workspace: &Workspace, name: &str) -> Result<std::path::PathBuf> {
    binary(workspace, "debug", name)
}

/// An optimised binary.
pub(crate) fn release_binary(workspace: &Workspace, name: &str) -> Result<std::path::PathBuf> {
    binary(workspace, "release", name)
}

fn binary(workspace: &Workspace, folder: &str, name: &str) -> Result<std::path::PathBuf> {
    let path = workspace.target().join(folder).join(name);
    anyhow::ensure!(
        path.is_file(),
        "{} was not built: is the binary {name} in a Cargo.toml?",
        path.display()
    );
    Ok(path)
}

/// How to run the same thing as root. Cargo's own files must not become root's, so only the binary is run so.
pub(crate) fn need_root(what: &str, binary: &Path) -> Result<()> {
    if workspace::is_root() {
        return Ok(());
    }
    complain(&format!(
        "{what} loads BPF programs and makes network namespaces, which only root may do. It is built; run:\n\n    sudo {}\n",
        binary.display()
    ));
    anyhow::bail!("{what} was not run: not root")
}
