//! Packages of Debian and its relatives, by apt.

use std::path::{Path, PathBuf};
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
        update(workspace)?;
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

fn update(workspace: &Workspace) -> Result<()> {
    let mut update = apt(workspace);
    update.arg("update");
    run_logged("apt-get update", &mut update, &workspace.log("apt-update"))
}

/// The newest package whose name fits a pattern.
pub(super) fn newest(workspace: &Workspace, pattern: &str) -> Result<String> {
    if !has_apt() {
        bail!("{} has no apt-get", pretty_name());
    }
    let search = || -> Result<Option<String>> {
        let text = capture(Command::new("apt-cache").args(["search", "--names-only", pattern]))?;
        Ok(newest_of(&text))
    };
    // Only root may fetch the lists; for others those that are there must do.
    let mut found = search()?;
    if is_root() && (found.is_none() || !lists_are_fresh()) {
        update(workspace)?;
        found = search()?;
    }
    match found {
        Some(package) => Ok(package),
        None => bail!(
            "{} has no package that fits {pattern} (is its security archive among apt's sources?)",
            pretty_name()
        ),
    }
}

/// The package with the highest numbers in its name, of what `apt-cache search` prints.
fn newest_of(text: &str) -> Option<String> {
    let numbers = |name: &str| -> Vec<u64> {
        name.split(|letter: char| !letter.is_ascii_digit())
            .filter_map(|digits| digits.parse().ok())
            .collect()
    };
    text.lines()
        .filter_map(|line| line.split_whitespace().next())
        .max_by_key(|name| numbers(name))
        .map(str::to_owned)
}

/// Downloads a package into a folder, which must hold no other; returns the file.
pub(super) fn download(workspace: &Workspace, package: &str, folder: &Path) -> Result<PathBuf> {
    let mut download = apt(workspace);
    download.args(["download", package]).current_dir(folder);
    let what = format!("apt-get download {package}");
    run_logged(&what, &mut download, &workspace.log("apt-download"))?;
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            return Ok(path);
        }
    }
    bail!(
        "apt-get succeeded, yet there is no .deb in {}",
        folder.display()
    )
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
    fn the_highest_numbers_are_the_newest() {
        let text = "linux-image-6.1.0-9-x - Linux 6.1\nlinux-image-6.1.0-56-x - Linux 6.1\n\
                    linux-image-6.1.0-47-x - Linux 6.1\n";
        assert_eq!(newest_of(text).as_deref(), Some("linux-image-6.1.0-56-x"));
        assert_eq!(newest_of(""), None);
    }

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
