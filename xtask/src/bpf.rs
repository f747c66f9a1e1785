//! The BPF object: which compiler can make it, and making it.
//!
//! Rust has no prebuilt `core` for `bpfel-unknown-none` on rustup. Two ways lead to one: a
//! distribution's rustc that ships it (Debian's `libstd-rust-web-dev-bpf`), or any rustc with `rust-src`, which builds it.
//! The linker, bpf-linker, reads the bitcode of rustc, so its LLVM must be of rustc's major version.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process::{capture, run};
use crate::workspace::{Workspace, cargo_bin, find_program, home};

/// The target triple.
const TARGET: &str = "bpfel-unknown-none";

/// A rustc that can compile for BPF.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Compiler {
    /// The program.
    pub(crate) rustc: PathBuf,
    /// Its release, as it says itself.
    pub(crate) release: String,
    /// The major version of its LLVM.
    pub(crate) llvm: u32,
    /// Whether `core` has to be built (`-Z build-std=core`).
    pub(crate) build_core: bool,
}

impl Compiler {
    /// One line about it.
    pub(crate) fn describe(&self) -> String {
        let core = if self.build_core {
            "builds core from rust-src"
        } else {
            "prebuilt core for BPF"
        };
        format!(
            "{} {} (LLVM {}), {core}",
            self.rustc.display(),
            self.release,
            self.llvm
        )
    }
}

/// The installed bpf-linker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Linker {
    /// The program.
    pub(crate) path: PathBuf,
    /// The major version of the LLVM that it is linked with, if that can be told.
    pub(crate) llvm: Option<u32>,
}

impl Linker {
    /// Finds it in PATH or in cargo's folder.
    pub(crate) fn find() -> Option<Self> {
        let path = find_program("bpf-linker")?;
        // Asked to run at all: a linker whose libLLVM is gone is no linker.
        capture(Command::new(&path).arg("--version")).ok()?;
        let llvm = capture(Command::new("ldd").arg(&path))
            .ok()
            .and_then(|text| linked_llvm(&text));
        Some(Self { path, llvm })
    }

    /// Whether it reads what this LLVM major writes. One that cannot be told is given its chance: it says
    /// so itself when it cannot.
    pub(crate) fn reads(&self, llvm: u32) -> bool {
        self.llvm.is_none_or(|own| own == llvm)
    }
}

/// The LLVM major in the output of `ldd`.
fn linked_llvm(ldd: &str) -> Option<u32> {
    let (_, rest) = ldd
        .split_once("libLLVM.so.")
        .or_else(|| ldd.split_once("libLLVM-"))?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// The best compiler here: the first with a prebuilt `core`, else the first with rust-src.
pub(crate) fn find_compiler() -> Option<Compiler> {
    let found: Vec<Compiler> = candidates().iter().filter_map(|path| probe(path)).collect();
    choose(found)
}

fn choose(found: Vec<Compiler>) -> Option<Compiler> {
    let mut found = found;
    // Stable: among equals the order of the candidates decides.
    found.sort_by_key(|compiler| compiler.build_core);
    found.into_iter().next()
}

fn candidates() -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = Vec::new();
    if let Some(named) = std::env::var_os("POLPROOF_BPF_RUSTC") {
        all.push(named.into());
    }
    all.push("/usr/bin/rustc".into());
    let toolchains = std::env::var_os("RUSTUP_HOME")
        .map_or_else(|| home().join(".rustup"), PathBuf::from)
        .join("toolchains");
    let mut installed: Vec<PathBuf> = std::fs::read_dir(toolchains)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("bin/rustc"))
        .collect();
    installed.sort();
    all.extend(installed);
    all.extend(find_program("rustc"));
    all.retain(|path| path.is_file());
    all
}

fn probe(rustc: &Path) -> Option<Compiler> {
    let version = capture(Command::new(rustc).arg("-vV")).ok()?;
    let (release, llvm) = versions(&version)?;
    let sysroot = capture(Command::new(rustc).args(["--print", "sysroot"])).ok()?;
    let rustlib = Path::new(sysroot.trim()).join("lib/rustlib");
    let build_core = if has_core(&rustlib.join(TARGET).join("lib")) {
        false
    } else if rustlib.join("src/rust/library/core/Cargo.toml").is_file() {
        true
    } else {
        return None;
    };
    Some(Compiler {
        rustc: rustc.to_owned(),
        release,
        llvm,
        build_core,
    })
}

