//! `polproof explain` from manifests, as people ask it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures")
}

fn command(manifests: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_polproof"));
    command
        .env_clear()
        .arg("explain")
        .arg("--manifests")
        .arg(manifests);
    command
}

fn explain(manifests: &Path, args: &[&str]) -> Output {
    command(manifests).args(args).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Objects in a file of their own.
fn written(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

/// Answers of `--queries` to these lines, and the exit code.
fn queries(manifests: &Path, lines: &str) -> (Vec<Value>, i32) {
    let mut child = command(manifests)
        .args(["--queries", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let text = lines.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    let answers = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    (answers, output.status.code().unwrap())
}

#[test]
fn recipes_are_explained_as_an_expert_would() {
    let folder = fixtures().join("recipes");
    let mut seen = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let expected = entry.unwrap().path();
        if expected.extension().is_none_or(|of| of != "txt") {
            continue;
        }
        seen += 1;
        let manifests = expected.with_extension("yaml");
        let text = std::fs::read_to_string(&expected).unwrap();
        let mut got = String::new();
        for line in text.lines() {
            let Some(asked) = line.strip_prefix("$ polproof explain ") else {
                continue;
            };
            let args: Vec<&str> = asked.split(' ').map(|arg| arg.trim_matches('\'')).collect();
            let output = explain(&manifests, &args);
            assert_eq!(output.status.code().is_some(), true);
            if !got.is_empty() {
                got.push('\n');
            }
            got.push_str(&format!("{line}\n{}", said(&output)));
        }
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&expected, &got).unwrap();
        } else {
            assert!(
                got == text,
                "{} is not what is answered; UPDATE=1 writes it anew:\n{got}",
                expected.display()
            );
        }
    }
    assert!(seen >= 8, "{seen} recipes in {}", folder.display());
}
