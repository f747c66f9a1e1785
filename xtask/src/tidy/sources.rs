//! Rules for single source files: size, names, unfinished code, and the docs that a crate begins with.

use std::path::Path;

use super::Tree;
use super::dependencies::Crate;
use super::lexer::code;

/// Past this, ask what second thing a file does.
const LINES: usize = 500;

/// Folders whose files may be longer, and why.
const LONGER: &[(&str, &str)] = &[("proto/src/gen", "written by a generator, read by nobody")];

/// File names that say nothing of what is inside.
const EMPTY_NAMES: &[&str] = &[
    "types", "common", "util", "utils", "misc", "helper", "helpers",
];

/// Ends of type names that say nothing of what the type does.
const EMPTY_ENDS: &[&str] = &["Manager", "Handler", "Processor", "Helper", "Util", "Utils"];

/// Macros that are for a working day and not for a commit.
const UNFINISHED: &[&str] = &["todo!", "unimplemented!", "dbg!"];

/// All rules of this file.
pub(super) fn check(tree: &Tree, crates: &[Crate]) -> Vec<String> {
    let mut complaints = Vec::new();
    for (path, text) in tree.rust() {
        let code = code(text);
        complaints.extend(too_long(path, text));
        complaints.extend(empty_name(path, &code));
        complaints.extend(unfinished(path, &code));
    }
    for crate_ in crates {
        complaints.extend(introduction(tree, crate_));
    }
    complaints
}

fn too_long(path: &Path, text: &str) -> Option<String> {
    let lines = text.lines().count();
    if lines <= LINES || LONGER.iter().any(|(folder, _)| path.starts_with(folder)) {
        return None;
    }
    Some(format!(
        "{}: {lines} lines, more than {LINES}: what second thing does it do?",
        path.display()
    ))
}

fn empty_name(path: &Path, code: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    if EMPTY_NAMES.contains(&stem.as_ref()) {
        complaints.push(format!(
            "{}: name the file after what it holds",
            path.display()
        ));
    }
    let words: Vec<&str> = code
        .split(|letter: char| !letter.is_alphanumeric() && letter != '_')
        .filter(|word| !word.is_empty())
        .collect();
    for pair in words.windows(2) {
        if let [keyword, name] = pair
            && matches!(*keyword, "struct" | "enum" | "trait" | "type")
            && let Some(end) = EMPTY_ENDS.iter().find(|end| name.ends_with(**end))
        {
            complaints.push(format!(
                "{}: {name}: `{end}` says nothing of what it does",
                path.display()
            ));
        }
    }
    complaints
}

fn unfinished(path: &Path, code: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    for (number, line) in code.lines().enumerate() {
        for name in UNFINISHED {
            let before = line
                .split_once(name)
                .map(|(before, _)| before.chars().next_back());
            let stands_alone = before.is_some_and(|last| {
                !last.is_some_and(|last| last.is_alphanumeric() || last == '_')
            });
            if stands_alone {
                complaints.push(format!("{}:{}: {name}", path.display(), number + 1));
            }
        }
    }
    complaints
}

/// Every root begins with documentation, and that of the crate says what the crate refuses.
fn introduction(tree: &Tree, crate_: &Crate) -> Vec<String> {
    let mut complaints = Vec::new();
    for root in &crate_.roots {
        let Some(text) = tree.text(root) else {
            continue;
        };
        let docs = documentation(text);
        if docs.trim().is_empty() {
            complaints.push(format!(
                "{}: begin with `//!` and what it is",
                root.display()
            ));
        } else if *root == crate_.main && !docs.contains("refuse") {
            complaints.push(format!(
                "{}: its documentation does not say what the crate refuses",
                root.display()
            ));
        }
    }
    complaints
}

/// The `//!` lines at the top, after nothing but ordinary comments.
fn documentation(text: &str) -> String {
    text.lines()
        .map(str::trim_start)
        .skip_while(|line| line.is_empty() || line.starts_with("//") && !line.starts_with("//!"))
        .map_while(|line| line.strip_prefix("//!"))
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str, text: &str) -> Vec<String> {
        check(&Tree::from([(path, text)]), &[])
    }

    #[test]
    fn long_files_are_named_unless_generated() {
        let long = "\n".repeat(LINES + 1);
        assert_eq!(of("a/src/lib.rs", &long).len(), 1);
        assert_eq!(
            of("a/src/lib.rs", &"\n".repeat(LINES)),
            Vec::<String>::new()
        );
        assert_eq!(of("proto/src/gen/x.rs", &long), Vec::<String>::new());
    }

    #[test]
    fn names_that_say_nothing_are_named() {
        assert_eq!(of("a/src/utils.rs", "").len(), 1);
        assert_eq!(of("a/src/pods.rs", "pub struct PodManager;").len(), 1);
        assert_eq!(
            of("a/src/pods.rs", "// struct PodManager\nstruct Pods;"),
            Vec::<String>::new()
        );
    }

    #[test]
    fn unfinished_code_is_named_with_its_line() {
        assert_eq!(
            of("a/src/x.rs", "fn f() {\n    todo!()\n}"),
            ["a/src/x.rs:2: todo!"]
        );
        assert_eq!(
            of("a/src/x.rs", "f(\"todo!()\"); // dbg!\nmy_dbg!(1);"),
            Vec::<String>::new()
        );
    }

    #[test]
    fn a_crate_says_what_it_is_and_what_it_refuses() {
        let crates = [Crate {
            folder: "a".into(),
            main: "a/src/lib.rs".into(),
            roots: vec!["a/src/lib.rs".into(), "a/src/main.rs".into()],
        }];
        let of = |lib: &str, main: &str| {
            check(
                &Tree::from([("a/src/lib.rs", lib), ("a/src/main.rs", main)]),
                &crates,
            )
        };
        assert_eq!(
            of("//! A. It refuses B.", "//! The command."),
            Vec::<String>::new()
        );
        assert_eq!(of("//! A.", "//! The command.").len(), 1);
        assert_eq!(of("fn f() {}", "fn main() {}").len(), 2);
        assert_eq!(of("// Licence.\n\n//! A. It refuses B.", "//! X").len(), 0);
    }
}
