//! Every .rs file is compiled by somebody: reachable from a target of a crate by `mod`, `#[path]` or `include!`.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use super::Tree;
use super::lexer::code;

/// Complains of every file that no root reaches.
pub(super) fn check(tree: &Tree, roots: &[PathBuf]) -> Vec<String> {
    let mut reached: BTreeSet<PathBuf> = BTreeSet::new();
    let mut complaints = Vec::new();
    let mut queue: Vec<(PathBuf, bool)> = roots.iter().map(|root| (root.clone(), true)).collect();
    while let Some((file, is_root)) = queue.pop() {
        if !reached.insert(file.clone()) {
            continue;
        }
        let Some(text) = tree.text(&file) else {
            complaints.push(format!(
                "{}: a target names it, and it is not there",
                file.display()
            ));
            continue;
        };
        for candidates in children(&file, is_root, text) {
            queue.extend(
                candidates
                    .into_iter()
                    .filter(|path| tree.text(path).is_some())
                    .map(|path| (path, false)),
            );
        }
    }
    complaints.extend(
        tree.rust()
            .filter(|(path, _)| !reached.contains(*path))
            .map(|(path, _)| {
                format!(
                    "{}: no crate compiles it: declare it with `mod`, or delete it",
                    path.display()
                )
            }),
    );
    complaints
}

/// The files that a file declares, each with the places where it may lie.
fn children(file: &Path, is_root: bool, text: &str) -> Vec<Vec<PathBuf>> {
    let folder = file.parent().unwrap_or(Path::new(""));
    let owns_folder = is_root || file.file_name().is_some_and(|name| name == "mod.rs");
    let home = if owns_folder {
        folder.to_owned()
    } else {
        file.with_extension("")
    };
    let mut found = Vec::new();
    // The inline modules that we are in, each with the depth of braces at its opening.
    let mut inline: Vec<(String, usize)> = Vec::new();
    let mut depth = 0usize;
    let mut path_attribute: Option<String> = None;
    let blanked = code(text);
    let tokens: Vec<(usize, &str)> = tokens(&blanked);
    for (index, (offset, token)) in tokens.iter().enumerate() {
        let next = |ahead: usize| tokens.get(index + ahead).map(|(_, token)| *token);
        match *token {
            "{" => depth += 1,
            "}" => {
                depth = depth.saturating_sub(1);
                inline.retain(|(_, opened)| *opened < depth);
            }
            "path" if next(1) == Some("=") && is_attribute(&tokens, index) => {
                path_attribute = literal_after(text, &blanked, *offset)
            }
            "include" if next(1) == Some("!") && next(3) == Some("\"") => {
                let literal = literal_after(text, &blanked, *offset);
                found.extend(literal.map(|literal| vec![normal(&folder.join(literal))]));
            }
            "mod" => {
                let Some(name) = next(1).map(|name| name.trim_start_matches("r#")) else {
                    continue;
                };
                match next(2) {
                    Some("{") => inline.push((name.to_owned(), depth)),
                    Some(";") => {
                        let nested: PathBuf = inline.iter().map(|(name, _)| name).collect();
                        found.push(match path_attribute.take() {
                            Some(path) if inline.is_empty() => vec![normal(&folder.join(path))],
                            Some(path) => vec![normal(&home.join(nested).join(path))],
                            None => {
                                let base = home.join(nested);
                                vec![
                                    base.join(format!("{name}.rs")),
                                    base.join(name).join("mod.rs"),
                                ]
                            }
                        });
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }
    found
}

/// Whether the token stands right behind `#[`: `path = ...` in code is something else.
fn is_attribute(tokens: &[(usize, &str)], index: usize) -> bool {
    let before = |back: usize| {
        tokens
            .get(index.checked_sub(back)?)
            .map(|(_, token)| *token)
    };
    before(1) == Some("[") && before(2) == Some("#")
}

/// Words and single other characters, with their offsets.
fn tokens(code: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut word: Option<usize> = None;
    for (offset, letter) in code.char_indices() {
        let in_word = letter.is_alphanumeric() || letter == '_' || letter == '#' && word.is_some();
        if in_word {
            word.get_or_insert(offset);
            continue;
        }
        if let Some(start) = word.take() {
            found.extend(code.get(start..offset).map(|token| (start, token)));
        }
        if !letter.is_whitespace() {
            found.extend(
                code.get(offset..offset + letter.len_utf8())
                    .map(|token| (offset, token)),
            );
        }
    }
    if let Some(start) = word {
        found.extend(code.get(start..).map(|token| (start, token)));
    }
    found
}

/// The contents of the first string literal after an offset.
fn literal_after(text: &str, code: &str, offset: usize) -> Option<String> {
    let open = offset + code.get(offset..)?.find('"')?;
    let close = open + 1 + code.get(open + 1..)?.find('"')?;
    text.get(open + 1..close).map(str::to_owned)
}

/// A path without `.` and `..`.
fn normal(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                clean.pop();
            }
            part => clean.push(part),
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(tree: &Tree) -> Vec<String> {
        check(tree, &["a/src/lib.rs".into()])
    }

    #[test]
    fn every_way_to_declare_a_file_is_followed() {
        let tree = Tree::from([
            (
                "a/src/lib.rs",
                "pub mod plain;\nfn f() { let path = \"x\"; }\nmod folder;\n#[cfg(test)]\n#[path = \"odd/name.rs\"]\nmod odd;\n\
                 mod inline { mod deep; }\nmod after;\ninclude!(\"../shared/table.rs\");",
            ),
            ("a/src/plain.rs", "mod child;"),
            ("a/src/plain/child.rs", ""),
            ("a/src/folder/mod.rs", "mod sibling;"),
            ("a/src/folder/sibling.rs", ""),
            ("a/src/odd/name.rs", ""),
            ("a/src/inline/deep.rs", ""),
            ("a/src/after.rs", ""),
            ("a/shared/table.rs", ""),
        ]);
        assert_eq!(complaints(&tree), Vec::<String>::new());
    }

    #[test]
    fn an_orphan_is_named() {
        let tree = Tree::from([
            (
                "a/src/lib.rs",
                "// mod orphan;\nconst X: &str = \"mod orphan;\";",
            ),
            ("a/src/orphan.rs", ""),
        ]);
        assert_eq!(
            complaints(&tree),
            ["a/src/orphan.rs: no crate compiles it: declare it with `mod`, or delete it"]
        );
    }

    #[test]
    fn a_file_beside_the_one_that_is_meant_is_an_orphan() {
        // `mod child;` in plain.rs means plain/child.rs, not child.rs.
        let tree = Tree::from([
            ("a/src/lib.rs", "mod plain;"),
            ("a/src/plain.rs", "mod child;"),
            ("a/src/child.rs", ""),
        ]);
        assert_eq!(complaints(&tree).len(), 1);
    }

    #[test]
    fn a_target_without_a_file_is_named() {
        assert_eq!(complaints(&Tree::default()).len(), 1);
    }
}
