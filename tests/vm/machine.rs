//! A virtual machine with another kernel: software emulation, a serial console, and an end in any case.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

use crate::archive;
use crate::guest::MARK;
use crate::scenarios::Way;

/// A machine boots in ten seconds and is done in two minutes, where the host has nothing else to do.
const DEADLINE: Duration = Duration::from_secs(15 * 60);
/// One that says nothing for so long hangs.
const SILENCE: Duration = Duration::from_secs(180);
/// How many lines of the console are shown of a machine that went wrong.
const LAST_LINES: usize = 60;

const QEMU: &str = "qemu-system-x86_64";

/// A kernel to be booted.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// Major and minor; also the name of its folder.
    pub(crate) name: &'static str,
    /// The best that it has.
    pub(crate) way: Way,
    /// Whether `cargo xtask setup` fetches it; others are tried where somebody has put them.
    fetched: bool,
}

impl Kernel {
    /// Whether it is to be tried, or to be named as missing.
    pub(crate) fn is_wanted(&self) -> bool {
        self.fetched || kernels().join(self.name).is_dir()
    }
}

/// The oldest comes from Debian 11, whose archive is not among the sources of a later one.
pub(crate) const KERNELS: [Kernel; 3] = [
    Kernel {
        name: "5.10",
        way: Way::Inode,
        fetched: false,
    },
    Kernel {
        name: "6.1",
        way: Way::Clsact,
        fetched: true,
    },
    Kernel {
        name: "6.12",
        way: Way::Tcx,
        fetched: true,
    },
];

/// What was said of one scenario.
type Outcome = Result<(), String>;

/// A machine that is booted when somebody first asks for an outcome.
#[derive(Debug)]
pub(crate) struct Machine {
    kernel: PathBuf,
    report: OnceLock<Report>,
}

#[derive(Debug, Default)]
struct Report {
    outcomes: BTreeMap<String, Outcome>,
    /// Why there may be fewer than there should be, with the console's last lines.
    broken: Option<String>,
}

impl Machine {
    /// The machine, or what is missing for it.
    pub(crate) fn of(kernel: &Kernel) -> Result<Self, String> {
        const SETUP: &str = "`cargo xtask setup` as root";
        if let Some(missing) = crate::missing_object() {
            return Err(missing);
        }
        if !cfg!(target_arch = "x86_64") {
            return Err("the kernels are fetched for x86_64 only".to_owned());
        }
        if Command::new(QEMU)
            .arg("--version")
            .stdout(Stdio::null())
            .status()
            .is_err()
        {
            return Err(format!(
                "no {QEMU}: {SETUP} installs it (Debian: qemu-system-x86)"
            ));
        }
        let folder = kernels().join(kernel.name);
        if !folder.join("vmlinuz").is_file() {
            return Err(format!(
                "no kernel in {}: {SETUP} fetches it",
                folder.display()
            ));
        }
        Ok(Self {
            kernel: folder,
            report: OnceLock::new(),
        })
    }

    /// How a scenario went. The first call takes as long as all of them.
    pub(crate) fn outcome(&self, name: &str) -> Outcome {
        let report = self.report.get_or_init(|| {
            self.boot().unwrap_or_else(|error| Report {
                broken: Some(format!("{error:#}")),
                ..Report::default()
            })
        });
        match (report.outcomes.get(name), &report.broken) {
            (Some(Ok(())), _) => Ok(()),
            (Some(Err(text)), Some(broken)) => Err(format!("{text}\n{broken}")),
            (Some(Err(text)), None) => Err(text.clone()),
            (None, Some(broken)) => Err(broken.clone()),
            (None, None) => Err("the machine said nothing of it".to_owned()),
        }
    }

