//! Virtual machines with other kernels: the emulator, and the kernels with the modules that the tests load.
//!
//! A kernel lies in `target/vm/<version>/`: `vmlinuz`, and `modules/<number>-<name>.ko` in the order in which they must be
//! loaded. Nothing is installed: the package is only unpacked. apt checks its checksum and whose it is.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{Item, Need, debian};
use crate::process::{capture, say};
use crate::workspace::{Workspace, find_program};

const QEMU: &str = "qemu-system-x86_64";
const QEMU_PACKAGE: &str = "qemu-system-x86";
const WITHOUT: &str = "the tests on other kernels are not run";

/// A kernel of Debian's.
struct Kernel {
    /// Major and minor; the folder's name.
    name: &'static str,
    /// What its packages are called.
    pattern: &'static str,
}

/// The last without tcx, and a later one.
const KERNELS: [Kernel; 2] = [
    Kernel {
        name: "6.1",
        pattern: r"^linux-image-6\.1\.0-[0-9]+-cloud-amd64$",
    },
    Kernel {
        name: "6.12",
        pattern: r"^linux-image-6\.12\.[0-9]+(\+deb[0-9]+)?-cloud-amd64$",
    },
];

/// What the tests in the machine need; what these need in turn is found.
const MODULES: [&str; 14] = [
    "veth",
    "bridge",
    "sch_ingress",
    "cls_bpf",
    "cls_u32",
    "sctp",
    "tcp_diag",
    "udp_diag",
    "nft_compat",
    "nft_chain_nat",
    "xt_tcpudp",
    "xt_REDIRECT",
    "ipt_REJECT",
    "ip6t_REJECT",
];

/// Says which package a folder was made of, and for which modules.
const MADE_OF: &str = "made-of";

fn folder(workspace: &Workspace, kernel: &Kernel) -> PathBuf {
    workspace.target().join("vm").join(kernel.name)
}

/// The package of a complete folder.
fn present(folder: &Path) -> Option<String> {
    let text = std::fs::read_to_string(folder.join(MADE_OF)).ok()?;
    let (package, modules) = text.split_once('\n')?;
    (modules == MODULES.join(" ") && folder.join("vmlinuz").is_file()).then(|| package.to_owned())
}

/// The emulator and each kernel.
pub(super) fn items(workspace: &Workspace) -> Vec<Item> {
    if !cfg!(target_arch = "x86_64") {
        let remedy = "run the tests on x86_64 too";
        return vec![Item::missing("virtual machines", WITHOUT, remedy)];
    }
    let mut items = vec![match find_program(QEMU) {
        Some(path) => Item::present(QEMU, path.display().to_string()),
        None => Item::missing(QEMU, WITHOUT, debian::by_hand(&[QEMU_PACKAGE.to_owned()])),
    }];
    items.extend(KERNELS.iter().map(|kernel| {
        let name = format!("Linux {} for a machine", kernel.name);
        match present(&folder(workspace, kernel)) {
            Some(package) => Item::present(name, package),
            None => Item::missing(
                name,
                WITHOUT,
                "`cargo xtask setup` downloads it, where apt knows Debian's packages",
            ),
        }
    }));
    items
}

/// The package of the emulator, if it is missing.
pub(super) fn missing_packages() -> Vec<String> {
    let wanted = cfg!(target_arch = "x86_64") && find_program(QEMU).is_none();
    wanted
        .then(|| QEMU_PACKAGE.to_owned())
        .into_iter()
        .collect()
}

/// Downloads and unpacks what is not there.
pub(super) fn fetch(workspace: &Workspace, need: Need) -> Result<()> {
    if need < Need::Test || !cfg!(target_arch = "x86_64") {
        return Ok(());
    }
    for kernel in &KERNELS {
        let folder = folder(workspace, kernel);
        if present(&folder).is_none() {
            make(workspace, kernel, &folder)
                .with_context(|| format!("fetch Linux {} for a machine", kernel.name))?;
        }
    }
    Ok(())
}

fn make(workspace: &Workspace, kernel: &Kernel, folder: &Path) -> Result<()> {
    let work = folder.with_extension("partial");
    if work.exists() {
        std::fs::remove_dir_all(&work).with_context(|| format!("remove {}", work.display()))?;
    }
    let (unpacked, done) = (work.join("unpacked"), work.join("done"));
    let modules = done.join("modules");
    for path in [&unpacked, &modules] {
        std::fs::create_dir_all(path).with_context(|| format!("make {}", path.display()))?;
    }
    let package = debian::newest(workspace, kernel.pattern)?;
    let file = debian::download(workspace, &package, &work)?;
    capture(Command::new("dpkg-deb").arg("-x").arg(&file).arg(&unpacked))?;
    let files = files(&unpacked)?;
    let image = files
        .iter()
        .find(|path| name_of(path).starts_with("vmlinuz-"))
        .context("the package holds no vmlinuz")?;
    std::fs::copy(image, done.join("vmlinuz")).context("copy vmlinuz")?;
    let available = Modules::of(&files)?;
    for (number, name) in available.in_order(&MODULES)?.iter().enumerate() {
        let to = modules.join(format!("{number:03}-{name}.ko"));
        std::fs::write(&to, available.content(name)?)
            .with_context(|| format!("write {}", to.display()))?;
    }
    let made_of = format!("{package}\n{}", MODULES.join(" "));
    std::fs::write(done.join(MADE_OF), made_of).context("write down what was unpacked")?;
    // Whole or not at all.
    if folder.exists() {
        std::fs::remove_dir_all(folder).with_context(|| format!("remove {}", folder.display()))?;
    }
    std::fs::rename(&done, folder).with_context(|| format!("rename to {}", folder.display()))?;
    std::fs::remove_dir_all(&work).with_context(|| format!("remove {}", work.display()))?;
    say(format_args!("    {package} is in {}", folder.display()));
    Ok(())
}

