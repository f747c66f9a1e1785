//! `cargo xtask test`: set up, build, check, and run every test that can run here. What does not run is named.

use std::process::{ExitStatus, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::process::{capture, complain, elapsed, run, say};
use crate::runner::{self, Binary, Outcome};
use crate::setup::{self, Item, Need, State};
use crate::workspace::{Workspace, is_ci, is_root};
use crate::{build, leftovers, tidy};

/// Options of `cargo xtask test`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only the test binaries of this name (a target such as `lab`, or a package's folder); repeatable.
    #[arg(long, value_name = "TARGET")]
    only: Vec<String>,
    /// Passed on to every test binary (a filter, `--nocapture`, ...).
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// What the whole run came to.
#[derive(Default)]
struct Summary {
    binaries: usize,
    outcome: Outcome,
    /// What failed beside single tests.
    failures: Vec<String>,
    /// What was not run, and why.
    skipped: Vec<String>,
}

impl Summary {
    fn note(&mut self, what: &str, result: Result<()>) {
        if let Err(error) = result {
            complain(&format!("FAILED {what}: {error:#}"));
            self.failures.push(what.to_owned());
        }
    }
}

/// `cargo xtask test`.
pub(crate) fn command(workspace: &Workspace, options: &Options) -> Result<()> {
    let start = Instant::now();
    let mut summary = Summary::default();
    let wants_server = options.only.is_empty()
        || options
            .only
            .iter()
            .any(|only| matches!(only.as_str(), "cluster" | "tests"));
    let need = if wants_server { Need::Test } else { Need::Demo };
    let ready = setup::install(workspace, need)?;
    if let Err(error) = build::bpf_object(workspace) {
        lack(&mut summary, "BPF object", &format!("{error:#}"));
    }
    let binaries = build_tests(workspace)?;
    if options.only.is_empty() {
        checks(workspace, &mut summary);
    }
    for item in ready.wait() {
        if let Item {
            name,
            state: State::Missing { without, remedy },
        } = item
        {
            // Root cannot be installed; everything else can, and CI must not be green without it.
            if name == "root" {
                summary
                    .skipped
                    .push(format!("{name}: {without}; to do: {remedy}"));
            } else {
                lack(&mut summary, &name, &format!("{without}; to do: {remedy}"));
            }
        }
    }
    let chosen = choose(binaries, &options.only)?;
    let before = leftovers::survey(workspace.target());
    for binary in &chosen {
        one(workspace, binary, &options.arguments, &mut summary);
    }
    if options.only.is_empty() {
        doctests(workspace, &mut summary);
    }
    for left in leftovers::since(&before, workspace.target()) {
        complain(&format!("LEFT BEHIND {left}"));
        summary.failures.push(format!("left behind: {left}"));
    }
    close(&summary, start)
}

/// Something that the machine lacks: a failure in CI, where everything must run; elsewhere named.
fn lack(summary: &mut Summary, what: &str, why: &str) {
    let text = format!("{what}: {why}");
    if is_ci() {
        summary.failures.push(text);
    } else {
        summary.skipped.push(text);
    }
}

/// Builds binaries, libraries and tests in one go: two would choose other features and build half of it twice.
pub(crate) fn build_tests(workspace: &Workspace) -> Result<Vec<Binary>> {
    say("==> cargo build: binaries and tests");
    let start = Instant::now();
    let mut child = workspace
        .cargo()
        .args(["build", "--locked", "--lib", "--bins", "--tests"])
        .arg("--message-format=json-render-diagnostics")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("start cargo")?;
    let stdout = child.stdout.take().context("cargo's stdout")?;
    let text = std::io::read_to_string(stdout).context("read what cargo builds")?;
    let status = child.wait().context("wait for cargo")?;
    if !status.success() {
        bail!("`cargo build --lib --bins --tests` failed ({status})");
    }
    say(format_args!("    cargo build: {}", elapsed(start)));
    let mut binaries: Vec<Binary> = text.lines().filter_map(runner::announced).collect();
    // The unit tests first: they are quick, and what they find explains what the others would.
    binaries.sort_by_key(|binary| (binary.folder.ends_with("tests"), binary.name.clone()));
    Ok(binaries)
}

fn choose(binaries: Vec<Binary>, only: &[String]) -> Result<Vec<Binary>> {
    if only.is_empty() {
        return Ok(binaries);
    }
    let names: Vec<String> = binaries.iter().map(|binary| binary.name.clone()).collect();
    for wanted in only {
        if !binaries.iter().any(|binary| is_called(binary, wanted)) {
            bail!("no test target {wanted}; there are: {}", names.join(", "));
        }
    }
    Ok(binaries
        .into_iter()
        .filter(|binary| only.iter().any(|wanted| is_called(binary, wanted)))
        .collect())
}

fn is_called(binary: &Binary, name: &str) -> bool {
    binary.target == name
        || binary
            .folder
            .file_name()
            .is_some_and(|folder| folder == name)
}

/// Formatting, tidy, and what only CI has time for.
fn checks(workspace: &Workspace, summary: &mut Summary) {
    summary.note("tidy", tidy::command(workspace));
    let component = |tool: &str| format!("rustup component add {tool}");
    let mut tools = vec![(component("rustfmt"), vec!["fmt", "--all", "--check"])];
    if is_ci() {
        let all = vec![
            "clippy",
            "--locked",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ];
        tools.push((component("clippy"), all));
    }
    let deny = vec!["deny", "check", "bans", "licenses", "sources"];
    tools.push(("cargo install cargo-deny".to_owned(), deny));
    for (remedy, arguments) in tools {
        let Some(tool) = arguments.first() else {
            continue;
        };
        let what = format!("cargo {tool}");
        // Asked, not looked up: rustup puts a proxy into PATH for tools that are not installed.
        if capture(workspace.cargo().args([tool, "--version"])).is_err() {
            let skipped = format!("{what}: not installed; to do: {remedy}");
            summary.skipped.push(skipped);
            continue;
        }
        let result = run(&what, workspace.cargo().args(&arguments));
        summary.note(&what, result);
    }
}

fn one(workspace: &Workspace, binary: &Binary, arguments: &[String], summary: &mut Summary) {
    say(format_args!("==> {}", binary.name));
    let start = Instant::now();
    summary.binaries += 1;
    let run = |arguments: &[String]| {
        let mut command = workspace.command(&binary.executable);
        // Tests that start another package's binary need not build it once more.
        command.env("POLPROOF_BUILT", "1");
        runner::run(binary, command, arguments, std::io::stdout())
    };
    match run(arguments) {
        Ok((outcome, status)) => record(binary, outcome, status, summary),
        Err(error) => summary.failures.push(format!("{error:#}")),
    }
    // `#[ignore]` cannot ask who runs it. We can: what is ignored for want of root only is run now.
    let (for_root, ignored): (Vec<_>, Vec<_>) = std::mem::take(&mut summary.outcome.ignored)
        .into_iter()
        .partition(|(name, reason)| {
            is_root() && name.starts_with(&binary.name) && reason.contains("needs root")
        });
    summary.outcome.ignored = ignored;
    for (name, _) in for_root {
        let Some(test) = name.strip_prefix(&format!("{}: ", binary.name)) else {
            continue;
        };
        match run(&["--ignored".into(), "--exact".into(), test.to_owned()]) {
            Ok((outcome, status)) => record(binary, outcome, status, summary),
            Err(error) => summary.failures.push(format!("{error:#}")),
        }
    }
    say(format_args!("    {}: {}", binary.name, elapsed(start)));
}

/// Adds what one run of a binary came to, every test with the binary's name before its own.
fn record(binary: &Binary, mut outcome: Outcome, status: ExitStatus, summary: &mut Summary) {
    if !status.success() && outcome.failed.is_empty() {
        let failure = format!("{}: {status}", binary.name);
        summary.failures.push(failure);
    } else if !outcome.closed {
        let failure = format!("{}: it printed no `test result`", binary.name);
        summary.failures.push(failure);
    }
    for name in &outcome.failed {
        let failure = format!("{}: {name}", binary.name);
        summary.failures.push(failure);
    }
    for (name, _) in &mut outcome.ignored {
        *name = format!("{}: {name}", binary.name);
    }
    summary.outcome.add(outcome);
}

/// Examples in the documentation; cargo runs them by rustdoc, so they are no binaries of their own.
fn doctests(workspace: &Workspace, summary: &mut Summary) {
    let mut command = workspace.cargo();
    command.args(["test", "--locked", "--doc", "--quiet"]);
    let result = run("examples in the documentation", &mut command);
    summary.note("examples in the documentation", result);
}

fn close(summary: &Summary, start: Instant) -> Result<()> {
    let outcome = &summary.outcome;
    say("");
    // Again, since it stands some thousand lines above.
    for line in &outcome.said {
        say(format_args!("  | {line}"));
    }
    say(format_args!(
        "{} test binaries: {} passed, {} failed, {} ignored; {}{}",
        summary.binaries,
        outcome.passed,
        outcome.failed.len(),
        outcome.ignored.len(),
        elapsed(start),
        if is_root() { "" } else { "; not root" }
    ));
    for (name, reason) in &outcome.ignored {
        let reason = if reason.is_empty() {
            "no reason given"
        } else {
            reason
        };
        say(format_args!("  ignored  {name}: {reason}"));
    }
    for skipped in &summary.skipped {
        say(format_args!("  NOT RUN  {skipped}"));
    }
    for failure in &summary.failures {
        say(format_args!("  FAILED   {failure}"));
    }
    verdict(summary)
}

/// Whether the run passed. It prints nothing, so that a test of it writes no `FAILED` into a green run's log.
fn verdict(summary: &Summary) -> Result<()> {
    if summary.failures.is_empty() {
        return Ok(());
    }
    bail!("{} things failed", summary.failures.len())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn binary(folder: &str, target: &str) -> Binary {
        Binary {
            name: format!("{folder}/{target}"),
            target: target.into(),
            executable: "x".into(),
            folder: folder.into(),
        }
    }

    #[test]
    fn only_names_a_target_or_a_folder_and_a_wrong_name_is_an_error() {
        let all = || vec![binary("tests", "lab"), binary("flow", "polproof_flow")];
        let names = |only: &[&str]| {
            let only: Vec<String> = only.iter().map(|name| (*name).to_owned()).collect();
            choose(all(), &only)
                .map(|found| found.into_iter().map(|one| one.name).collect::<Vec<_>>())
        };
        assert_eq!(names(&["lab"]).unwrap(), ["tests/lab"]);
        assert_eq!(names(&["flow"]).unwrap(), ["flow/polproof_flow"]);
        assert_eq!(names(&[]).unwrap().len(), 2);
        let error = names(&["labb"]).unwrap_err().to_string();
        assert!(
            error.contains("labb") && error.contains("tests/lab"),
            "{error}"
        );
    }

    #[test]
    fn any_failure_fails_the_run() {
        assert!(verdict(&Summary::default()).is_ok());
        let summary = Summary {
            failures: vec!["x".to_owned()],
            ..Summary::default()
        };
        assert!(verdict(&summary).is_err());
    }
}
