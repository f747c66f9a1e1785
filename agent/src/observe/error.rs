//! What can go wrong between the agent and the kernel, and what to do about it.

use std::io;
use std::path::PathBuf;

use aya::EbpfError;
use aya::maps::MapError;
use aya::pin::PinError;
use aya::programs::ProgramError;

use super::capabilities::KernelLacks;

/// An observation that could not be started or asked.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// The agent was compiled without the programs.
    #[error(
        "this agent was built without its BPF programs: run `cargo xtask build` (which makes \
         target/bpf/bpfel-unknown-none/bpf/polproof-bpf) and build the agent again"
    )]
    NoObject,
    /// The pin directory is not on a BPF file system.
    #[error("{} is not on a BPF file system: mount one (`mount -t bpf bpf /sys/fs/bpf`) or name another --bpf-dir", .0.display())]
    NotBpffs(PathBuf),
    /// Another agent holds the pins.
    #[error("another polproof-agent uses {}: stop it, or give this one its own --bpf-dir", .0.display())]
    InUse(PathBuf),
    /// A file operation.
    #[error("cannot {what} {}: {source}", path.display())]
    File {
        /// Which operation.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel's type information.
    #[error(
        "cannot find the kernel's field offsets in /sys/kernel/btf/vmlinux: {0}; a kernel with CONFIG_DEBUG_INFO_BTF \
         is needed"
    )]
    Btf(String),
    /// The kernel refused the object.
    #[error(
        "the kernel refused the BPF programs or maps (the capabilities BPF, PERFMON, NET_ADMIN and SYS_ADMIN are \
         needed): {}", chain(.0)
    )]
    Load(#[from] EbpfError),
    /// The kernel lacks something without which nothing can be observed.
    #[error("Linux {kernel} has {lack}")]
    Unsupported {
        /// Its release.
        kernel: String,
        /// What it lacks.
        lack: KernelLacks,
    },
    /// The kernel refused a program or its attachment.
    #[error("the kernel refused a BPF program: {}", chain(.0))]
    Program(#[from] ProgramError),
    /// A map could not be used.
    #[error("a BPF map could not be used: {}", chain(.0))]
    Map(#[from] MapError),
    /// A pin could not be made.
    #[error("cannot pin {}: {source}", path.display())]
    Pin {
        /// Where.
        path: PathBuf,
        /// Why.
        source: PinError,
    },
    /// The object lacks something that the agent needs.
    #[error(
        "the BPF object has no {0}: it was built from another version, run `cargo xtask build`"
    )]
    Missing(&'static str),
    /// The namespace could not be entered.
    #[error("cannot enter the network namespace {}: {source}", path.display())]
    Enter {
        /// Its file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The pod's interface is not there (yet).
    #[error("the network namespace {} has no interface {interface} (yet)", path.display())]
    NoInterface {
        /// The namespace's file.
        path: PathBuf,
        /// Which interface.
        interface: String,
    },
    /// The file is bound to the node's own namespace.
    #[error("it is the node's own network namespace, not a pod's")]
    OwnNamespace,
    /// A system call inside the namespace.
    #[error("cannot {what} in a network namespace: {source}")]
    Inside {
        /// Which operation.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl ObserveError {
    /// Whether the namespace's file or the pod's interface is not there.
    pub fn says_gone(&self) -> bool {
        match self {
            Self::NoInterface { .. } => true,
            Self::Enter { source, .. } => source.kind() == io::ErrorKind::NotFound,
            _ => false,
        }
    }
}

/// The error and its sources in one line: aya keeps the verifier's words in the last one.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        source = inner.source();
    }
    text
}
