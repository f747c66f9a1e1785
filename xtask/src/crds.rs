//! The definitions of the admin policies' kinds for the tests, read from their Go modules: nothing of them is copied into
//! the tree. One version of the module has AdminNetworkPolicy, a later one ClusterNetworkPolicy.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process::{capture, say};
use crate::testbed;
use crate::workspace::Workspace;

/// The module.
const MODULE: &str = "sigs.k8s.io/network-policy-api";

/// The folder in it: the experimental definitions have every field, the standard ones fewer.
const FOLDER: &str = "config/crd/experimental";

/// Where each version of the module is asked for, and the files that it has.
const VERSIONS: [(&str, &[&str]); 2] = [
    (
        "network-policy-api/v1alpha1",
        &[
            "policy.networking.k8s.io_adminnetworkpolicies.yaml",
            "policy.networking.k8s.io_baselineadminnetworkpolicies.yaml",
        ],
    ),
    (
        "network-policy-api/v1alpha2",
        &["policy.networking.k8s.io_clusternetworkpolicies.yaml"],
    ),
];

/// The folder with the files, and whether they are all there.
pub(crate) fn state(workspace: &Workspace) -> Result<(PathBuf, bool)> {
    let folder = match std::env::var_os("POLPROOF_TESTBED") {
        Some(folder) => PathBuf::from(folder).join("crds"),
        None => {
            let modules = VERSIONS.map(|(module, _)| module);
            let key = testbed::key(workspace.root(), &modules)?;
            testbed::cache().join("testbed").join(format!("crds-{key}"))
        }
    };
    let complete = complete(&folder);
    Ok((folder, complete))
}

fn complete(folder: &Path) -> bool {
    VERSIONS
        .iter()
        .flat_map(|(_, files)| *files)
        .all(|file| folder.join(file).is_file())
}

/// Downloads the modules (a few MB) and takes the files out of them.
pub(crate) fn fetch(workspace: &Workspace) -> Result<()> {
    let (folder, complete) = state(workspace)?;
    let Some((go, _)) = testbed::go().filter(|_| !complete) else {
        return Ok(()); // there already, or named as missing
    };
    say(format_args!("==> download the CRDs of {MODULE}"));
    std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    for (version, files) in VERSIONS {
        let module = workspace.root().join("tests/testbed").join(version);
        let in_module = |args: &[&str]| {
            let mut command = Command::new(&go);
            command.args(args).current_dir(&module);
            command.env("GOFLAGS", "-mod=mod").env("GOWORK", "off");
            capture(&mut command)
        };
        in_module(&["mod", "download", MODULE])?;
        let source = in_module(&["list", "-m", "-f", "{{.Dir}}", MODULE])?;
        let source = Path::new(source.trim()).join(FOLDER);
        for file in files {
            // Renamed only when whole: files of the module cache are read-only, and so would be the copies.
            let partial = folder.join(format!("{file}.partial"));
            let from = source.join(file);
            let text = std::fs::read(&from).with_context(|| format!("read {}", from.display()))?;
            std::fs::write(&partial, text)
                .with_context(|| format!("write {}", partial.display()))?;
            let done = folder.join(file);
            std::fs::rename(&partial, &done)
                .with_context(|| format!("rename {} to {}", partial.display(), done.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn one_missing_file_is_a_missing_testbed() {
        let folder = tempfile::tempdir().unwrap();
        for (_, files) in VERSIONS {
            for file in files {
                assert!(!complete(folder.path()));
                std::fs::write(folder.path().join(file), "").unwrap();
            }
        }
        assert!(complete(folder.path()));
    }
}
