//! Whether the process may do what the agent does; asked at the start, so that the answer names what is missing.

use anyhow::{Context, bail};

/// Capability bits of include/uapi/linux/capability.h.
const NET_ADMIN: (u32, &str) = (12, "CAP_NET_ADMIN (attach to the pods' eth0)");
const SYS_PTRACE: (u32, &str) = (19, "CAP_SYS_PTRACE");
const SYS_ADMIN: (u32, &str) = (21, "CAP_SYS_ADMIN (enter the pods' network namespaces)");
const PERFMON: (u32, &str) = (38, "CAP_PERFMON (load tracing-capable BPF programs)");
const BPF: (u32, &str) = (39, "CAP_BPF (load BPF programs)");

/// Refuses with the names of what is missing.
///
/// # Errors
/// A capability is missing.
pub(crate) fn check() -> anyhow::Result<()> {
    let status = std::fs::read_to_string("/proc/self/status")
        .context("cannot read /proc/self/status to check the capabilities")?;
    let effective = effective(&status).context("/proc/self/status has no CapEff line")?;
    let missing = missing(effective);
    if !missing.is_empty() {
        bail!(
            "missing capabilities: {}. Run as root, or grant them (securityContext.capabilities.add in the DaemonSet)",
            missing.join(", ")
        );
    }
    if !has(effective, SYS_PTRACE.0) {
        tracing::warn!(
            "without {} namespaces are matched to pods by addresses alone, which is later and sometimes impossible",
            SYS_PTRACE.1
        );
    }
    Ok(())
}

fn effective(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn has(effective: u64, bit: u32) -> bool {
    effective & (1 << bit) != 0
}

fn missing(effective: u64) -> Vec<&'static str> {
    [BPF, PERFMON, NET_ADMIN, SYS_ADMIN]
        .into_iter()
        // The kernel lets CAP_SYS_ADMIN stand for the two that were split from it.
        .filter(|(bit, _)| {
            let implied = [BPF.0, PERFMON.0].contains(bit) && has(effective, SYS_ADMIN.0);
            !has(effective, *bit) && !implied
        })
        .map(|(_, name)| name)
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_missing_ones_are_named() {
        let status = "Name:\tx\nCapEff:\t0000000000001000\n";
        let found = missing(effective(status).unwrap());
        assert_eq!(found, [BPF.1, PERFMON.1, SYS_ADMIN.1]);
        assert_eq!(
            missing(effective("CapEff:\t000001ffffffffff\n").unwrap()),
            [""; 0]
        );
        assert_eq!(missing(1 << 21 | 1 << 12), [""; 0]);
        assert_eq!(effective("Name: x\n"), None);
    }
}
