//! Running one test binary: its output goes through unchanged, and what it says is counted.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Deserialize;

/// A test binary that outlives this hangs.
const DEADLINE: Duration = Duration::from_secs(20 * 60);
/// How long a binary that hangs may take to clean up after SIGTERM.
const LAST_WORDS: Duration = Duration::from_secs(15);
/// How many lines of what failed are said again at the end of the whole run.
const REPEATED: usize = 60;

/// A built test binary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Binary {
    /// Package and target, as `package::target`.
    pub(crate) name: String,
    /// The target alone: what `--only` names.
    pub(crate) target: String,
    /// The program.
    pub(crate) executable: PathBuf,
    /// The package's folder, where cargo starts tests too.
    pub(crate) folder: PathBuf,
}

/// What the tests of a binary came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Passed.
    pub(crate) passed: u64,
    /// Failed, by name.
    pub(crate) failed: Vec<String>,
    /// Ignored, by name and reason.
    pub(crate) ignored: Vec<(String, String)>,
    /// Whether a closing line was seen.
    pub(crate) closed: bool,
    /// The last lines of what the failed tests said.
    pub(crate) said: VecDeque<String>,
}

impl Outcome {
    /// Reads one line of a runner (libtest's or libtest-mimic's).
    pub(crate) fn read(&mut self, line: &str) {
        let line = line.trim_end();
        // Both runners close with what the failed tests said, from this line on.
        if line == "failures:" || !self.said.is_empty() {
            if self.said.len() >= REPEATED {
                self.said.pop_front();
            }
            self.said.push_back(line.to_owned());
        }
        if let Some(rest) = line.strip_prefix("test result: ") {
            self.closed = true;
            self.passed += count(rest, " passed").unwrap_or(0);
            return;
        }
        let Some((name, said)) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.split_once(" ... "))
        else {
            return;
        };
        let name = name.trim_end().to_owned();
        if let Some(reason) = said.strip_prefix("ignored") {
            let reason = reason.trim_start_matches([',', ':', ' ']).trim();
            self.ignored.push((name, reason.to_owned()));
        } else if said.ends_with("FAILED") {
            self.failed.push(name);
        }
    }

    /// Adds what another binary came to.
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed.extend(other.failed);
        self.ignored.extend(other.ignored);
        self.closed |= other.closed;
        self.said.extend(other.said);
    }
}

/// The number that stands before a word in `ok. 12 passed; 0 failed; ...`.
fn count(text: &str, word: &str) -> Option<u64> {
    let (before, _) = text.split_once(word)?;
    before.split_whitespace().next_back()?.parse().ok()
}