fn has_core(folder: &Path) -> bool {
    std::fs::read_dir(folder).is_ok_and(|entries| {
        entries
            .flatten()
            .any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
    })
}

/// Release and LLVM major in the output of `rustc -vV`.
fn versions(text: &str) -> Option<(String, u32)> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    let release = field("release: ")?.trim().to_owned();
    let llvm = field("LLVM version: ")?
        .trim()
        .split('.')
        .next()?
        .parse()
        .ok()?;
    Some((release, llvm))
}

/// Where the object lies once built; agent/build.rs embeds it from there.
pub(crate) fn object(workspace: &Workspace) -> PathBuf {
    workspace
        .root()
        .join("target/bpf")
        .join(TARGET)
        .join("bpf/polproof-bpf")
}

/// Builds the object.
pub(crate) fn build(workspace: &Workspace, compiler: &Compiler, linker: &Linker) -> Result<()> {
    let mut command = workspace.cargo();
    command
        .args([
            "build",
            "--package",
            "polproof-agent-ebpf",
            "--profile",
            "bpf",
        ])
        .args(["--target", TARGET, "--target-dir", "target/bpf", "--locked"]);
    if compiler.build_core {
        command.args(["-Z", "build-std=core"]);
    }
    // The unit separator parts the flags, so that a path with spaces stays one of them.
    let flags = [
        "-Cdebuginfo=2".to_owned(),
        format!("-Clinker={}", linker.path.display()),
        "-Clink-arg=--btf".to_owned(),
    ]
    .join("\u{1f}");
    command
        .env("RUSTC", &compiler.rustc)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags)
        .env_remove("RUSTFLAGS")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER");
    run(
        &format!("BPF object with {}", compiler.describe()),
        &mut command,
    )?;
    let object = object(workspace);
    let size = std::fs::metadata(&object)
        .with_context(|| format!("cargo succeeded, yet {} is not there", object.display()))?
        .len();
    anyhow::ensure!(size > 0, "{} is empty", object.display());
    Ok(())
}

/// What to do where there is no compiler or no linker.
pub(crate) fn remedy() -> String {
    format!(
        "install a rustc with a prebuilt core for {TARGET} (Debian 12 and later: rustc-web and \
         libstd-rust-web-dev-bpf), or one with rust-src (rustup toolchain install nightly --component rust-src); and \
         bpf-linker for the same LLVM (LLVM_PREFIX=/usr/lib/llvm-N cargo install bpf-linker --version \
         0.13.0 --no-default-features --features llvm-N) in {}",
        cargo_bin().display()
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn compiler(rustc: &str, build_core: bool) -> Compiler {
        Compiler {
            rustc: rustc.into(),
            release: "1.96.0".into(),
            llvm: 22,
            build_core,
        }
    }

    #[test]
    fn a_prebuilt_core_wins_and_then_the_order() {
        let found = vec![
            compiler("nightly", true),
            compiler("distribution", false),
            compiler("other", false),
        ];
        assert_eq!(choose(found).unwrap(), compiler("distribution", false));
        assert_eq!(
            choose(vec![compiler("nightly", true)]).unwrap(),
            compiler("nightly", true)
        );
        assert_eq!(choose(Vec::new()), None);
    }

    #[test]
    fn the_llvm_of_rustc_and_of_the_linker_are_read() {
        let text =
            "rustc 1.96.0 (ac68faa20)\nbinary: rustc\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
        assert_eq!(versions(text), Some(("1.96.0".to_owned(), 22)));
        assert_eq!(versions("rustc 1.96.0"), None);
        let ldd =
            "\tlibLLVM.so.22.1 => /usr/lib/llvm-22/lib/libLLVM.so.22.1 (0x00007efd23c00000)\n";
        assert_eq!(linked_llvm(ldd), Some(22));
        assert_eq!(
            linked_llvm("\tlibLLVM-17.so.1 => /lib/libLLVM-17.so.1"),
            Some(17)
        );
        assert_eq!(linked_llvm("\tlibc.so.6 => /lib/libc.so.6"), None);
    }

    #[test]
    fn a_linker_of_another_llvm_does_not_fit() {
        let linker = |llvm| Linker {
            path: "bpf-linker".into(),
            llvm,
        };
        assert!(linker(Some(22)).reads(22));
        assert!(!linker(Some(21)).reads(22));
        assert!(linker(None).reads(22));
    }
}
