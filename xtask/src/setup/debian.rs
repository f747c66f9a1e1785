//! Packages of Debian and its relatives, by apt.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::process::{capture, run_logged};
use crate::workspace::{Workspace, find_program, is_root};

/// A rustc with a prebuilt `core` for BPF.
pub(super) const BPF_COMPILER: [&str; 2] = ["rustc-web", "libstd-rust-web-dev-bpf"];

/// Package lists older than this are fetched anew: the versions in them may be gone from the archive.
const LISTS_FRESH: Duration = Duration::from_secs(24 * 3600);

/// What the distribution calls itself.
pub(super) fn pretty_name() -> String {
    field("PRETTY_NAME").unwrap_or_else(|| "an unknown distribution".to_owned())
}

fn field(name: &str) -> Option<String> {
    let text = std::fs::read_to_string("/etc/os-release").ok()?;
    field_of(&text, name)
}

fn field_of(text: &str, name: &str) -> Option<String> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
        .map(|value| value.trim_matches('"').to_owned())
}

/// Whether the distribution takes packages of Debian's names by apt.
fn has_apt() -> bool {
    let related = ["ID", "ID_LIKE"].into_iter().filter_map(field).any(|ids| {
        ids.split_whitespace()
            .any(|id| matches!(id, "debian" | "ubuntu"))
    });
    related && find_program("apt-get").is_some()
}

/// What a person has to do for these packages.
pub(super) fn by_hand(packages: &[String]) -> String {
    let packages = packages.join(" ");
    if has_apt() {
        format!("as root: apt-get install --no-install-recommends {packages}")
    } else {
        format!(
            "install what Debian calls {packages} ({} is not known to this program)",
            pretty_name()
        )
    }
}

/// Installs packages, if this is a system and a user that can.
pub(super) fn install(workspace: &Workspace, packages: &[String]) -> Result<()> {
    if !has_apt() || !is_root() {
        bail!("cannot install packages here: {}", by_hand(packages));
    }
    let unknown = |package: &&String| !has_candidate(package);
    if !lists_are_fresh() || packages.iter().any(|package| unknown(&package)) {
        let mut update = apt(workspace);
        update.arg("update");
        run_logged("apt-get update", &mut update, &workspace.log("apt-update"))?;
    }
    let (known, missing): (Vec<&String>, Vec<&String>) =
        packages.iter().partition(|package| has_candidate(package));
    if !known.is_empty() {
        let mut install = apt(workspace);
        // --no-remove: rather fail than take away a rustc that somebody uses.
        install
            .args(["install", "-y", "--no-install-recommends", "--no-remove"])
            .args(&known);
        let names: Vec<&str> = known.iter().map(|name| name.as_str()).collect();
        let what = format!("apt-get install {}", names.join(" "));
        run_logged(&what, &mut install, &workspace.log("apt-install"))?;
    }
    if !missing.is_empty() {
        let names: Vec<&str> = missing.iter().map(|name| name.as_str()).collect();
        bail!("{} has no package {}", pretty_name(), names.join(", "));
    }
    Ok(())
}

fn apt(workspace: &Workspace) -> Command {
    let mut command = workspace.command("apt-get");
    command
        .args(["-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=3"])
        .env("DEBIAN_FRONTEND", "noninteractive");
    command
}

fn has_candidate(package: &str) -> bool {
    capture(Command::new("apt-cache").args(["policy", package])).is_ok_and(|text| {
        text.lines()
            .find_map(|line| line.trim().strip_prefix("Candidate:"))
            .is_some_and(|candidate| candidate.trim() != "(none)")
    })
}

fn lists_are_fresh() -> bool {
    // apt writes this folder on every update.
    std::fs::metadata(Path::new("/var/lib/apt/lists/partial"))
        .and_then(|meta| meta.modified())
        .is_ok_and(|at| at.elapsed().is_ok_and(|age| age < LISTS_FRESH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn os_release_is_read_with_and_without_quotes() {
        let text = "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\nID_LIKE=\"a b\"\n";
        assert_eq!(
            field_of(text, "PRETTY_NAME").as_deref(),
            Some("Debian GNU/Linux 12 (bookworm)")
        );
        assert_eq!(field_of(text, "ID").as_deref(), Some("debian"));
        assert_eq!(field_of(text, "ID_LIKE").as_deref(), Some("a b"));
        assert_eq!(field_of(text, "VERSION"), None);
    }
}
