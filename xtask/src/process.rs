//! Running other programs so that a person sees what goes on and for how long.

use std::fmt::Display;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How often a long silent step says that it is alive.
const PROGRESS_EVERY: Duration = Duration::from_secs(20);
/// How much of a log is shown when its step failed.
const TAIL_BYTES: usize = 4000;

/// Prints a line. A closed stdout (`| head`) is no reason to fail.
pub(crate) fn say(text: impl Display) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Prints a line to stderr.
pub(crate) fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// A duration as people read it.
pub(crate) fn elapsed(since: Instant) -> String {
    let seconds = since.elapsed().as_secs();
    match seconds {
        0..60 => format!("{:.1} s", since.elapsed().as_secs_f32()),
        _ => format!("{} min {:02} s", seconds / 60, seconds % 60),
    }
}

/// The command as one could type it.
fn typed(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

fn ended(status: ExitStatus, command: &Command) -> Result<()> {
    if status.success() {
        return Ok(());
    }
    bail!("`{}` failed ({status})", typed(command))
}

/// Runs a command whose own output is the progress.
pub(crate) fn run(what: &str, command: &mut Command) -> Result<()> {
    say(format_args!("==> {what}"));
    let start = Instant::now();
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("start `{}`", typed(command)))?;
    ended(status, command).with_context(|| what.to_owned())?;
    say(format_args!("    {what}: {}", elapsed(start)));
    Ok(())
}

/// Runs a talkative command with its output in a log: a line now and then says that it is alive, and the
/// end of the log is shown if it fails.
pub(crate) fn run_logged(what: &str, command: &mut Command, log: &Path) -> Result<()> {
    say(format_args!("==> {what} (output in {})", log.display()));
    if let Some(folder) = log.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    }
    let file = File::create(log).with_context(|| format!("write {}", log.display()))?;
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(file.try_clone().context("share the log")?)
        .stderr(file)
        .spawn()
        .with_context(|| format!("start `{}`", typed(command)))?;
    let mut said = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().context("wait for the command")? {
            break status;
        }
        if said.elapsed() >= PROGRESS_EVERY {
            said = Instant::now();
            say(format_args!("    {what}: {} so far", elapsed(start)));
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    if let Err(error) = ended(status, command) {
        complain(&format!("{}\n(end of {})", tail(log), log.display()));
        return Err(error.context(what.to_owned()));
    }
    say(format_args!("    {what}: {}", elapsed(start)));
    Ok(())
}

/// The end of a log, in whole lines.
fn tail(log: &Path) -> String {
    let mut text = Vec::new();
    if let Ok(mut file) = File::open(log) {
        let _ = file.read_to_end(&mut text);
    }
    let text = String::from_utf8_lossy(&text);
    let from = text.len().saturating_sub(TAIL_BYTES);
    let from = (from..text.len())
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(text.len());
    text.get(from..).unwrap_or_default().trim_end().to_owned()
}

/// What a command prints, if it succeeds.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start `{}`", typed(command)))?;
    if !output.status.success() {
        bail!(
            "`{}` failed ({}): {}",
            typed(command),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
