//! What a lab holds of the machine, and how it is given back, also after `kill -9` of the owner.
//!
//! Everything that outlives a process lies under two folders named by the lab's id, or is a
//! process listed in a file there. So one function takes a lab down from its id alone: the owner calls it when
//! it ends, the signal thread when it is interrupted, and the sweep of a later run for labs
//! whose owner is dead.
#![allow(
    clippy::print_stderr,
    reason = "what is deleted on a machine is said to the person at it"
)]

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Where labs live, one folder each.
pub const LABS: &str = "/run/polproof-lab";
/// Where their pins live.
const BPFFS: &str = "/sys/fs/bpf";
/// Prefix of a lab's folder of pins.
const PIN_PREFIX: &str = "polproof-lab-";

/// The labs of this process that are up, for the thread that waits for signals.
static LIVE: Mutex<Vec<String>> = Mutex::new(Vec::new());
/// Whether that thread is taking them down.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// The right to a lab's folders. Dropped, it takes down all that is left in them.
#[derive(Debug)]
pub struct Lease {
    id: String,
    dir: PathBuf,
    pins: PathBuf,
}

impl Lease {
    /// Sweeps away the labs of dead owners, then makes the folders of a new one.
    ///
    /// # Errors
    /// When `/run` or `/sys/fs/bpf` cannot be written.
    pub fn take() -> Result<Self> {
        fs::create_dir_all(LABS).with_context(|| format!("make {LABS}"))?;
        mount_bpffs()?;
        for line in sweep()? {
            eprintln!("lab: {line}");
        }
        take_down_on_signals()?;
        let owner = Process::this()?;
        for attempt in 0..100_u32 {
            let nanos = std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(0, |d| d.subsec_nanos());
            let id = format!(
                "{:x}-{:05x}",
                owner.pid,
                (nanos >> 4).wrapping_add(attempt) & 0xf_ffff
            );
            let dir = Path::new(LABS).join(&id);
            // The owner is written before the folder gets its name: a folder without an owner would
            // be nobody's to sweep.
            let fresh = Path::new(LABS).join(format!(".{id}"));
            match fs::create_dir(&fresh) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error).context(format!("make {}", fresh.display())),
            }
            fs::write(fresh.join("owner"), owner.to_string())?;
            if dir.exists() {
                fs::remove_dir_all(&fresh)?;
                continue;
            }
            fs::rename(&fresh, &dir)?;
            let pins = Path::new(BPFFS).join(format!("{PIN_PREFIX}{id}"));
            let lease = Self { id, dir, pins };
            live().push(lease.id.clone());
            fs::create_dir(&lease.pins)
                .with_context(|| format!("make {}", lease.pins.display()))?;
            return Ok(lease);
        }
        bail!("no free name for a lab under {LABS} in 100 attempts")
    }

    /// The lab's id, unique on the machine.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The lab's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The lab's folder on the BPF file system.
    pub fn pins(&self) -> &Path {
        &self.pins
    }

    /// Lists a process as the lab's, so that it is killed with the lab.
    ///
    /// # Errors
    /// When the list cannot be written.
    pub fn record(&self, pid: u32) -> Result<()> {
        let process = Process::of(pid)?;
        let mut list = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.join("processes"))?;
        writeln!(list, "{process}").context("list a process of the lab")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        live().retain(|id| *id != self.id);
        if let Err(error) = take_down(&self.id) {
            eprintln!("lab: {} is not wholly taken down: {error:#}", self.id);
        }
    }
}

/// Waits for the end of the process if it was interrupted: what fails meanwhile fails because its lab
/// is being taken down, and is no news.
pub fn end_if_interrupted() {
    while INTERRUPTED.load(Ordering::SeqCst) {
        std::thread::park();
    }
}

fn live() -> std::sync::MutexGuard<'static, Vec<String>> {
    LIVE.lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A process and when it began: a pid alone may be another process by now.
#[derive(Debug, PartialEq, Eq)]
struct Process {
    pid: u32,
    start: u64,
    boot: String,
}

impl Process {
    fn this() -> Result<Self> {
        Self::of(std::process::id())
    }

    fn of(pid: u32) -> Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
            .with_context(|| format!("look for process {pid}"))?;
        // The command in parentheses may hold anything; the fields behind it are numbers.
        let start = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().nth(19))
            .and_then(|field| field.parse().ok())
            .ok_or_else(|| anyhow!("/proc/{pid}/stat has no start time"))?;
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        Ok(Self {
            pid,
            start,
            boot: boot.trim().to_owned(),
        })
    }

    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split_whitespace();
        Some(Self {
            pid: fields.next()?.parse().ok()?,
            start: fields.next()?.parse().ok()?,
            boot: fields.next()?.to_owned(),
        })
    }

    fn alive(&self) -> bool {
        Self::of(self.pid).is_ok_and(|now| now == *self)
    }
}

impl std::fmt::Display for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}", self.pid, self.start, self.boot)
    }
}

