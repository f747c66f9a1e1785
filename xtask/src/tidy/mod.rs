//! `cargo xtask tidy`: the rules of the repository that neither rustc nor clippy knows.
//!
//! Each check is a function from what was read (files, cargo's metadata) to complaints, so its tests need no disk.

mod dependencies;
mod lexer;
mod modules;
mod sources;
mod texts;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::process::{capture, complain, say};
use crate::workspace::Workspace;

/// The text files of the checkout, by path from the top.
#[derive(Debug, Default)]
struct Tree {
    files: BTreeMap<PathBuf, String>,
}

impl Tree {
    /// Reads everything but build output, git's own files and what is no text.
    fn read(root: &Path) -> Result<Self> {
        let mut tree = Self::default();
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            let entries = std::fs::read_dir(&folder)
                .with_context(|| format!("read the folder {}", folder.display()))?;
            for entry in entries {
                let entry = entry.with_context(|| format!("read {}", folder.display()))?;
                let path = entry.path();
                let kind = entry
                    .file_type()
                    .with_context(|| path.display().to_string())?;
                if kind.is_dir() && !matches!(entry.file_name().to_str(), Some(".git" | "target")) {
                    folders.push(path);
                } else if kind.is_file()
                    && let Ok(text) = std::fs::read_to_string(&path)
                    && let Ok(relative) = path.strip_prefix(root)
                {
                    tree.files.insert(relative.to_owned(), text);
                }
            }
        }
        Ok(tree)
    }

    fn rust(&self) -> impl Iterator<Item = (&PathBuf, &String)> {
        self.files
            .iter()
            .filter(|(path, _)| path.extension().is_some_and(|extension| extension == "rs"))
    }

    fn text(&self, path: impl AsRef<Path>) -> Option<&str> {
        self.files.get(path.as_ref()).map(String::as_str)
    }
}

#[cfg(test)]
impl<const N: usize> From<[(&str, &str); N]> for Tree {
    fn from(files: [(&str, &str); N]) -> Self {
        let files = files.map(|(path, text)| (PathBuf::from(path), text.to_owned()));
        Self {
            files: files.into(),
        }
    }
}

/// `cargo xtask tidy`.
pub(crate) fn command(workspace: &Workspace) -> Result<()> {
    say("==> tidy");
    let tree = Tree::read(workspace.root())?;
    let metadata =
        capture(
            workspace
                .cargo()
                .args(["metadata", "--format-version", "1", "--locked"]),
        )?;
    let packages = dependencies::Packages::parse(&metadata, workspace.root())?;
    let mut complaints = dependencies::check(&packages);
    complaints.extend(modules::check(&tree, &packages.roots()));
    complaints.extend(sources::check(&tree, &packages.crates()));
    complaints.extend(texts::check(&tree, &packages.crates(), workspace.root()));
    complaints.sort();
    complaints.dedup();
    for complaint in &complaints {
        complain(&format!("tidy: {complaint}"));
    }
    if !complaints.is_empty() {
        bail!(
            "{} rules are broken (CONTRIBUTING.md says why each exists)",
            complaints.len()
        );
    }
    say(format_args!(
        "    tidy: {} files, nothing to complain about",
        tree.files.len()
    ));
    Ok(())
}
