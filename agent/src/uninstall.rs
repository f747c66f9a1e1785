//! Removes what the agent leaves pinned on purpose.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, bail};
use nix::fcntl::{Flock, FlockArg};

/// Removes every version's programs, links and maps below a folder. A link without a pin and without an agent is
/// detached by the kernel.
///
/// # Errors
/// An agent is running, or something cannot be removed.
pub fn uninstall(bpf_dir: &Path) -> anyhow::Result<()> {
    let entries = match std::fs::read_dir(bpf_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            tracing::info!(bpf_dir = %bpf_dir.display(), "nothing is pinned there");
            return Ok(());
        }
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read {}", bpf_dir.display()));
        }
    };
    let mut removed = 0;
    for entry in entries {
        let path = entry
            .with_context(|| format!("cannot read {}", bpf_dir.display()))?
            .path();
        // Only what an agent makes: a wrong --bpf-dir must not cost somebody else's pins.
        let ours = path
            .file_name()
            .is_some_and(|n| n.to_string_lossy().starts_with("abi-"));
        if !ours || !path.is_dir() {
            continue;
        }
        let folder =
            File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        let Ok(_held) = Flock::lock(folder, FlockArg::LockExclusiveNonblock) else {
            bail!(
                "a polproof-agent is running on {}: stop it first",
                path.display()
            );
        };
        std::fs::remove_dir_all(&path)
            .with_context(|| format!("cannot remove {}", path.display()))?;
        removed += 1;
        tracing::info!(path = %path.display(), "removed the pinned programs, links and maps");
    }
    // Only if it is empty.
    let _ = std::fs::remove_dir(bpf_dir);
    if removed == 0 {
        tracing::info!(bpf_dir = %bpf_dir.display(), "nothing of the agent is pinned there");
    }
    Ok(())
}