/// Every file below a folder.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries =
            std::fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))?;
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else {
                files.push(entry.path());
            }
        }
    }
    Ok(files)
}

fn name_of(path: &Path) -> String {
    path.file_name()
        .unwrap_or(OsStr::new(""))
        .to_string_lossy()
        .into_owned()
}

/// The modules of a kernel, by name, with `_` for `-`.
struct Modules {
    files: BTreeMap<String, PathBuf>,
    /// Part of the kernel itself.
    built_in: Vec<String>,
}

fn module_name(file: &str) -> Option<String> {
    let (name, rest) = file.split_once(".ko")?;
    matches!(rest, "" | ".xz").then(|| name.replace('-', "_"))
}

impl Modules {
    fn of(files: &[PathBuf]) -> Result<Self> {
        let mut this = Self {
            files: BTreeMap::new(),
            built_in: Vec::new(),
        };
        for path in files {
            let name = name_of(path);
            if let Some(module) = module_name(&name) {
                this.files.insert(module, path.clone());
            } else if name == "modules.builtin" {
                let text = std::fs::read_to_string(path).context("read modules.builtin")?;
                this.built_in.extend(
                    text.lines()
                        .filter_map(|line| module_name(&name_of(Path::new(line)))),
                );
            }
        }
        Ok(this)
    }

    fn content(&self, name: &str) -> Result<Vec<u8>> {
        let path = self
            .files
            .get(name)
            .with_context(|| format!("the kernel has no module {name}"))?;
        if path.extension() != Some(OsStr::new("xz")) {
            return std::fs::read(path).with_context(|| format!("read {}", path.display()));
        }
        let output = Command::new("xz")
            .arg("-dc")
            .arg(path)
            .output()
            .context("start xz (Debian: xz-utils)")?;
        ensure!(output.status.success(), "xz -dc {}", path.display());
        Ok(output.stdout)
    }

    /// These and what they need, each after what it needs itself.
    fn in_order(&self, wanted: &[&str]) -> Result<Vec<String>> {
        let mut order = Vec::new();
        for name in wanted {
            self.visit(name, &mut order, 0)?;
        }
        Ok(order)
    }

    fn visit(&self, name: &str, order: &mut Vec<String>, depth: u32) -> Result<()> {
        let name = name.replace('-', "_");
        if order.contains(&name) || self.built_in.contains(&name) {
            return Ok(());
        }
        ensure!(
            depth < 32,
            "the modules need each other in a circle: {name}"
        );
        for needed in needs(&self.content(&name)?) {
            self.visit(&needed, order, depth + 1)?;
        }
        order.push(name);
        Ok(())
    }
}

/// The modules that a module names in its `.modinfo`.
fn needs(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let value = module.get(at + KEY.len()..).unwrap_or_default();
    let value = value.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(value)
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn modules_come_after_what_they_need() {
        let folder = tempfile::tempdir().unwrap();
        for (name, depends) in [("a", "b-c,d"), ("b-c", "d"), ("d", "e"), ("x", "")] {
            let content = format!("ELF\0license=GPL\0depends={depends}\0name={name}\0");
            std::fs::write(folder.path().join(format!("{name}.ko")), content).unwrap();
        }
        std::fs::write(folder.path().join("modules.builtin"), "kernel/lib/e.ko\n").unwrap();
        let modules = Modules::of(&files(folder.path()).unwrap()).unwrap();
        assert_eq!(modules.in_order(&["a", "d"]).unwrap(), ["d", "b_c", "a"]);
        let error = modules.in_order(&["y"]).unwrap_err().to_string();
        assert!(error.contains("no module y"), "{error}");
    }

    #[test]
    fn a_folder_for_other_modules_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let write =
            |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("vmlinuz", "");
        assert_eq!(present(folder.path()), None);
        write(MADE_OF, "linux-image-1\nveth");
        assert_eq!(present(folder.path()), None);
        write(MADE_OF, &format!("linux-image-1\n{}", MODULES.join(" ")));
        assert_eq!(present(folder.path()).as_deref(), Some("linux-image-1"));
    }
}
