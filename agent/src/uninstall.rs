//! Removes what the agent leaves behind on purpose: pins, and on kernels without tcx the filters in the pods' namespaces.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::fcntl::{Flock, FlockArg};

use crate::observe::{ObserveError, Swept, sweep};

/// How long the walk through the namespaces may take; each visit takes well under a millisecond, unless the kernel's network
/// lock is held.
const PATIENCE: Duration = Duration::from_secs(120);

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Folders of pinned programs, links and maps.
    pub folders: u32,
    /// Network namespaces that were looked into.
    pub namespaces: u32,
    /// Filters in them.
    pub filters: u32,
    /// Empty queueing disciplines that an agent had added for its filters.
    pub qdiscs: u32,
    /// Filters of agents with another pin directory, which were left alone.
    pub others: u32,
}

/// Removes every version's programs, links and maps below `bpf_dir`, and the filters of its agents from every namespace
/// that a file of `netns_dir` or a process of `proc_root` leads to. A link without a pin and without an agent is
/// detached by the kernel. Doing it again does no harm.
///
/// # Errors
/// An agent is running, or something cannot be removed: what could be removed is removed all the same.
pub fn uninstall(bpf_dir: &Path, netns_dir: &Path, proc_root: &Path) -> anyhow::Result<Removed> {
    let folders = folders(bpf_dir)?;
    // Held to the end: an agent that starts in between would attach what was just removed.
    let _held = folders
        .iter()
        .map(|path| lock(path))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let mut removed = Removed::default();
    let mut failures = Vec::new();
    filters(bpf_dir, netns_dir, proc_root, &mut removed, &mut failures);
    for path in &folders {
        match std::fs::remove_dir_all(path) {
            Ok(()) => {
                removed.folders += 1;
                tracing::info!(path = %path.display(), "removed the pinned programs, links and maps");
            }
            Err(error) => failures.push(format!("cannot remove {}: {error}", path.display())),
        }
    }
    // Only if it is empty.
    let _ = std::fs::remove_dir(bpf_dir);
    tracing::info!(
        pinned = removed.folders,
        filters = removed.filters,
        qdiscs = removed.qdiscs,
        namespaces = removed.namespaces,
        "{}",
        if removed.folders + removed.filters == 0 {
            "nothing of the agent was there"
        } else {
            "the agent's programs are removed"
        }
    );
    if removed.others > 0 {
        tracing::warn!(
            filters = removed.others,
            "filters of polproof agents with another --bpf-dir were left: `tc filter show dev eth0 ingress` in the pod's \
             namespace ends with it"
        );
    }
    if !failures.is_empty() {
        bail!(
            "not everything could be removed; do it again. {}",
            failures.join("; ")
        );
    }
    Ok(removed)
}

/// Only what an agent makes: a wrong --bpf-dir must not cost somebody else's pins.
fn folders(bpf_dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(bpf_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read {}", bpf_dir.display()));
        }
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry
            .with_context(|| format!("cannot read {}", bpf_dir.display()))?
            .path();
        let ours = path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("abi-"));
        if ours && path.is_dir() {
            found.push(path);
        }
    }
    Ok(found)
}

fn lock(path: &Path) -> anyhow::Result<Flock<File>> {
    let folder = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    Flock::lock(folder, FlockArg::LockExclusiveNonblock).map_err(|_| {
        anyhow::anyhow!(
            "a polproof-agent is running on {}: stop it first",
            path.display()
        )
    })
}

/// Sweeps every namespace once.
fn filters(
    bpf_dir: &Path,
    netns_dir: &Path,
    proc_root: &Path,
    removed: &mut Removed,
    failures: &mut Vec<String>,
) {
    let start = Instant::now();
    let mut seen = BTreeSet::new();
    let files = list(netns_dir).chain(
        list(proc_root)
            .filter(|path| {
                path.file_name().is_some_and(|name| {
                    name.to_string_lossy()
                        .bytes()
                        .all(|byte| byte.is_ascii_digit())
                })
            })
            .map(|path| path.join("ns/net")),
    );
    for path in files {
        // Many processes and files lead to one namespace; whatever else lies there is none.
        let Ok(data) = std::fs::metadata(&path) else {
            continue;
        };
        if !seen.insert((data.dev(), data.ino())) {
            continue;
        }
        if start.elapsed() > PATIENCE {
            failures.push(format!(
                "after {PATIENCE:?} and {} network namespaces some were not looked into yet",
                removed.namespaces
            ));
            return;
        }
        match sweep(&path, bpf_dir) {
            Ok(Swept {
                filters,
                qdiscs,
                others,
            }) => {
                removed.namespaces += 1;
                removed.filters += filters;
                removed.qdiscs += qdiscs;
                removed.others += others;
                if filters > 0 {
                    tracing::info!(
                        path = %path.display(), filters, qdiscs,
                        "removed the filters from a network namespace"
                    );
                }
            }
            // Gone since, or no namespace.
            Err(ObserveError::Enter { source, .. })
                if matches!(
                    source.raw_os_error(),
                    Some(libc::ENOENT | libc::ESRCH | libc::EINVAL)
                ) => {}
            Err(error) => failures.push(format!("{}: {error}", path.display())),
        }
    }
}

fn list(folder: &Path) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn nothing_is_removed_that_no_agent_made() {
        let root = tempfile::tempdir().unwrap();
        let bpf_dir = root.path().join("bpf");
        let nothing = root.path().join("none");
        let removed = uninstall(&bpf_dir, &nothing, &nothing).unwrap();
        assert_eq!(removed, Removed::default());
        std::fs::create_dir_all(bpf_dir.join("somebody")).unwrap();
        std::fs::create_dir_all(bpf_dir.join("abi-1/links")).unwrap();
        let removed = uninstall(&bpf_dir, &nothing, &nothing).unwrap();
        assert_eq!(removed.folders, 1);
        assert!(bpf_dir.join("somebody").is_dir() && !bpf_dir.join("abi-1").exists());
    }

    #[test]
    fn while_an_agent_runs_nothing_is_touched() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("abi-1");
        std::fs::create_dir(&folder).unwrap();
        let _agent = lock(&folder).unwrap();
        let error = uninstall(root.path(), root.path(), root.path())
            .unwrap_err()
            .to_string();
        assert!(error.contains("stop it first"), "{error}");
        assert!(folder.exists());
    }
}
