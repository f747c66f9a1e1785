//! The real etcd and kube-apiserver of the tests, built from their Go modules once and kept outside the tree.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::process::{capture, run_logged, say};
use crate::workspace::{Workspace, find_program, home};

/// One binary: its name, its module's folder under tests/testbed, and the package.
struct Binary {
    name: &'static str,
    module: &'static str,
    package: &'static str,
}

/// In the order in which they are built: the quick one first.
const BINARIES: [Binary; 2] = [
    Binary {
        name: "etcd",
        module: "etcd",
        package: "go.etcd.io/etcd/server/v3",
    },
    Binary {
        name: "kube-apiserver",
        module: "kubernetes",
        package: "k8s.io/kubernetes/cmd/kube-apiserver",
    },
];

/// The modules in the order in which their go.sum files make the key.
const KEYED: [&str; 2] = ["kubernetes", "etcd"];

/// The oldest Go that knows `tool` lines and builds this Kubernetes.
const GO: &str = "1.26";

/// Whether the binaries are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// In this folder.
    Present(PathBuf),
    /// To be built into this folder.
    Missing(PathBuf),
    /// POLPROOF_TESTBED names a folder that lacks one.
    Elsewhere(PathBuf),
}

/// Looks for them.
pub(crate) fn state(workspace: &Workspace) -> Result<State> {
    if let Some(folder) = std::env::var_os("POLPROOF_TESTBED") {
        let folder = PathBuf::from(folder);
        return Ok(if complete(&folder) {
            State::Present(folder)
        } else {
            State::Elsewhere(folder)
        });
    }
    let folder = cache().join("testbed").join(key(workspace.root(), &KEYED)?);
    Ok(if complete(&folder) {
        State::Present(folder)
    } else {
        State::Missing(folder)
    })
}

fn complete(folder: &Path) -> bool {
    BINARIES
        .iter()
        .all(|binary| folder.join(binary.name).is_file())
}

/// Where built things live that outlast a checkout.
pub(crate) fn cache() -> PathBuf {
    std::env::var_os("POLPROOF_CACHE").map_or_else(|| home().join(".cache/polproof"), PathBuf::from)
}

/// The first 16 hexadecimal digits of the SHA-256 over the go.sum files of these modules.
pub(crate) fn key(root: &Path, modules: &[&str]) -> Result<String> {
    let mut hash = Sha256::new();
    for module in modules {
        let file = root.join("tests/testbed").join(module).join("go.sum");
        let text = std::fs::read(&file).with_context(|| format!("read {}", file.display()))?;
        hash.update(text);
    }
    let digits: String = hash
        .finalize()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Ok(digits)
}

/// The Go compiler, if there is one.
pub(crate) fn go() -> Option<(PathBuf, String)> {
    let go = find_program("go")?;
    let version = capture(Command::new(&go).args(["env", "GOVERSION"])).ok()?;
    Some((go, version.trim().to_owned()))
}

/// What to install where there is no Go.
pub(crate) fn remedy() -> String {
    format!(
        "install Go {GO} or later from https://go.dev/dl and put it into PATH, then run `cargo xtask setup`"
    )
}

/// Builds what is missing at the lowest priority, so that cargo may work beside it.
pub(crate) fn build(workspace: &Workspace, folder: &Path) -> Result<()> {
    let (go, _) = go().with_context(remedy)?;
    let parent = folder.parent().context("the cache folder has no parent")?;
    std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    // Two checkouts of one key must not build the same thing twice at once.
    let lock = parent.join("lock");
    let lock = File::create(&lock).with_context(|| format!("write {}", lock.display()))?;
    if lock.try_lock().is_err() {
        say("    another build of the test binaries is under way; waiting for it");
        lock.lock().context("wait for the other build")?;
    }
    for binary in BINARIES {
        let done = folder.join(binary.name);
        if done.is_file() {
            continue;
        }
        let partial = folder.join(format!("{}.partial", binary.name));
        let module = workspace.root().join("tests/testbed").join(binary.module);
        let mut command = workspace.command("nice");
        command
            .args(["-n", "19"])
            .arg(&go)
            .args(["build", "-trimpath", "-ldflags"])
            .arg(link_flags(&module)?)
            .arg("-o")
            .arg(&partial)
            .arg(binary.package)
            .env("CGO_ENABLED", "0")
            .current_dir(&module);
        let what = format!("go build {} for the tests", binary.name);
        run_logged(&what, &mut command, &workspace.log(binary.name))?;
        // Renamed only when whole: a build that was killed leaves nothing that looks finished.
        std::fs::rename(&partial, &done)
            .with_context(|| format!("rename {} to {}", partial.display(), done.display()))?;
    }
    Ok(())
}

/// Strips the binary, and tells Kubernetes its version: it refuses to start with none.
fn link_flags(module: &Path) -> Result<String> {
    let file = module.join("go.mod");
    let text =
        std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    let version = text.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["k8s.io/kubernetes", version, ..] | ["require", "k8s.io/kubernetes", version, ..] => {
                Some((*version).to_owned())
            }
            _ => None,
        }
    });
    Ok(version.map_or_else(
        || "-s -w".to_owned(),
        |version| format!("-s -w -X k8s.io/component-base/version.gitVersion={version}"),
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_key_depends_on_both_files_and_the_version_comes_from_the_module() {
        let root = tempfile::tempdir().unwrap();
        for module in KEYED {
            let folder = root.path().join("tests/testbed").join(module);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("go.sum"), module).unwrap();
            std::fs::write(folder.join("go.mod"), "module m\n").unwrap();
        }
        let first = key(root.path(), &KEYED).unwrap();
        assert_eq!(first.len(), 16);
        let etcd = root.path().join("tests/testbed/etcd");
        std::fs::write(etcd.join("go.sum"), "other").unwrap();
        assert_ne!(first, key(root.path(), &KEYED).unwrap());
        assert_eq!(link_flags(&etcd).unwrap(), "-s -w");
        std::fs::write(
            etcd.join("go.mod"),
            "require (\n\tk8s.io/kubernetes v1.36.2 // indirect\n)\n",
        )
        .unwrap();
        assert!(link_flags(&etcd).unwrap().ends_with("gitVersion=v1.36.2"));
        std::fs::remove_file(etcd.join("go.sum")).unwrap();
        assert!(key(root.path(), &KEYED).is_err());
    }

    #[test]
    fn a_half_built_folder_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("etcd"), "").unwrap();
        std::fs::write(folder.path().join("kube-apiserver.partial"), "").unwrap();
        assert!(!complete(folder.path()));
        std::fs::write(folder.path().join("kube-apiserver"), "").unwrap();
        assert!(complete(folder.path()));
    }
}
