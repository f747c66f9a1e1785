//! The initramfs: a cpio archive in the kernel's format (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Programs that the scenarios start, in the folders of system programs.
const PROGRAMS: [&str; 6] = ["ip", "tc", "iptables", "iptables-nft", "ip6tables", "sleep"];

/// Writes an archive in which this binary is `/init`.
pub(crate) fn write(kernel: &Path, to: &Path) -> Result<()> {
    let mut archive = Archive::create(to)?;
    let own = std::env::current_exe()?;
    // Without what only a debugger reads it is a third as large.
    let stripped = to.with_extension("init");
    let status = Command::new("strip")
        .arg("-o")
        .arg(&stripped)
        .arg(&own)
        .status();
    let init = match status {
        Ok(status) if status.success() => stripped.as_path(),
        _ => own.as_path(),
    };
    archive.file(Path::new("/init"), init)?;
    let mut libraries = libraries(init)?;
    for name in PROGRAMS {
        let Some(program) = find(name) else {
            continue;
        };
        libraries.extend(self::libraries(&program)?);
        archive.file(&Path::new("/usr/sbin").join(name), &program)?;
    }
    // Plug-ins of iptables.
    for folder in [
        "/usr/lib/x86_64-linux-gnu/xtables",
        "/usr/lib/aarch64-linux-gnu/xtables",
    ] {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            archive.file(&entry.path(), &entry.path())?;
        }
    }
    for library in libraries {
        archive.file(&library, &library)?;
    }
    for entry in std::fs::read_dir(kernel.join("modules"))? {
        let path = entry?.path();
        let name = path.file_name().context("a file has a name")?;
        archive.file(&Path::new("/modules").join(name), &path)?;
    }
    for folder in ["/proc", "/sys", "/dev", "/tmp", "/run"] {
        archive.folder(Path::new(folder))?;
    }
    let _ = std::fs::remove_file(&stripped);
    archive.finish()
}

/// A program in the folders of system programs.
fn find(name: &str) -> Option<PathBuf> {
    ["/usr/sbin", "/sbin", "/usr/bin", "/bin"]
        .map(|folder| Path::new(folder).join(name))
        .into_iter()
        .find(|path| path.is_file())
}

/// The libraries that a program is linked with, and its loader.
fn libraries(program: &Path) -> Result<BTreeSet<PathBuf>> {
    let output = Command::new("ldd")
        .arg(program)
        .output()
        .context("start ldd")?;
    ensure!(output.status.success(), "ldd {}", program.display());
    Ok(String::from_utf8_lossy(&output.stdout)
        .split_whitespace()
        .filter(|word| word.starts_with('/') && !word.ends_with(':'))
        .map(PathBuf::from)
        .collect())
}

struct Archive {
    out: std::io::BufWriter<std::fs::File>,
    folders: BTreeSet<PathBuf>,
    number: u32,
}

impl Archive {
    fn create(path: &Path) -> Result<Self> {
        let file =
            std::fs::File::create(path).with_context(|| format!("write {}", path.display()))?;
        Ok(Self {
            out: std::io::BufWriter::new(file),
            folders: BTreeSet::new(),
            number: 0,
        })
    }

    fn folder(&mut self, path: &Path) -> Result<()> {
        if path.parent().is_none() || !self.folders.insert(path.to_owned()) {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            self.folder(parent)?;
        }
        self.entry(path, 0o040_755, &[])
    }

    fn file(&mut self, path: &Path, from: &Path) -> Result<()> {
        if let Some(parent) = path.parent() {
            self.folder(parent)?;
        }
        let content = std::fs::read(from).with_context(|| format!("read {}", from.display()))?;
        self.entry(path, 0o100_755, &content)
    }

    fn entry(&mut self, path: &Path, mode: u32, content: &[u8]) -> Result<()> {
        self.number += 1;
        let name = path.to_string_lossy();
        let name = name.trim_start_matches('/');
        // Magic; inode, mode, owner (2), links, time, size, devices (4), length of the name, checksum.
        let header = format!(
            "070701{:08x}{mode:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}",
            self.number,
            0,
            0,
            1,
            0,
            content.len(),
            0,
            0,
            0,
            0,
            name.len() + 1,
            0
        );
        self.out.write_all(header.as_bytes())?;
        self.out.write_all(name.as_bytes())?;
        self.out.write_all(&[0])?;
        self.pad(header.len() + name.len() + 1)?;
        self.out.write_all(content)?;
        self.pad(content.len())
    }

    fn pad(&mut self, length: usize) -> Result<()> {
        let missing = length.next_multiple_of(4) - length;
        Ok(self.out.write_all(&[0; 3][..missing])?)
    }

    fn finish(mut self) -> Result<()> {
        self.number = 0;
        self.entry(Path::new("TRAILER!!!"), 0, &[])?;
        Ok(self.out.flush()?)
    }
}