/// Takes down every lab whose owner is dead; says what it deleted.
///
/// # Errors
/// When the folder of labs cannot be read or locked.
pub fn sweep() -> Result<Vec<String>> {
    let mut said = Vec::new();
    if !Path::new(LABS).exists() {
        return Ok(said);
    }
    // Two sweeps at once would trip over each other's deletions.
    let lock = File::create(Path::new(LABS).join(".sweep"))?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
    for entry in fs::read_dir(LABS)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !entry.file_type()?.is_dir() {
            continue;
        }
        let owner = fs::read_to_string(entry.path().join("owner"))
            .ok()
            .and_then(|line| Process::parse(&line));
        match owner {
            Some(owner) if !owner.alive() => {
                said.push(format!(
                    "the owner of lab {name} (process {}) is dead; what it left is deleted:",
                    owner.pid
                ));
                said.extend(take_down(&name)?.into_iter().map(|line| format!("  {line}")));
            }
            Some(_) => {}
            // One that is being made at this moment: its owner comes before its name.
            None if name.starts_with('.') && is_fresh(&entry.path()) => {}
            None => said.push(format!(
                "{} has no readable owner and is left alone; delete it by hand if no lab is running",
                entry.path().display()
            )),
        }
    }
    Ok(said)
}

fn is_fresh(path: &Path) -> bool {
    let made = fs::metadata(path).and_then(|metadata| metadata.modified());
    // Gone is as good as finished: it has its name by now.
    made.map_or(true, |at| {
        at.elapsed().is_ok_and(|age| age < Duration::from_secs(60))
    })
}

/// Ends the processes of a lab, unmounts what is mounted in its folder, removes folder and pins. Gives
/// one line for each thing deleted.
fn take_down(id: &str) -> Result<Vec<String>> {
    if id.is_empty() || id.contains('/') || id.starts_with("..") {
        bail!("{id:?} is not the id of a lab");
    }
    let mut said = Vec::new();
    let dir = Path::new(LABS).join(id);
    let listed = fs::read_to_string(dir.join("processes")).unwrap_or_default();
    let processes: Vec<Process> = listed.lines().filter_map(Process::parse).collect();
    for process in processes.iter().filter(|p| p.alive()) {
        if let Ok(pid) = i32::try_from(process.pid) {
            // It may have ended on its own between the two lines.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            said.push(format!("process {}", process.pid));
        }
    }
    let deadline = Instant::now() + Duration::from_secs(5);
    while processes.iter().any(|p| p.alive() && !zombie(p.pid)) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    for mounted in mounts_under(&dir)?.iter().rev() {
        umount2(mounted, MntFlags::MNT_DETACH)
            .with_context(|| format!("unmount {}", mounted.display()))?;
        said.push(format!("mount {}", mounted.display()));
    }
    let pins = Path::new(BPFFS).join(format!("{PIN_PREFIX}{}", id.trim_start_matches('.')));
    for path in [pins, dir] {
        match fs::remove_dir_all(&path) {
            Ok(()) => said.push(format!("folder {}", path.display())),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).context(format!("remove {}", path.display())),
        }
    }
    Ok(said)
}

fn zombie(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| {
            stat.rsplit_once(')')
                .map(|(_, rest)| rest.trim_start().starts_with('Z'))
        })
        .unwrap_or(true)
}

/// Mount points below `dir`, in the order they were mounted.
fn mounts_under(dir: &Path) -> Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("read the mounts")?;
    Ok(table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .filter(|point| point.starts_with(dir) && point != dir)
        .collect())
}

/// Mounts the BPF file system where it belongs, unless it is there.
fn mount_bpffs() -> Result<()> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("read the mounts")?;
    if table
        .lines()
        .any(|line| line.split(' ').nth(4) == Some(BPFFS))
    {
        return Ok(());
    }
    mount(
        Some("bpf"),
        BPFFS,
        Some("bpf"),
        MsFlags::empty(),
        None::<&str>,
    )
    .with_context(|| format!("mount the BPF file system on {BPFFS}"))
}

/// From the first lab on, Ctrl-C and SIGTERM take down the labs of this process before it ends.
fn take_down_on_signals() -> Result<()> {
    static ONCE: std::sync::Once = std::sync::Once::new();
    let mut result = Ok(());
    ONCE.call_once(|| {
        result = std::thread::Builder::new()
            .name("lab-signals".to_owned())
            .spawn(wait_for_signal)
            .map(|_| ())
            .context("start the thread that waits for signals");
    });
    result
}

fn wait_for_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    else {
        return;
    };
    let code = runtime.block_on(async {
        let (Ok(mut interrupt), Ok(mut terminate)) = (
            signal(SignalKind::interrupt()),
            signal(SignalKind::terminate()),
        ) else {
            return std::future::pending().await;
        };
        tokio::select! {
            _ = interrupt.recv() => 130,
            _ = terminate.recv() => 143,
        }
    });
    INTERRUPTED.store(true, Ordering::SeqCst);
    let mut text = String::from("\nlab: interrupted; cleaning up\n");
    for id in live().iter() {
        if let Err(error) = take_down(id) {
            let _ = writeln!(text, "lab: {id} is not wholly taken down: {error:#}");
        }
    }
    eprint!("{text}");
    std::process::exit(code);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start_too() {
        let this = Process::this().unwrap();
        assert!(this.alive());
        assert_eq!(Process::parse(&this.to_string()).unwrap(), this);
        let other = Process {
            start: this.start + 1,
            ..this
        };
        assert!(!other.alive(), "another process that has our pid is not us");
    }

    #[test]
    fn an_id_that_is_a_path_deletes_nothing() {
        for id in ["", "../x", "a/b", ".."] {
            assert!(take_down(id).is_err(), "{id:?}");
        }
    }
}
