//! Network namespaces of the tests, made and entered without any command.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace, bound to a file like those of CNI runtimes in /run/netns. Dropped, it is
/// unmounted and its file removed; the namespace ends with its last process.
#[derive(Debug)]
pub struct Netns {
    path: PathBuf,
}

impl Netns {
    /// Makes a namespace with `lo` up and binds it to `dir/name`.
    pub fn create(dir: &Path, name: &str) -> Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        let path = dir.join(name);
        File::create_new(&path).with_context(|| format!("make {}", path.display()))?;
        let target = path.clone();
        let made = std::thread::spawn(move || -> Result<()> {
            unshare(CloneFlags::CLONE_NEWNET).context("unshare a network namespace")?;
            mount(
                Some("/proc/thread-self/ns/net"),
                &target,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )
            .with_context(|| format!("bind the namespace to {}", target.display()))?;
            let up = Command::new("ip")
                .args(["link", "set", "lo", "up"])
                .status()?;
            if !up.success() {
                return Err(anyhow!("ip link set lo up: {up}"));
            }
            Ok(())
        })
        .join()
        .map_err(|_| anyhow!("the thread that makes {} panicked", path.display()))?;
        let this = Self { path };
        made?; // `this` is dropped on failure and cleans up
        Ok(this)
    }

    /// The file that the namespace is bound to.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `work` on a thread inside the namespace.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let file =
            File::open(&self.path).with_context(|| format!("open {}", self.path.display()))?;
        std::thread::scope(|scope| {
            scope
                .spawn(move || -> Result<T> {
                    setns(file.as_fd(), CloneFlags::CLONE_NEWNET).context("enter the namespace")?;
                    Ok(work())
                })
                .join()
                .map_err(|_| anyhow!("the work inside {} panicked", self.path.display()))?
        })
    }

    /// A command that will run inside the namespace (mounts, cgroups and /sys stay as they are).
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        let file =
            File::open(&self.path).with_context(|| format!("open {}", self.path.display()))?;
        let mut command = Command::new(program);
        // SAFETY: between fork and exec the closure makes one system call on an open descriptor
        // and allocates nothing.
        unsafe {
            command.pre_exec(move || {
                setns(file.as_fd(), CloneFlags::CLONE_NEWNET).map_err(io::Error::from)
            });
        }
        Ok(command)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        // Either may fail when an earlier step did: nothing is left to do then.
        let _ = umount2(&self.path, MntFlags::MNT_DETACH);
        let _ = std::fs::remove_file(&self.path);
    }
}
