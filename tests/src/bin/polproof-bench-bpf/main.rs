//! What the BPF programs and the agent cost, as JSON lines `{"name", "value", "unit"}`. Needs root and the BPF object.
//!
//! ```text
//! packets --> run time of the programs, by the kernel's own statistics
//! ratios  --> processor time of an operation with the programs over that without --+--> load (the operations)
//! agent   --> processor time and memory of a real agent in a lab                 --+
//! ```
//!
//! Rounds are interleaved (nothing, ours, nothing, ...), so that a machine that grows slower meanwhile slows all of them
//! alike; the median of the rounds is printed. Each comparison has a control, which compares nothing with nothing.

mod agent;
mod load;
mod packets;
mod ratios;
mod wire;

use anyhow::{Result, ensure};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

/// How much is done.
#[derive(Clone, Copy, Debug)]
struct Effort {
    rounds: usize,
    messages: usize,
    connections: usize,
    seconds: u64,
}

const FULL: Effort = Effort {
    rounds: 31,
    messages: 40_000,
    connections: 4_000,
    seconds: 20,
};
const QUICK: Effort = Effort {
    rounds: 5,
    messages: 5_000,
    connections: 500,
    seconds: 3,
};

fn main() -> Result<()> {
    let mut effort = FULL;
    let mut only = Vec::new();
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--quick" => effort = QUICK,
            "packets" | "ratios" | "agent" => only.push(argument),
            _ => anyhow::bail!("{argument}: known are --quick, packets, ratios and agent"),
        }
    }
    ensure!(
        nix::unistd::geteuid().is_root(),
        "BPF programs can be loaded by root only"
    );
    if statfs("/sys/fs/bpf")?.filesystem_type() != BPF_FS_MAGIC {
        mount(
            Some("bpf"),
            "/sys/fs/bpf",
            Some("bpf"),
            MsFlags::empty(),
            None::<&str>,
        )?;
    }
    let wanted = |part: &str| only.is_empty() || only.iter().any(|one| one == part);
    if wanted("packets") {
        packets::measure(effort)?;
    }
    if wanted("ratios") {
        ratios::measure(effort)?;
    }
    if wanted("agent") {
        agent::measure(effort)?;
    }
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn print(name: &str, value: f64, unit: &str) {
    println!(
        "{}",
        serde_json::json!({"name": name, "value": (value * 1000.0).round() / 1000.0, "unit": unit})
    );
}