/// Runs a binary, whose output goes to `out` as it comes. The error names why it could not be run to its end.
pub(crate) fn run(
    binary: &Binary,
    mut command: Command,
    arguments: &[String],
    out: impl Write + Send + 'static,
) -> Result<(Outcome, ExitStatus)> {
    command
        .args(arguments)
        .current_dir(&binary.folder)
        .env("CARGO_MANIFEST_DIR", &binary.folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut child = command
        .spawn()
        .with_context(|| format!("start {}", binary.executable.display()))?;
    let stdout = child.stdout.take().context("the test's stdout")?;
    let (lines, outcome) = mpsc::channel();
    // On a thread: the deadline must hold for a test that says nothing. It is not joined, since a stray
    // grandchild could keep the pipe open for ever.
    std::thread::spawn(move || {
        let _ = lines.send(read_through(stdout, out));
    });
    let status = wait(&mut child, binary)?;
    let outcome = outcome.recv_timeout(LAST_WORDS).with_context(|| {
        format!(
            "{} ended, but a process that it started still holds its output",
            binary.name
        )
    })?;
    Ok((outcome, status))
}

fn wait(child: &mut Child, binary: &Binary) -> Result<ExitStatus> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().context("wait for a test")? {
            return Ok(status);
        }
        if start.elapsed() >= DEADLINE {
            let _ = Command::new("kill").arg(child.id().to_string()).status();
            let asked = Instant::now();
            while asked.elapsed() < LAST_WORDS && matches!(child.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(100));
            }
            let _ = child.kill();
            let _ = child.wait();
            anyhow::bail!(
                "{} hung: stopped after {} minutes",
                binary.name,
                DEADLINE.as_secs() / 60
            );
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Copies bytes as they come, and reads the lines in them.
fn read_through(mut from: impl Read, mut out: impl Write) -> Outcome {
    let mut outcome = Outcome::default();
    let mut buffer = [0u8; 4096];
    let mut line: Vec<u8> = Vec::new();
    while let Ok(read) = from.read(&mut buffer) {
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else {
            break;
        };
        // A closed stdout (`| head`) must not end the tests half-way.
        let _ = out.write_all(bytes).and_then(|()| out.flush());
        for &byte in bytes {
            if byte == b'\n' {
                outcome.read(&String::from_utf8_lossy(&line));
                line.clear();
            } else {
                line.push(byte);
            }
        }
    }
    if !line.is_empty() {
        outcome.read(&String::from_utf8_lossy(&line));
    }
    outcome
}

#[derive(Deserialize)]
struct Message {
    reason: String,
    manifest_path: Option<PathBuf>,
    target: Option<Target>,
    profile: Option<Profile>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// The test binary that a line of `cargo build --message-format=json` announces, if it does.
pub(crate) fn announced(line: &str) -> Option<Binary> {
    let message: Message = serde_json::from_str(line).ok()?;
    if message.reason != "compiler-artifact" || !message.profile?.test {
        return None;
    }
    let (target, executable) = (message.target?, message.executable?);
    let folder = message.manifest_path?.parent()?.to_owned();
    let package = folder.file_name()?.to_string_lossy().into_owned();
    let kind = target.kind.first().map_or("", String::as_str);
    let shown = match kind {
        "test" | "bench" => target.name.clone(),
        kind => format!("{} ({kind})", target.name),
    };
    Some(Binary {
        name: format!("{package}/{shown}"),
        target: target.name,
        executable,
        folder,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn read(text: &str) -> Outcome {
        read_through(text.as_bytes(), std::io::sink())
    }

    #[test]
    fn libtest_is_read() {
        let outcome = read(
            "running 3 tests\ntest a::b ... ok\ntest c ... ignored, needs root\ntest d ... FAILED\n\
             test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n",
        );
        assert_eq!(outcome.passed, 1);
        assert_eq!(outcome.failed, ["d"]);
        assert_eq!(outcome.ignored, [("c".to_owned(), "needs root".to_owned())]);
        assert!(outcome.closed);
    }

    #[test]
    fn libtest_mimic_is_read() {
        let outcome = read(
            "test [lab] short       ... ok\ntest [lab] much_longer ... ignored, no BPF object\n\ntest result: ok. 1 passed",
        );
        assert_eq!(outcome.passed, 1);
        assert_eq!(
            outcome.ignored,
            [("[lab] much_longer".to_owned(), "no BPF object".to_owned())]
        );
        assert!(outcome.closed);
    }

    #[test]
    fn the_last_words_of_failed_tests_are_kept_and_bounded() {
        let quiet = "running 1 test\ntest a ... ok\n\ntest result: ok. 1 passed; 0 failed\n";
        assert_eq!(read(quiet).said.len(), 0);
        let long = "a line\n".repeat(2 * REPEATED);
        let loud = format!(
            "test d ... FAILED\n\nfailures:\n\n---- d stdout ----\n{long}panicked at x\n\nfailures:\n    d\n"
        );
        let said = read(&loud).said;
        assert_eq!(said.len(), REPEATED);
        assert!(said.contains(&"panicked at x".to_owned()), "{said:?}");
        assert_eq!(said.back().unwrap(), "    d");
    }

    #[test]
    fn a_binary_that_says_nothing_has_not_closed() {
        assert_eq!(read("panicked at x\n"), Outcome::default());
    }

    #[test]
    fn only_test_binaries_are_announced() {
        let line = |test: bool| {
            format!(
                r#"{{"reason":"compiler-artifact","manifest_path":"/x/flow/Cargo.toml","target":{{"name":"polproof_flow","kind":["lib"]}},"profile":{{"test":{test}}},"executable":"/x/target/debug/deps/polproof_flow-1"}}"#
            )
        };
        let binary = announced(&line(true)).unwrap();
        assert_eq!(binary.name, "flow/polproof_flow (lib)");
        assert_eq!(binary.folder, PathBuf::from("/x/flow"));
        assert_eq!(announced(&line(false)), None);
        assert_eq!(announced("not json"), None);
        assert_eq!(
            announced(r#"{"reason":"build-finished","success":true}"#),
            None
        );
    }

    #[test]
    fn a_run_passes_the_outcome_and_the_status_on() {
        let binary = Binary {
            name: "x".into(),
            target: "x".into(),
            executable: "/bin/sh".into(),
            folder: "/".into(),
        };
        let script =
            "echo 'test a ... FAILED'; echo 'test result: FAILED. 0 passed; 1 failed'; exit 101";
        let arguments = ["-c".to_owned(), script.to_owned()];
        let (outcome, status) = run(
            &binary,
            Command::new("/bin/sh"),
            &arguments,
            std::io::sink(),
        )
        .unwrap();
        assert_eq!(outcome.failed, ["a"]);
        assert_eq!(status.code(), Some(101));
    }
}
