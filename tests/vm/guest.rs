//! This binary as the first process of a virtual machine: mounts, loads modules, runs everything, says how it went,
//! switches the machine off.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};
use polproof_agent::observe::{KernelLacks, capabilities};

use crate::scenarios::{self, Scenario, Way};

/// Before every line that is meant for the other side.
pub(crate) const MARK: &str = "polproof-vm";

/// Never returns: the machine ends with it.
pub(crate) fn run() -> ! {
    if let Err(error) = prepare() {
        say(&format!("broken {error:#}"));
    } else {
        for Scenario { name, run } in chosen() {
            say(&format!("start {name}"));
            let start = std::time::Instant::now();
            let outcome = catch_unwind(AssertUnwindSafe(run))
                .unwrap_or_else(|_| Err(anyhow::anyhow!("it panicked")));
            say(&format!("took {:.1} s", start.elapsed().as_secs_f32()));
            match outcome {
                Ok(()) => say(&format!("ok {name}")),
                Err(error) => {
                    let text = format!("{error:#}").replace('\n', "\\n");
                    say(&format!("failed {name}: {text}"));
                }
            }
        }
        say("end");
    }
    // What was said must be out before the machine is.
    std::thread::sleep(std::time::Duration::from_millis(100));
    // SAFETY: no pointers are passed. This process is alone in its machine.
    unsafe { libc::reboot(libc::RB_POWER_OFF) };
    loop {
        std::thread::park();
    }
}

/// The scenarios of the kernel that runs, by what the agent finds that it has: where that is not what the other side knows,
/// it misses some.
fn chosen() -> Vec<Scenario> {
    let found = capabilities();
    scenarios::of_kernel(if found.lacks(KernelLacks::NetCookie) {
        Way::Inode
    } else if found.lacks(KernelLacks::Tcx) {
        Way::Clsact
    } else {
        Way::Tcx
    })
}

fn say(text: &str) {
    let mut out = std::io::stdout();
    let _ = writeln!(out, "\n{MARK}: {text}");
    let _ = out.flush();
}

fn prepare() -> Result<()> {
    // SAFETY: nothing else runs yet.
    unsafe { std::env::set_var("PATH", "/usr/sbin") };
    for (kind, point) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("tmpfs", "/tmp"),
        ("tmpfs", "/run"),
        ("bpf", "/sys/fs/bpf"),
        ("tracefs", "/sys/kernel/tracing"),
        ("cgroup2", "/sys/fs/cgroup"),
    ] {
        let _ = std::fs::create_dir_all(point);
        mount(
            Some(kind),
            point,
            Some(kind),
            MsFlags::empty(),
            None::<&str>,
        )
        .with_context(|| format!("mount {kind} on {point}"))?;
    }
    modules(Path::new("/modules"))?;
    let up = Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status()
        .context("start ip")?;
    ensure!(up.success(), "ip link set lo up: {up}");
    crate::world::prepare()
}

/// Loads every module, in the order of the file names.
fn modules(folder: &Path) -> Result<()> {
    let mut files: Vec<_> = std::fs::read_dir(folder)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    files.sort();
    for path in files {
        let file = std::fs::File::open(&path)?;
        // SAFETY: the descriptor is open, and the parameters end in a zero byte.
        let result =
            unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
        let error = std::io::Error::last_os_error();
        ensure!(
            result == 0 || error.raw_os_error() == Some(libc::EEXIST),
            "load {}: {error}",
            path.display()
        );
    }
    Ok(())
}
