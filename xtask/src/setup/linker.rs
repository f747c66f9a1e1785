//! Installing bpf-linker for the LLVM of the compiler.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::debian;
use crate::process::run_logged;
use crate::workspace::Workspace;

/// Its version: what the build was tried with.
const VERSION: &str = "0.13.0";

fn prefix(llvm: u32) -> PathBuf {
    PathBuf::from(format!("/usr/lib/llvm-{llvm}"))
}

/// What to type by hand.
pub(super) fn command_line(llvm: u32) -> String {
    format!(
        "install LLVM {llvm} with headers (Debian: llvm-{llvm}-dev g++), then LLVM_PREFIX={} cargo install bpf-linker \
         --version {VERSION} --no-default-features --features llvm-{llvm} --force",
        prefix(llvm).display()
    )
}

/// Installs LLVM's headers where they are missing, and builds the linker.
pub(super) fn install(workspace: &Workspace, llvm: u32) -> Result<()> {
    if !has_headers(&prefix(llvm)) {
        debian::install(workspace, &[format!("llvm-{llvm}-dev"), "g++".to_owned()])?;
    }
    // With the versions that its authors locked; without, should one of them be gone.
    for locked in [true, false] {
        let mut command = workspace.cargo();
        command
            .args(["install", "bpf-linker", "--version", VERSION, "--force"])
            .args(["--no-default-features", "--features"])
            .arg(format!("llvm-{llvm}"))
            .env("LLVM_PREFIX", prefix(llvm))
            // Outside the checkout: its Cargo.lock and settings are not for this program.
            .current_dir("/");
        if locked {
            command.arg("--locked");
        }
        let log = workspace.log("bpf-linker");
        let result = run_logged("cargo install bpf-linker", &mut command, &log);
        if result.is_ok() || !locked {
            return result;
        }
    }
    Ok(())
}

fn has_headers(prefix: &Path) -> bool {
    prefix.join("include/llvm-c/Core.h").is_file() && prefix.join("bin/llvm-config").is_file()
}
