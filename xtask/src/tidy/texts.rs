//! Rules for every text: no traces of somebody's machine, and a docs page that knows every crate.

use std::path::Path;

use super::Tree;
use super::dependencies::Crate;
use crate::workspace::home;

/// Folders that lie on everybody's machine and so may be named.
const PUBLIC: &[&str] = &[
    "/", "/root", "/home", "/tmp", "/usr", "/var", "/opt", "/srv", "/mnt", "/src",
];

/// Where people keep their own files.
const HOMES: &[&str] = &["/home/", "/Users/"];

/// The page that must know every crate.
const MAP: &str = "docs/ARCHITECTURE.md";

/// All rules of this file.
pub(super) fn check(tree: &Tree, crates: &[Crate], root: &Path) -> Vec<String> {
    let mut complaints = private_paths(tree, &private(root, &home()));
    complaints.extend(conflicts(tree));
    complaints.extend(unmapped(tree, crates));
    complaints
}

/// The folders of this machine that no text may name: this checkout, what it lies in, and the user's home.
fn private(root: &Path, home: &Path) -> Vec<String> {
    let mut folders: Vec<String> = [Some(root), root.parent(), Some(home)]
        .into_iter()
        .flatten()
        .map(|folder| folder.display().to_string())
        .filter(|folder| folder.starts_with('/') && !PUBLIC.contains(&folder.as_str()))
        .collect();
    folders.extend(HOMES.iter().map(|folder| (*folder).to_owned()));
    folders
}

fn private_paths(tree: &Tree, private: &[String]) -> Vec<String> {
    let mut complaints = Vec::new();
    // This file has to name the folders that it forbids.
    let others = tree
        .files
        .iter()
        .filter(|(path, _)| !path.ends_with("tidy/texts.rs"));
    for (path, text) in others {
        for (number, line) in text.lines().enumerate() {
            for folder in private {
                if names_folder(line, folder) {
                    complaints.push(format!(
                        "{}:{}: names {folder}, a folder of one machine",
                        path.display(),
                        number + 1
                    ));
                }
            }
        }
    }
    complaints
}

/// Whether a line names the folder as an absolute path, not as a part of a longer one.
fn names_folder(line: &str, folder: &str) -> bool {
    line.match_indices(folder).any(|(at, _)| {
        let before = line.get(..at).and_then(|text| text.chars().next_back());
        let after = line
            .get(at + folder.len()..)
            .and_then(|text| text.chars().next());
        let part_of_path = |letter: char| letter.is_alphanumeric() || "._-~}".contains(letter);
        !before.is_some_and(part_of_path)
            && (folder.ends_with('/')
                || !after.is_some_and(|letter| letter.is_alphanumeric() || "._-".contains(letter)))
    })
}

fn conflicts(tree: &Tree) -> Vec<String> {
    let mut complaints = Vec::new();
    for (path, text) in &tree.files {
        for (number, line) in text.lines().enumerate() {
            let marker = line.get(..8).unwrap_or(line);
            if matches!(marker, "<<<<<<< " | ">>>>>>> ") {
                complaints.push(format!(
                    "{}:{}: a merge conflict",
                    path.display(),
                    number + 1
                ));
            }
        }
    }
    complaints
}

fn unmapped(tree: &Tree, crates: &[Crate]) -> Vec<String> {
    let Some(map) = tree.text(MAP) else {
        return vec![format!("{MAP}: is not there")];
    };
    crates
        .iter()
        .map(|crate_| format!("{}/", crate_.folder.display()))
        .filter(|folder| !map.contains(&format!("`{folder}")))
        .map(|folder| format!("{MAP}: does not say what `{folder}` is"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_one_machine_are_named() {
        let private = private(Path::new("/data/polproof"), Path::new("/root"));
        assert_eq!(private, ["/data/polproof", "/data", "/home/", "/Users/"]);
        let of = |text: &str| private_paths(&Tree::from([("README.md", text)]), &private);
        assert_eq!(of("see /data/polproof/x").len(), 2);
        assert_eq!(of("see /home/somebody").len(), 1);
        assert_eq!(
            of("see agent/data/x, ./data and /database"),
            Vec::<String>::new()
        );
    }

    #[test]
    fn conflict_markers_are_named() {
        let text = ["<<<<<<< ours", "=======", ">>>>>>> theirs"].join("\n");
        assert_eq!(conflicts(&Tree::from([("a.rs", text.as_str())])).len(), 2);
        assert_eq!(
            conflicts(&Tree::from([("a.md", "=======\n<<<< x")])),
            Vec::<String>::new()
        );
    }

    #[test]
    fn a_crate_that_the_map_forgets_is_named() {
        let crates = ["agent", "flow"].map(|folder| Crate {
            folder: folder.into(),
            main: "x".into(),
            roots: Vec::new(),
        });
        let tree = Tree::from([(MAP, "| `agent/` | watches |")]);
        assert_eq!(
            unmapped(&tree, &crates),
            ["docs/ARCHITECTURE.md: does not say what `flow/` is"]
        );
        assert_eq!(unmapped(&Tree::default(), &crates).len(), 1);
    }
}
