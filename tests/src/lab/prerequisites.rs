//! What a machine must have for a lab, and what is missing of it.

use std::path::Path;

use super::process;

/// What the lab starts, and the package that holds it.
const PROGRAMS: [(&str, &str); 7] = [
    ("ip", "iproute2"),
    ("bridge", "iproute2"),
    ("tc", "iproute2"),
    ("iptables-restore", "iptables"),
    ("ip6tables-restore", "iptables"),
    ("ipset", "ipset"),
    ("nft", "nftables"),
];

/// Why no lab can be made here, in words; empty if one can.
pub fn missing_for_network() -> Vec<String> {
    let mut missing = Vec::new();
    if !nix::unistd::geteuid().is_root() {
        missing.push("root (network namespaces, BPF): run it with sudo".to_owned());
    }
    for (program, package) in PROGRAMS {
        if !on_path(program) {
            missing.push(format!("the program {program}: install {package}"));
        }
    }
    if !Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables").exists() {
        missing.push("bridge netfilter: `modprobe br_netfilter`".to_owned());
    }
    missing
}

/// Why the programs cannot be run in a lab here; empty if they can.
pub fn missing_for_agents() -> Vec<String> {
    let mut missing = missing_for_network();
    if polproof_agent::observe::bpf_object().is_empty() {
        missing.push(
            "the BPF object was not built into polproof-agent: `cargo xtask build`".to_owned(),
        );
    }
    let absent: Vec<&str> = ["polproof-agent", "polproof-collector", "polproof"]
        .into_iter()
        .filter(|name| process::binary(name).is_err())
        .collect();
    if !absent.is_empty() {
        missing.push(format!(
            "{}, which belong beside this executable: `cargo xtask build` makes them",
            absent.join(", ")
        ));
    }
    missing
}

fn on_path(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}
