//! The command, end to end: manifests from disk, the answer as JSON, time by the clock and the most memory that it held.

use std::fs::File;
use std::mem::MaybeUninit;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::figure::Figure;
use super::{figures_of, policy_bench};
use crate::process::{run, say};
use crate::workspace::Workspace;

/// The fastest of so many is taken: on a machine that does other things, too, it says most of the command.
const TIMES: usize = 3;

/// What one run took.
#[derive(Clone, Copy, Debug)]
struct Run {
    seconds: f64,
    peak_mib: f64,
}

/// Writes a cluster as manifests, and runs every command that reads a whole one.
pub(super) fn measure(workspace: &Workspace) -> Result<Vec<Figure>> {
    let folder = workspace.target().join("bench-manifests");
    let measured = in_folder(workspace, &folder);
    let removed = std::fs::remove_dir_all(&folder);
    let figures = measured?;
    removed.with_context(|| format!("remove {}", folder.display()))?;
    Ok(figures)
}

fn in_folder(workspace: &Workspace, folder: &Path) -> Result<Vec<Figure>> {
    std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    let mut generator = policy_bench(workspace, "manifests");
    generator.args(["--", "--to"]).arg(folder);
    figures_of(&mut generator)?;
    let mut cargo = workspace.cargo();
    cargo.args([
        "build",
        "--locked",
        "--release",
        "--package",
        "polproof-cli",
    ]);
    run("cargo build --release -p polproof-cli", &mut cargo)?;
    let polproof = workspace.target().join("release").join("polproof");

    let (before, after) = (folder.join("before"), folder.join("after"));
    let questions = folder.join("questions.jsonl");
    let command = |words: &[&str], paths: &[&Path]| {
        let mut command = workspace.command(&polproof);
        command.args(words).args(paths);
        command
    };
    let mut figures = Vec::new();
    let mut all = |name: &str, make: &dyn Fn() -> Result<Command>| -> Result<Run> {
        let run = fastest(name, make)?;
        figures.push(figure(name, "seconds", run.seconds));
        figures.push(figure(name, "peak_mib", run.peak_mib));
        Ok(run)
    };
    all("audit", &|| {
        Ok(command(&["audit", "-o", "json"], &[&before]))
    })?;
    all("matrix", &|| {
        Ok(command(&["matrix", "-o", "json"], &[&before]))
    })?;
    all("diff", &|| {
        Ok(command(&["diff", "-o", "json"], &[&before, &after]))
    })?;
    let explain = |file: &Path| {
        let mut command = command(&["explain", "--queries", "-", "--manifests"], &[&before]);
        let file = File::open(file).with_context(|| format!("open {}", file.display()))?;
        command.stdin(file);
        Ok(command)
    };
    let whole = all("explain", &|| explain(&questions))?;
    // Without a question, the time is that of reading the manifests.
    let none = fastest("explain nothing", &|| explain(Path::new("/dev/null")))?;
    let count = lines(&questions)?;
    figures.push(figure("explain", "questions", count));
    figures.push(figure("explain", "loading_seconds", none.seconds));
    figures.push(figure(
        "explain",
        "questions_per_second",
        count / (whole.seconds - none.seconds),
    ));
    Ok(figures)
}

fn figure(of: &str, name: &str, value: f64) -> Figure {
    Figure {
        of: of.to_owned(),
        name: name.to_owned(),
        value,
        unit: String::new(),
    }
}

fn lines(file: &Path) -> Result<f64> {
    let text = std::fs::read(file).with_context(|| format!("read {}", file.display()))?;
    #[expect(clippy::naive_bytecount, reason = "one file, once")]
    let count = text.iter().filter(|byte| **byte == b'\n').count();
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    Ok(count as f64)
}

/// The fastest run, and the most memory that any took.
fn fastest(name: &str, make: &dyn Fn() -> Result<Command>) -> Result<Run> {
    let mut best: Option<Run> = None;
    for _ in 0..TIMES {
        let run = timed(name, &mut make()?)?;
        say(format_args!(
            "    polproof {name}: {:.2} s, {:.0} MiB",
            run.seconds, run.peak_mib
        ));
        best = Some(best.map_or(run, |best| Run {
            seconds: best.seconds.min(run.seconds),
            peak_mib: best.peak_mib.max(run.peak_mib),
        }));
    }
    best.context("nothing was run")
}

fn timed(name: &str, command: &mut Command) -> Result<Run> {
    let start = Instant::now();
    let child = command
        .stdout(Stdio::null())
        .spawn()
        .with_context(|| format!("start polproof {name}"))?;
    let (status, peak_mib) = reap(child).with_context(|| format!("wait for polproof {name}"))?;
    let seconds = start.elapsed().as_secs_f64();
    // 1: there are findings, or changes.
    ensure!(
        matches!(status.code(), Some(0 | 1)),
        "polproof {name} failed ({status})"
    );
    Ok(Run { seconds, peak_mib })
}

/// Waits for a child; its end, and the most memory that it held at once, in MiB.
#[expect(
    clippy::needless_pass_by_value,
    reason = "it is gone after this, and its id may be another's"
)]
fn reap(child: Child) -> Result<(ExitStatus, f64)> {
    let id = libc::pid_t::try_from(child.id()).context("the child's id")?;
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::uninit();
    // SAFETY: both pointers are to locals that live until the call is over, and nobody else waits for this child.
    let reaped = unsafe { libc::wait4(id, &raw mut status, 0, usage.as_mut_ptr()) };
    if reaped != id {
        return Err(std::io::Error::last_os_error()).context("wait4");
    }
    // SAFETY: wait4 fills it whenever it returns a child.
    let usage = unsafe { usage.assume_init() };
    // Linux counts in KiB.
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    let peak_mib = usage.ru_maxrss as f64 / 1024.0;
    Ok((ExitStatus::from_raw(status), peak_mib))
}
