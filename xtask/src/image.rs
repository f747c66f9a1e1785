//! `cargo xtask image`: container images of the agent, the collector and the command.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::process::{capture, run, say};
use crate::workspace::{Workspace, find_program};

/// Options of `cargo xtask image`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Tag of the images.
    #[arg(long, default_value = "dev")]
    tag: String,
    /// Registry and path before the names.
    #[arg(long, default_value = "localhost")]
    repository: String,
}

/// `cargo xtask image`.
pub(crate) fn command(workspace: &Workspace, options: &Options) -> Result<()> {
    let files = dockerfiles(&workspace.root().join("deploy/docker"))?;
    let builder = builder(workspace)?;
    // Everything is compiled inside, so that an image does not depend on the machine that makes it.
    for (name, file) in files {
        let image = format!("{}/{name}:{}", options.repository, options.tag);
        let mut command = workspace.command(&builder);
        command.args(["build", "--tag", &image, "--file"]);
        command.arg(&file).arg(workspace.root());
        run(&format!("image {image}"), &mut command)?;
    }
    Ok(())
}

/// Each deploy/docker/NAME.Dockerfile makes the image polproof-NAME.
fn dockerfiles(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut files: Vec<(String, PathBuf)> = std::fs::read_dir(folder)
        .with_context(|| format!("read {}", folder.display()))?
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            let name = name.strip_suffix(".Dockerfile")?;
            Some((format!("polproof-{name}"), entry.path()))
        })
        .collect();
    files.sort();
    if files.is_empty() {
        bail!(
            "no image can be built: {} holds no NAME.Dockerfile",
            folder.display()
        );
    }
    Ok(files)
}

/// A builder that answers: a docker client without a daemon is none.
fn builder(workspace: &Workspace) -> Result<PathBuf> {
    let mut tried = Vec::new();
    for name in ["docker", "buildah", "podman"] {
        let Some(path) = find_program(name) else {
            tried.push(format!("{name}: not installed"));
            continue;
        };
        match capture(workspace.command(&path).arg("info")) {
            Ok(_) => return Ok(path),
            Err(error) => tried.push(format!("{name}: {error:#}")),
        }
    }
    for line in &tried {
        say(format_args!("    {line}"));
    }
    bail!(
        "no image was built: none of docker, buildah and podman works here. Install one, or build the binaries with \
         `cargo xtask build --release` and put them into an image as the Dockerfiles in deploy/docker do"
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn an_image_is_named_after_its_dockerfile_and_none_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(dockerfiles(folder.path()).is_err());
        std::fs::write(folder.path().join("agent.Dockerfile"), "").unwrap();
        std::fs::write(folder.path().join("README.md"), "").unwrap();
        let found = dockerfiles(folder.path()).unwrap();
        let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["polproof-agent"]);
    }
}
