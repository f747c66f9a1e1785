//! What the kernel must offer: its version, BTF, and the file systems that BPF programs are pinned and traced in.

use std::path::Path;

use anyhow::Result;

use super::{Item, Need};
use crate::process::{capture, say};
use crate::workspace::{Workspace, is_root};

/// The first kernel with a BPF ring buffer.
const RING_BUFFER: (u32, u32) = (5, 8);

/// A file system that must be mounted.
struct Mount {
    kind: &'static str,
    point: &'static str,
    without: &'static str,
}

const MOUNTS: [Mount; 2] = [
    Mount {
        kind: "bpf",
        point: "/sys/fs/bpf",
        without: "agents cannot pin their programs",
    },
    Mount {
        kind: "tracefs",
        point: "/sys/kernel/tracing",
        without: "tracepoints cannot be found by name",
    },
];

/// There when a bridge hands its packets to iptables.
const BRIDGE_FILTER: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";

/// The running kernel's release.
pub(super) fn release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

/// Everything about the kernel.
pub(super) fn items() -> Vec<Item> {
    let mut items = vec![kernel_item(&release()), btf_item(), root_item()];
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for mount in &MOUNTS {
        let name = format!("{} on {}", mount.kind, mount.point);
        items.push(if is_mounted(&mounts, mount) {
            Item::present(name, "mounted")
        } else {
            let remedy = format!("as root: mount -t {0} {0} {1}", mount.kind, mount.point);
            Item::missing(name, mount.without, remedy)
        });
    }
    items.push(if Path::new(BRIDGE_FILTER).exists() {
        Item::present("br_netfilter", "loaded")
    } else {
        let without = "the lab's enforcer does not see packets between pods of one node";
        Item::missing("br_netfilter", without, "as root: modprobe br_netfilter")
    });
    items
}

fn kernel_item(release: &str) -> Item {
    let name = "kernel 5.8 or later";
    if version(release).is_some_and(|version| version >= RING_BUFFER) {
        return Item::present(name, release);
    }
    Item::missing(
        name,
        format!("Linux {release} has no BPF ring buffer: agents cannot observe"),
        "run this on a machine with a newer Linux, best 6.6 or later, which has tcx",
    )
}

fn btf_item() -> Item {
    let file = "/sys/kernel/btf/vmlinux";
    if Path::new(file).is_file() {
        return Item::present("BTF of the kernel", file);
    }
    Item::missing(
        "BTF of the kernel",
        "BPF programs cannot read the kernel's structures",
        "run a kernel built with CONFIG_DEBUG_INFO_BTF (every large distribution's is)",
    )
}

fn root_item() -> Item {
    if is_root() {
        return Item::present("root", "yes");
    }
    Item::missing(
        "root",
        "the demo and the tests that load BPF programs and make namespaces are not run",
        "run the same command as root",
    )
}

/// Major and minor of a release such as `6.18.44-cloud`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn is_mounted(mounts: &str, mount: &Mount) -> bool {
    mounts.lines().any(|line| {
        let mut words = line.split_whitespace().skip(1);
        words.next() == Some(mount.point) && words.next() == Some(mount.kind)
    })
}

/// Mounts what is not mounted, and loads what is not loaded.
pub(super) fn prepare(workspace: &Workspace, need: Need) -> Result<()> {
    if need < Need::Demo || !is_root() {
        return Ok(());
    }
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    for mount in MOUNTS.iter().filter(|mount| !is_mounted(&mounts, mount)) {
        let mut command = workspace.command("mount");
        command.args(["-t", mount.kind, mount.kind, mount.point]);
        capture(&mut command)?;
        say(format_args!(
            "    mounted {} on {}",
            mount.kind, mount.point
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_before_the_ring_buffer_are_named_as_missing() {
        assert!(kernel_item("5.4.0-38-generic").is_missing());
        assert!(kernel_item("rubbish").is_missing());
        assert!(!kernel_item("6.1.0-38-cloud-amd64").is_missing());
        assert!(!kernel_item("6.6.0").is_missing());
        assert!(!kernel_item("6.18.44-x").is_missing());
        assert!(!kernel_item("7.0").is_missing());
    }

    #[test]
    fn a_mount_counts_by_point_and_kind() {
        let [bpf, _] = &MOUNTS;
        assert!(is_mounted("none /sys/fs/bpf bpf rw 0 0\n", bpf));
        assert!(!is_mounted("bpf /sys/fs/bpf/other bpf rw 0 0\n", bpf));
        assert!(!is_mounted("none /sys/fs/bpf tmpfs rw 0 0\n", bpf));
    }
}