    fn boot(&self) -> Result<Report> {
        let folder = tempfile::tempdir().context("make a folder")?;
        let initramfs = folder.path().join("initramfs");
        archive::write(&self.kernel, &initramfs).context("write the initramfs")?;
        let mut command = Command::new(QEMU);
        // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
        unsafe {
            // This thread waits for the machine's end; killed before it, it takes the machine along.
            command.pre_exec(|| Ok(set_pdeathsig(Signal::SIGKILL)?));
        }
        let mut machine = Running(
            command
                .args([
                    "-accel",
                    "tcg,thread=multi",
                    "-cpu",
                    "max",
                    "-smp",
                    "2",
                    "-m",
                    "1024",
                ])
                .args([
                    "-display",
                    "none",
                    "-no-reboot",
                    "-nodefaults",
                    "-serial",
                    "stdio",
                ])
                .arg("-kernel")
                .arg(self.kernel.join("vmlinuz"))
                .arg("-initrd")
                .arg(&initramfs)
                .args([
                    "-append",
                    "console=ttyS0 quiet panic=-1 no_timer_check rdinit=/init",
                ])
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::inherit())
                .spawn()
                .context("start qemu")?,
        );
        let console = machine.0.stdout.take().context("the console")?;
        let (lines, console_lines) = mpsc::channel();
        // Ends with the machine, which holds the other end.
        let reader = std::thread::spawn(move || {
            let mut console = BufReader::new(console);
            let mut line = Vec::new();
            while console
                .read_until(b'\n', &mut line)
                .is_ok_and(|count| count > 0)
            {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                line.clear();
                if lines.send(text).is_err() {
                    return;
                }
            }
        });
        let report = listen(&console_lines, Instant::now() + DEADLINE);
        drop(machine);
        let _ = reader.join();
        Ok(report)
    }
}

/// Reads the console until the machine is off, or has taken too long.
fn listen(console: &mpsc::Receiver<String>, deadline: Instant) -> Report {
    let mut report = Report::default();
    let mut all: Vec<String> = Vec::new();
    let mut running = None;
    let mut ended = false;
    let mut why = None;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let line = match console.recv_timeout(left.min(SILENCE)) {
            Ok(line) => line,
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                why = Some(format!(
                    "the machine was not done within {DEADLINE:?}, or said nothing for {SILENCE:?}"
                ));
                break;
            }
        };
        // Messages of the kernel may stand before it in the line.
        let said = line
            .split_once(MARK)
            .and_then(|(_, rest)| rest.strip_prefix(": "));
        let words = said.map(|said| said.split_once(' ').unwrap_or((said, "")));
        match words {
            Some(("start", name)) => running = Some(name.to_owned()),
            Some(("ok", name)) => {
                report.outcomes.insert(name.to_owned(), Ok(()));
                running = None;
            }
            Some(("failed", rest)) => {
                let name = running.take().unwrap_or_default();
                let text = rest.strip_prefix(&format!("{name}: ")).unwrap_or(rest);
                report.outcomes.insert(name, Err(text.replace("\\n", "\n")));
            }
            Some(("broken", text)) => why = Some(text.to_owned()),
            Some(("end", _)) => ended = true,
            _ => {}
        }
        all.push(line);
    }
    if !ended || report.outcomes.values().any(Result::is_err) {
        let why = why.unwrap_or_else(|| {
            if ended {
                "a scenario failed".to_owned()
            } else {
                "the machine went off before its time".to_owned()
            }
        });
        let during = running.map_or_else(String::new, |name| format!(" during `{name}`"));
        let last = all.len().saturating_sub(LAST_LINES);
        report.broken = Some(format!(
            "{why}{during}; the end of its console:\n{}",
            all[last..].join("\n")
        ));
    }
    report
}

/// A qemu that does not outlive us.
#[derive(Debug)]
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Where `cargo xtask setup` puts the kernels: `vm` in the folder that this was built in.
fn kernels() -> PathBuf {
    if let Some(named) = std::env::var_os("POLPROOF_VM_KERNELS") {
        return named.into();
    }
    let own = std::env::current_exe().unwrap_or_default();
    // target/debug/deps/vm-0123
    own.ancestors()
        .nth(3)
        .unwrap_or_else(|| Path::new("target"))
        .join("vm")
}
